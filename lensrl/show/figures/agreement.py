"""The agreement of studies on their profiles, as a heat map."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from lensrl.judge.agreement import StudyAgreement
from lensrl.show.figures.style import INK, MUTED, entitle, font_size, is_narrow, room, signed
from lensrl.show.words import Look

NAMES = 22  # characters a line
LETTERS = 15  # of an interval


def draw_agreement(axes: Axes, found: StudyAgreement, *, title: str = "", look: Look | None = None) -> Axes:
    """Draw Spearman's coefficient of every pair of studies, with its interval, as a heat map from -1 to 1.

    The diagonal shows the reliability of each study. A cross marks an undefined pair.
    """
    # a square of cells
    names = found.studies["study"].tolist()
    n = len(names)
    values = found.matrix().to_numpy()
    colours = ListedColormap(colormaps["RdBu"](np.linspace(0.1, 0.9, 41)))  # the darkest ends would hide the numbers
    narrow = is_narrow(axes)
    cell = (0.6 if narrow else 1) * room(axes, n) / (0.5 * 0.833 * font_size(axes))  # letters beside each other
    image = axes.imshow(values, cmap=colours, vmin=-1, vmax=1)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)

    # numbers in the cells: pairs off the diagonal, reliabilities on it
    at = {name: i for i, name in enumerate(names)}
    for pair in found.pairs.to_dict("records"):
        i, j = at[pair["first"]], at[pair["second"]]
        for row, column in ((i, j), (j, i)):
            _cell(axes, row, column, pair, whole=cell >= LETTERS)
    for i, study in enumerate(found.studies.to_dict("records")):
        text = "no\nprofile" if study["reason"] else "table"
        if not np.isnan(study["reliability"]):
            text = f"reliability\n{signed(study['reliability'])}" if cell >= LETTERS else signed(study["reliability"])
        axes.text(i, i, text, ha="center", va="center", fontsize="small", color=MUTED)

    # names on both sides, and the colour bar; in a narrow figure, names at the left, and numbers for them below
    if narrow:
        axes.set_yticks(range(n), [textwrap.fill(f"{i + 1} {name}", NAMES // 2) for i, name in enumerate(names)])
        axes.set_xticks(range(n), [str(i + 1) for i in range(n)])
    else:
        labels = [textwrap.fill(name, NAMES, break_on_hyphens=True) for name in names]
        axes.set_yticks(range(n), labels)
        axes.set_xticks(range(n), labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.figure.colorbar(image, ax=axes, label="Spearman's coefficient", shrink=0.8, aspect=30)
    defined = int((found.pairs["status"] == "defined").sum())
    said = f"Rank correlations of the profiles of {n} studies; {defined} of {len(found.pairs)} pairs are defined."
    return entitle(axes, title, said, look)


def _cell(axes: Axes, row: int, column: int, pair: Mapping[Any, Any], *, whole: bool) -> None:
    """Write a pair's coefficient and, where there is room (`whole`), its interval into its cell; or a cross."""
    if pair["status"] != "defined":
        axes.text(column, row, "×", ha="center", va="center", color=MUTED)
        return
    dark = abs(pair["spearman"]) > 0.65
    ends = pair["spearman_low"], pair["spearman_high"]
    interval = "" if np.isnan(ends[0]) or not whole else f"\n[{signed(ends[0])}, {signed(ends[1])}]"
    axes.text(column, row, f"{signed(pair['spearman'])}{interval}", ha="center", va="center", fontsize="small",
              color="white" if dark else INK)  # fmt: skip

"""Shared parts of the figures: colours, type, panels over layers, and saving as a file or an SVG element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from lensrl.show.words import figure_format
from lensrl.store.file.atomic import new_file

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
BLUE, ORANGE, GREEN, RED = "#2f5fb3", "#d97b29", "#3c8f6b", "#b8433f"
LISTED = 12  # with more layers than this, names and numbers give way to a colour scale
_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lensrl",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def svg(figure: Figure) -> str:
    """Return the figure as an <svg> element."""
    text = StringIO()
    with house_style():
        figure.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Save the figure atomically, in the format of the suffix (png, svg, pdf)."""
    path = Path(path)
    suffix = figure_format(path)
    with house_style(), new_file(path) as partial:
        figure.savefig(partial, format=suffix, dpi=160)


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the project's matplotlib settings within a `with` block."""
    with matplotlib.rc_context(_STYLE):
        yield


def layer_axes(layers: Iterable[int], panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels over the same layers, stacked, wide enough to keep the layers apart."""
    first, last = min(layers, default=0), max(layers, default=0)
    count = last - first + 1
    figure = Figure(
        figsize=(min(max(7.2, 0.28 * count), 12), 3.4 if panels == 1 else 3.0 * panels), layout="constrained"
    )
    drawn: list[Axes] = []
    for panel in range(panels):
        axes = figure.add_subplot(panels, 1, panel + 1)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xticks(range(first, last + 1, 1 if count <= 20 else 2 if count <= 48 else 4))
        axes.set_xlim(first - 0.6, last + 0.6)
        drawn.append(axes)
    drawn[-1].set_xlabel("layer")
    return figure, drawn


def zero_and_one(axes: Axes) -> None:
    """Draw lines at 0 (none of the change) and at 1 (the whole change)."""
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))


def draw_points(axes: Axes, rows: pd.DataFrame, value: str, colour: str, *, offset: float = 0, **style: Any) -> None:
    """Draw a column at its layers, with the intervals `low` to `high`."""
    y = rows[value]
    axes.errorbar(
        rows["layer"] + offset, y, yerr=np.maximum([y - rows["low"], rows["high"] - y], 0), fmt="o", color=colour,
        markersize=4.5, capsize=2, linewidth=1.2, **style,
    )  # fmt: skip


def legend_above(axes: Axes) -> None:
    """Put the legend above the panel, at the right, where it hides no point."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=9, borderaxespad=0.2, handletextpad=0.4)


def depth_colours(layers: Iterable[int]) -> ScalarMappable:
    """Return a colour scale over layers, dark for shallow and light for deep layers."""
    known = list(layers) or [0]
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.05, 0.9, 256)))  # the lightest yellow is faint on white
    return ScalarMappable(Normalize(min(known), max(known)), colours)


def signed(value: float) -> str:
    """Format a number with two digits and a true minus sign."""
    return f"{value:.2f}".replace("-", "−")

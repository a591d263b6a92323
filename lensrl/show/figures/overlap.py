"""The overlap of solved items, run against run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from lensrl.recipe.runs import BASE
from lensrl.show.figures.style import entitle, font_size, heat_map, room
from lensrl.show.words import Look

DIGITS = 3.2  # widths of a letter that a number in a cell takes


def draw_overlaps(axes: Axes, table: pd.DataFrame, *, title: str = "", look: Look | None = None) -> Axes:
    """Draw the overlaps of runs (`lensrl.overlaps`) as a matrix of means over seeds.

    The diagonal is the baseline: two samples of one run.
    """
    names = [name for name in dict.fromkeys(table["run"]) if name != BASE]
    place = {name: number for number, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    shown = table[table["kind"].isin(["samples", "runs"]) & table["run"].isin(names) & table["other"].isin(names)]
    for (run, other), value in shown.groupby(["run", "other"])["overlap"].mean().items():  # pyright: ignore
        matrix[place[run], place[other]] = matrix[place[other], place[run]] = value
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.05, 1, 48)))
    known = matrix[np.isfinite(matrix)] if np.isfinite(matrix).any() else np.array([0.0, 1.0])
    low, high = (round(float(end), 1) for end in (known.min() - 0.05, known.max() + 0.05))
    cell, letter = room(axes, len(names)), font_size(axes)
    heat_map(axes, matrix, colours, "Jaccard overlap of solved items", vmin=low, vmax=high)
    step = int(np.ceil(1.3 * letter / cell))  # of the names, where a row is lower than a letter
    named = [0, *range(1 if step == 1 else 1 + step, len(names), step)]
    axes.set_xticks([place + 0.5 for place in named], [names[place] for place in named], rotation=90)
    axes.set_yticks([place + 0.5 for place in named], [names[place] for place in named])
    axes.set_aspect("equal")
    if cell >= DIGITS * letter:
        for row, column in np.argwhere(np.isfinite(matrix)):
            value = matrix[row, column]
            light = (value - low) / (high - low) > 0.6
            axes.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color="k" if light else "w")
    said = "Jaccard overlap of the items that two runs solve. The diagonal: two samples of one run."
    return entitle(axes, title, said, look)

"""The overlap of solved items, run against run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from lensrl.recipe.runs import BASE
from lensrl.show.figures.style import entitle, heat_map
from lensrl.show.words import Look

LISTED = 12  # runs up to which every cell has its number


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
    heat_map(axes, matrix, colours, "Jaccard overlap of solved items", vmin=0, vmax=1)
    places = np.arange(len(names)) + 0.5
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)
    axes.set_aspect("equal")
    if len(names) <= LISTED:
        for row, column in np.argwhere(np.isfinite(matrix)):
            value = matrix[row, column]
            axes.text(
                column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color="k" if value > 0.6 else "w"
            )
    said = "Jaccard overlap of the items that two runs solve. The diagonal: two samples of one run."
    return entitle(axes, title, said, look)

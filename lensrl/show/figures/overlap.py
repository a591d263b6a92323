"""The overlap of solved items, run against run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensrl.recipe.runs import BASE


def overlap_figure(table: pd.DataFrame, title: str) -> Figure:
    """Draw the overlaps of runs (`lensrl.overlaps`) as a matrix of means over seeds.

    The diagonal is the baseline: two samples of one run.
    """
    names = [name for name in dict.fromkeys(table["run"]) if name != BASE]
    place = {name: number for number, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    shown = table[table["kind"].isin(["samples", "runs"]) & table["run"].isin(names) & table["other"].isin(names)]
    for (run, other), value in shown.groupby(["run", "other"])["overlap"].mean().items():  # pyright: ignore
        matrix[place[run], place[other]] = matrix[place[other], place[run]] = value
    side = 2.2 + 0.38 * len(names)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0.0, vmax=1.0, cmap="viridis")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 12:
        for row, column in np.argwhere(np.isfinite(matrix)):
            value = matrix[row, column]
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="k" if value > 0.6 else "w")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="Jaccard overlap of solved items (diagonal: two samples of one run)")
    return figure

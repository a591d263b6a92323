"""Recoveries of patches, over layers, heads, or pairs of layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lensrl.show.figures.style import (
    BLUE,
    GRID,
    INK,
    MUTED,
    ORANGE,
    RED,
    draw_points,
    house_style,
    layer_axes,
    legend_above,
    zero_and_one,
)
from lensrl.show.words import METRIC_LABELS

COLOURS = {"score": RED, "reference_logprob": BLUE, "logit_difference": ORANGE}
PATCHED_UP_TO = {"bottom": "last of the layers 0 … l", "top": "first of the layers l … last"}


def recovery_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Draw recovery by layer beside C_l: a panel for weights, a panel for activations, a colour per metric."""
    with house_style():
        kinds = sorted(rows["what"].unique(), reverse=True)  # weights first: C_l is made of their scores
        figure, panels = layer_axes(rows["layer"], panels=len(kinds))
        low, high = _recovery_limits(rows)
        for axes, kind in zip(panels, kinds, strict=True):
            # the metrics of a layer stand side by side, C_l last
            zero_and_one(axes)
            part = rows[rows["what"] == kind]
            metrics = [metric for metric in METRIC_LABELS if (part["metric"] == metric).any()]
            offsets = np.linspace(-0.25, 0.25, len(metrics) + 1)
            for metric, offset in zip(metrics, offsets[:-1], strict=True):
                points = part[part["metric"] == metric]
                draw_points(axes, points, "recovery", COLOURS[metric], offset=offset, label=METRIC_LABELS[metric])
                for edge, mark in ((low, "v"), (high, "^")):  # an arrow at the edge marks a point off the scale
                    beyond = points[points["recovery"] < low if mark == "v" else points["recovery"] > high]
                    if len(beyond):
                        axes.plot(
                            beyond["layer"] + offset, [edge] * len(beyond), mark, color=COLOURS[metric], clip_on=False
                        )
            if rows["contribution"].notna().any():
                once = part.drop_duplicates("layer")
                axes.plot(
                    once["layer"] + offsets[-1], once["contribution"], "D", color=INK, markersize=4, label="$C_l$"
                )
            axes.set_ylim(low, high)
            axes.set_ylabel("recovery")
            axes.set_title(kind, fontsize=10, color=MUTED)
            legend_above(axes)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def patch_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Draw the rows of `patch`: recovery over depth, or a map for heads and for pairs of layers."""
    rows = rows[rows["sets"] != "everything"]  # 1 by construction
    sets = rows["sets"].iloc[0]
    if sets == "pairs":
        second = rows["layers"].str.split("[,-]", regex=True).str[1]
        return _recovery_map(rows, second, "layer", title)
    if rows["head"].notna().any():
        return _recovery_map(rows, rows["head"], "head", title)
    figure = recovery_figure(rows, title)
    if sets in PATCHED_UP_TO:
        figure.axes[-1].set_xlabel(PATCHED_UP_TO[sets])
    return figure


def _recovery_map(rows: pd.DataFrame, other: pd.Series, name: str, title: str) -> Figure:
    """Map the recovery of log p(reference), white at 0: a panel per kind, layers down, heads or layers across."""
    with house_style():
        rows = rows.assign(other=other.astype(int))[rows["metric"] == "reference_logprob"]
        kinds = sorted(rows["what"].unique(), reverse=True)

        # one colour scale for all panels
        figure = Figure(figsize=(4.2 * len(kinds) + 1.2, 4.2), layout="constrained")
        values = rows["recovery"].abs()
        span = min(max(values.max(), 0.1), 2.0) if values.notna().any() else 1.0
        shades = colormaps["RdBu"].resampled(
            41
        )  # odd: white in the middle; from 50 on, colour bars become bitmaps in SVG

        for i, kind in enumerate(kinds):
            axes = figure.add_subplot(1, len(kinds), i + 1)
            grid = rows[rows["what"] == kind].pivot(index="layer", columns="other", values="recovery")
            grid = grid.reindex(index=range(grid.index.min(), grid.index.max() + 1),
                                columns=range(grid.columns.min(), grid.columns.max() + 1))  # fmt: skip
            axes.set_facecolor(GRID)  # shows where nothing was patched, and undefined recoveries
            drawn = axes.pcolormesh(grid.columns, grid.index, grid.to_numpy(float), cmap=shades, vmin=-span, vmax=span)
            axes.invert_yaxis()
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            axes.set_xlabel(name)
            axes.set_ylabel("layer")
            axes.set_title(kind, fontsize=10, color=MUTED)
            if i == len(kinds) - 1:
                figure.colorbar(
                    drawn, ax=axes, label=f"recovery of {METRIC_LABELS['reference_logprob']}", extend="both"
                )
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _recovery_limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Return limits around all points and intervals, capped so that one wide interval does not flatten the rest."""
    values = rows[["low", "high", "contribution"]].to_numpy(float)
    values = np.append(values[np.isfinite(values)], [0, 1])
    return max(values.min(), -1.5) - 0.1, min(values.max(), 2.5) + 0.1

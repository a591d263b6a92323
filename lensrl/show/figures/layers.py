"""Measures of single layers over depth: contributions, weight deltas, CKA."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensrl.show.figures.style import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    RED,
    draw_points,
    house_style,
    layer_axes,
    legend_above,
    zero_and_one,
)


def contribution_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw C_l with its interval over depth; mark layers with a collapsed run and layers without a value."""
    with house_style():
        figure, (axes,) = layer_axes(table["layer"])
        zero_and_one(axes)

        # three kinds of mark: defined, collapsed, without a value
        shown, missing = table[table["contribution"].notna()], table[table["contribution"].isna()]
        collapsed = shown["status"] == "collapsed"
        draw_points(axes, shown[~collapsed], "contribution", BLUE)
        if collapsed.any():
            draw_points(axes, shown[collapsed], "contribution", RED, label="run collapsed", markerfacecolor="white")
        if len(missing):
            axes.plot(missing["layer"], np.zeros(len(missing)), "x", color=RED, label="no value", clip_on=False)
        if len(missing) or collapsed.any():
            legend_above(axes)

        # without any value, the reason stands in the empty panel
        if len(shown):
            axes.set_ylim(min(-0.05, shown["low"].min() - 0.05), max(1.1, shown["high"].max() + 0.05))
        else:
            axes.set_ylim(-0.05, 1.1)
            reason = textwrap.fill(f"{table['status'].iloc[0]}: {table['reason'].iloc[0]}", 70)
            axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=RED)
        axes.set_ylabel("layer contribution $C_l$")
        axes.set_title(title)
    return figure


def delta_figure(table: pd.DataFrame) -> Figure:
    """Draw the relative weight-delta norm of every layer in full RL, and in the run that trains this layer alone.

    Dotted lines show the norm that rounding alone would give, where runs were taken from rounded checkpoints.
    """
    with house_style():
        figure, (axes,) = layer_axes(table["layer"])
        axes.plot(table["layer"], table["relative_delta_full"], "o-", color=BLUE, label="in full RL")
        axes.plot(table["layer"], table["relative_delta_single"], "s-", color=ORANGE, label="trained alone")
        drawn = ["relative_delta_full", "relative_delta_single"]
        for kind, colour, run in (("full", BLUE, "full RL"), ("single", ORANGE, "alone")):
            rounding = f"relative_rounding_{kind}"
            if rounding in table:
                axes.plot(table["layer"], table[rounding], ":", color=colour, label=f"rounding alone, {run}")
                drawn.append(rounding)
        largest = np.nanmax(table[drawn].to_numpy(float))
        axes.set_ylim(0, 1.1 * largest or 1)  # RL that met equal rewards alone moves nothing
        axes.set_ylabel("weight change ‖ΔW‖ / ‖W‖")
        legend_above(axes)
    return figure


def cka_figure(table: pd.DataFrame, title: str) -> Figure:
    """Draw the debiased CKA of two runs over depth, with its interval."""
    with house_style():
        figure, (axes,) = layer_axes(table["layer"])
        axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        draw_points(axes, table, "cka", BLUE)
        axes.set_ylabel("linear CKA, debiased")
        axes.set_title(title)
    return figure


def weight_figure(table: pd.DataFrame, title: str) -> Figure:
    """Draw the relative change of every matrix by layer, in one colour per component.

    A dotted line shows what rounding alone would give, as the median over the matrices of a layer, where it is not 0.
    """
    with house_style():
        matrices = table[table["spectral"].notna()].dropna(subset=["layer"])
        figure, (axes,) = layer_axes(matrices["layer"])
        for (component, rows), colour in zip(matrices.groupby("component"), (BLUE, ORANGE, GREEN), strict=False):
            axes.plot(rows["layer"].astype(int), rows["relative"], "o", color=colour, alpha=0.8, label=str(component))
        if (matrices["rounding_norm"] > 0).any():
            alone = matrices["rounding_norm"] * matrices["relative"] / matrices["frobenius"]
            median = alone.groupby(matrices["layer"].astype(int)).median()
            axes.plot(median.index, median, ":", color=MUTED, label="rounding alone")
        axes.set_ylim(0, None)
        axes.set_ylabel("weight change ‖ΔW‖ / ‖W‖")
        axes.set_title(title, pad=18)
        legend_above(axes)
    return figure

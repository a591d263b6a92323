"""Measures of single layers over depth: contributions, weight deltas, CKA."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from lensrl.show.figures.style import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    RED,
    draw_points,
    entitle,
    heat_map,
    legend_above,
    mark_size,
    over_layers,
    zero_and_one,
)
from lensrl.show.words import Look

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")  # the order of the usual ones; others follow, by name
COMPONENT_COLOURS = {"attn": BLUE, "mlp": ORANGE, "norm": GREEN}
MEASURES = {
    "relative": "weight change ‖ΔW‖ / ‖W‖",
    "frobenius": "weight change ‖ΔW‖",
    "spectral": "largest singular value of ΔW",
    "stable_rank": "stable rank of ΔW",
    "effective_rank": "effective rank of ΔW",
    "weight_cosine": "cosine of W before and after",
    "changed_share": "share of entries that changed",
    "changed_share_bf16": "share that changed in bfloat16",
    "spectral_shift": "shift of the singular values",
    "left_angle": "largest angle, left (degrees)",
    "right_angle": "largest angle, right (degrees)",
    "overlap_largest": "overlap with the largest weights",
    "overlap_smallest": "overlap with the smallest weights",
}  # a column of `compare_weights` -> its label


LISTED_CELLS = 12  # with more layers than this, not every cell of a map has its number


def draw_contributions(
    axes: Axes, table: pd.DataFrame, seeds: pd.DataFrame | None = None, *, title: str = "", look: Look | None = None
) -> Axes:
    """Draw C_l with its interval over depth; mark layers with a collapsed run and layers without a value.

    `seeds` has a row per layer and seed: layer, contribution. Its points stand beside the mean over the seeds.
    """
    over_layers(axes, table["layer"])
    zero_and_one(axes)
    count = len(table)
    size = mark_size(axes, count, 2 if seeds is not None else 1)

    # three kinds of mark: defined, collapsed, without a value; and the seeds, at the left of their mean
    shown, missing = table[table["contribution"].notna()], table[table["contribution"].isna()]
    collapsed = shown["status"] == "collapsed"
    highest, lowest = shown["high"].max(), shown["low"].min()
    if seeds is not None and len(seeds):
        axes.plot(seeds["layer"] - 0.24, seeds["contribution"], "o", color=BLUE, alpha=0.45, markeredgewidth=0,
                  markersize=0.8 * size, label="one seed", zorder=1.5)  # fmt: skip
        highest, lowest = max(highest, seeds["contribution"].max()), min(lowest, seeds["contribution"].min())
    label = "mean over seeds" if seeds is not None else None
    draw_points(axes, shown[~collapsed], "contribution", BLUE, markersize=size, label=label)
    if collapsed.any():
        draw_points(
            axes, shown[collapsed], "contribution", RED, label="run collapsed", markerfacecolor="white", markersize=size
        )
    if len(missing):
        axes.plot(missing["layer"], np.zeros(len(missing)), "x", color=RED, label="no value", clip_on=False)

    # without any value, the reason stands in the empty panel
    said = "No layer has a value."
    if len(shown):
        axes.set_ylim(min(-0.05, lowest - 0.05), max(1.1, highest + 0.05))
        best, least = shown.sort_values("contribution").iloc[-1], shown.sort_values("contribution").iloc[0]
        said = (
            f"Layer contribution C_l of {len(shown)} layers with 95 % intervals, from {least['contribution']:.2f} at "
            f"layer {least['layer']} to {best['contribution']:.2f} at layer {best['layer']}. 1 is full RL, 0 the base."
        )
    else:
        axes.set_ylim(-0.05, 1.1)
        reason = textwrap.fill(f"{table['status'].iloc[0]}: {table['reason'].iloc[0]}", int(axes.bbox.width / 9))
        axes.text(
            0.5, 0.5, reason.replace("$", r"\$"), transform=axes.transAxes, ha="center", va="center", color=RED,
            fontsize="small",
        )  # fmt: skip
    axes.set_ylabel("contribution $C_l$")
    if axes.get_legend_handles_labels()[1]:
        legend_above(axes)
    return entitle(axes, title, said, look)


def draw_delta_norms(
    axes: Axes, table: pd.DataFrame, seeds: pd.DataFrame | None = None, *, title: str = "", look: Look | None = None
) -> Axes:
    """Draw the relative weight-delta norm of every layer in full RL, and in the run that trains this layer alone.

    `seeds` has a row per layer and seed: layer, full, single. Its points stand beside the means over the seeds. Dotted
    lines show the norm that rounding alone would give, where runs were taken from rounded checkpoints.
    """
    over_layers(axes, table["layer"])
    size = mark_size(axes, len(table), 2)
    drawn: list[float] = [0.0]
    for kind, words, mark, colour, side in (
        ("full", "in full RL", "o", BLUE, -0.2),
        ("single", "trained alone", "s", ORANGE, 0.2),
    ):
        if f"relative_delta_{kind}" not in table:  # a study of full RL alone
            continue
        axes.plot(table["layer"], table[f"relative_delta_{kind}"], f"{mark}-", color=colour, label=words,
                  markersize=size, linewidth=1.2)  # fmt: skip
        drawn += table[f"relative_delta_{kind}"].tolist()
        if seeds is not None:
            axes.plot(seeds["layer"] + side, seeds[kind], mark, color=colour, alpha=0.4, markeredgewidth=0,
                      markersize=0.7 * size, zorder=1.5)  # fmt: skip
            drawn += seeds[kind].tolist()
        if f"relative_rounding_{kind}" in table:
            run = "full RL" if kind == "full" else "alone"
            axes.plot(table["layer"], table[f"relative_rounding_{kind}"], ":", color=colour,
                      label=f"rounding alone, {run}")  # fmt: skip
            drawn += table[f"relative_rounding_{kind}"].tolist()
    axes.set_ylim(0, 1.1 * float(np.nanmax(drawn)) or 1)  # RL that met equal rewards alone moves nothing
    axes.set_ylabel(MEASURES["relative"])
    legend_above(axes)
    said = "Relative change of the weights of each layer, in full RL and when the layer is trained alone."
    return entitle(axes, title, said, look)


def draw_cka(axes: Axes, table: pd.DataFrame, *, title: str = "", look: Look | None = None) -> Axes:
    """Draw the debiased CKA of two runs over depth, with its interval."""
    over_layers(axes, table["layer"])
    axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    draw_points(axes, table, "cka", BLUE, markersize=mark_size(axes, len(table)))
    axes.set_ylabel("linear CKA, debiased")
    axes.ticklabel_format(axis="y", useOffset=False)
    least = table.sort_values("cka").iloc[0] if table["cka"].notna().any() else None
    said = "Debiased linear CKA of two runs after each layer, with 95 % intervals over sequences."
    if least is not None:
        said += f" The lowest is {least['cka']:.3f} after layer {least['layer']:.0f}."
    return entitle(axes, title, said, look)


def draw_cka_map(
    axes: Axes, values: np.ndarray, one: str, other: str, *, title: str = "", look: Look | None = None
) -> Axes:
    """Draw the CKA of every layer of one run (down) with every layer of another (across) as a map from 0 to 1."""
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.05, 1, 48)))
    heat_map(axes, values, colours, "linear CKA", vmin=0, vmax=1)
    step = 1 if len(values) <= LISTED_CELLS else 4 if len(values) <= 40 else 10
    places = np.arange(0, len(values), step)
    axes.set_xticks(places + 0.5, places.astype(str))
    axes.set_yticks(places + 0.5, places.astype(str))
    axes.set_aspect("equal")
    axes.set_xlabel(f"layer of {other}")
    axes.set_ylabel(f"layer of {one}")
    said = f"Debiased linear CKA of every layer of {one} with every layer of {other}."
    return entitle(axes, title, said, look)


def draw_weights(
    axes: Axes, table: pd.DataFrame, measure: str = "relative", *, title: str = "", look: Look | None = None
) -> Axes:
    """Draw how much weights changed, in the unit of the table's rows (`by` of `compare_weights`).

    Parameters become a heat map of layers and matrices, components a line each, layers one line. A dotted line shows
    what rounding alone would give, where it is not 0.
    """
    inside = table.dropna(subset=["layer"])
    if (inside["parameter"] != "").any():
        return draw_matrices(axes, inside, measure, title=title, look=look)
    over_layers(axes, inside["layer"])
    size = mark_size(axes, inside["layer"].nunique())
    by_component = (inside["component"] != "").any()
    for component in sorted(inside["component"].unique()):
        rows = inside[inside["component"] == component]
        axes.plot(rows["layer"].astype(int), rows[measure].astype(float), "o-", linewidth=1.2, markersize=size,
                  color=COMPONENT_COLOURS.get(component, BLUE),
                  label=component if by_component else "the layer")  # fmt: skip
    if measure == "relative" and (inside["rounding_norm"] > 0).any():
        alone = inside["rounding_norm"] * inside["relative"] / inside["frobenius"]
        median = alone.groupby(inside["layer"].astype(int)).median()
        axes.plot(median.index, median, ":", color=MUTED, label="rounding alone")
    top = axes.dataLim.y1  # the margin is a share of the whole axis: that of values alike would cut the highest mark
    axes.set_ylim(0, 1.06 * top if np.isfinite(top) and top > 0 else None)
    axes.set_ylabel(MEASURES.get(measure, measure))
    if len(axes.get_legend_handles_labels()[1]) > 1:
        legend_above(axes)
    said = f"{MEASURES.get(measure, measure)} over layers{', a line per component' if by_component else ''}."
    return entitle(axes, title, said, look)


def draw_matrices(axes: Axes, table: pd.DataFrame, measure: str, *, title: str = "", look: Look | None = None) -> Axes:
    """Draw a measure of every matrix as a heat map: layers across, matrices down. Grey cells did not change."""
    matrices = table[table["spectral"].notna()] if "spectral" in table else table
    named = matrices.assign(matrix=short_names(matrices["parameter"]), layer=matrices["layer"].astype(int))
    grid = named.pivot_table(index="matrix", columns="layer", values=measure, aggfunc="mean")
    known = [name for name in MATRICES if name in grid.index]
    layers = range(int(named["layer"].min()), int(named["layer"].max()) + 1)
    grid = grid.reindex(index=[*known, *(name for name in grid.index if name not in known)], columns=layers)
    over_layers(axes, layers)
    axes.grid(visible=False)
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.05, 1, 48)))
    top = np.nanmax(grid.to_numpy(float))
    low = {} if np.nanmin(grid.to_numpy(float)) < 0 else {"vmin": 0, "vmax": top or 1}
    heat_map(axes, grid.to_numpy(float), colours, MEASURES.get(measure, measure), left=layers[0] - 0.5, **low)
    axes.set_yticks(np.arange(len(grid)) + 0.5, [str(name) for name in grid.index])
    largest = named.sort_values(measure).iloc[-1]
    said = f"{MEASURES.get(measure, measure)} of each matrix: layers across, matrices down."
    said += f" The largest is that of {largest['matrix']} in layer {largest['layer']}."
    return entitle(axes, title, said, look)


def draw_heads(axes: Axes, table: pd.DataFrame, *, title: str = "", look: Look | None = None) -> Axes:
    """Draw the relative change of each head of one layer as a heat map: heads across, q, k, v and o down."""
    grid = table.pivot(index="matrix", columns="head", values="relative").reindex(list(MATRICES[:4]))
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.05, 1, 48)))
    values = grid.to_numpy(float)
    heat_map(axes, values, colours, MEASURES["relative"], left=-0.5, vmin=0, vmax=np.nanmax(values))
    over_layers(axes, range(values.shape[1]), "head")
    axes.grid(visible=False)
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_yticks(np.arange(len(grid)) + 0.5, list(MATRICES[:4]))
    said = f"Relative change of {values.shape[1]} heads of layer {table['layer'].iloc[0]} in q, k, v and o."
    return entitle(axes, title, said, look)


def short_names(parameters: pd.Series) -> list[str]:
    """Shorten names of parameters to those of their matrices: `model.layers.3.self_attn.q_proj.weight` to `q`.

    Where two parameters of a layer would get one name, both keep more of theirs.
    """
    inner = [_inner(name) for name in parameters]
    short = {name: name.rpartition(".")[2].removesuffix("_proj") for name in set(inner)}
    counts = pd.Series(short).value_counts()
    return [short[name] if counts[short[name]] == 1 else name for name in inner]


def _inner(parameter: str) -> str:
    """Return the name inside the layer, without `.weight`: `self_attn.q_proj`."""
    words = parameter.removesuffix(".weight").split(".")
    numbers = [i for i, word in enumerate(words) if word.isdecimal()]
    return ".".join(words[numbers[0] + 1 :] if numbers else words)

"""Recoveries of patches, over layers, heads, or pairs of layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lensrl.compare.patching.over_seeds import ALL_SEEDS
from lensrl.recipe.runs import BASE
from lensrl.show.figures.style import (
    BLUE,
    INK,
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
from lensrl.show.words import METRIC_LABELS, SET_LABELS, Look

COLOURS = {"score": RED, "reference_logprob": BLUE, "logit_difference": ORANGE}
# Every series has its own place beside its layer, in every panel; C_l is the last.
OFFSETS = {"score": -0.27, "reference_logprob": -0.09, "logit_difference": 0.09, "contribution": 0.27}
BESIDE = 0.09  # how far at the left of their mean single seeds stand
MARKS = {"score": "o", "reference_logprob": "s", "logit_difference": "^", "contribution": "D"}
PATCHED_UP_TO = {"bottom": "last of the layers 0 … l", "top": "first of the layers l … last"}


def draw_recoveries(
    axes: Axes, rows: pd.DataFrame, seeds: pd.DataFrame | None = None, *, title: str = "", look: Look | None = None
) -> Axes:
    """Draw the recovery of one kind of patch by layer, with a colour, a mark and a place for every metric, beside C_l.

    `rows` are those of `patch`; `contribution_low` and `contribution_high` may stand beside `contribution`. `seeds` are
    such rows of single seeds: their points stand beside the mean over the seeds. An arrow at the edge marks a point
    off the scale.
    """
    over_layers(axes, rows["layer"])
    zero_and_one(axes)
    low, high = recovery_limits(rows if seeds is None else pd.concat([rows, seeds[["recovery", "contribution"]]]))
    size = mark_size(axes, rows["layer"].nunique(), 4 if seeds is None else 5)
    for metric in (metric for metric in METRIC_LABELS if (rows["metric"] == metric).any()):
        points, offset, colour = rows[rows["metric"] == metric], OFFSETS[metric], COLOURS[metric]
        draw_points(axes, points, "recovery", colour, offset=offset, label=METRIC_LABELS[metric], fmt=MARKS[metric],
                    markersize=size)  # fmt: skip
        if seeds is not None:
            _draw_seeds(axes, seeds[seeds["metric"] == metric], "recovery", metric, colour, size, (low, high))
        for edge, mark, beyond in (
            (low, 7, points[points["recovery"] < low]),  # 7 and 6: carets that point down and up
            (high, 6, points[points["recovery"] > high]),
        ):
            if len(beyond):
                axes.plot(beyond["layer"] + offset, [edge] * len(beyond), marker=mark, linestyle="", color=colour,
                          clip_on=False)  # fmt: skip
    if rows["contribution"].notna().any():
        once = rows.drop_duplicates("layer").drop(columns=["low", "high"])
        once = once.rename(columns={"contribution_low": "low", "contribution_high": "high"})
        draw_points(axes, once, "contribution", INK, offset=OFFSETS["contribution"], label="$C_l$, trained alone",
                    fmt=MARKS["contribution"], markersize=0.9 * size)  # fmt: skip
        if seeds is not None:
            each = seeds.drop_duplicates(["layer", "seed"])
            _draw_seeds(axes, each, "contribution", "contribution", INK, 0.9 * size, (low, high))
    axes.set_ylim(low, high)
    axes.set_ylabel(f"recovery, {rows['what'].iloc[0]}")
    sets = rows["sets"].iloc[0] if "sets" in rows else "single"
    if sets in PATCHED_UP_TO:
        axes.set_xlabel(PATCHED_UP_TO[sets])
    legend_above(axes)
    metrics = [METRIC_LABELS[metric] for metric in METRIC_LABELS if (rows["metric"] == metric).any()]
    over = "items" if seeds is None else "items and seeds, and a small point for each seed"
    said = f"Recovery by patched {rows['what'].iloc[0]} over layers, with 95 % intervals over {over}: "
    return entitle(axes, title, f"{said}{', '.join(metrics)}. 1 is the whole change.", look)


def _draw_seeds(
    axes: Axes, rows: pd.DataFrame, value: str, place: str, colour: str, size: float, limits: tuple[float, float]
) -> None:
    """Draw single seeds as small points at the left of their mean, those off the scale at its edge."""
    axes.plot(rows["layer"] + OFFSETS[place] - BESIDE, rows[value].clip(*limits), MARKS[place], color=colour,
              alpha=0.45, markeredgewidth=0, markersize=0.6 * size, zorder=1.5)  # fmt: skip


def draw_recovery_map(axes: Axes, rows: pd.DataFrame, *, title: str = "", look: Look | None = None) -> Axes:
    """Map the recovery of log p(reference) by one kind of patch, white at 0: layers down, heads or layers across.

    Grey cells were not patched, or have no defined recovery.
    """
    if rows["sets"].iloc[0] == "pairs":
        other, name = rows["layers"].str.split("[,-]", regex=True).str[1], "layer"
    else:
        other, name = rows["head"], "head"
    rows = rows.assign(other=other.astype(int))[rows["metric"] == "reference_logprob"]
    grid = rows.pivot(index="layer", columns="other", values="recovery")
    down, across = (range(int(rows[name].min()), int(rows[name].max()) + 1) for name in ("layer", "other"))
    grid = grid.reindex(index=down, columns=across)

    # odd: white in the middle; from 50 on, colour bars become bitmaps in SVG
    shades = colormaps["RdBu"].resampled(41)
    values = grid.to_numpy(float)
    span = min(max(np.nanmax(np.abs(values)), 0.1), 2.0) if np.isfinite(values).any() else 1.0
    left, top = across[0] - 0.5, down[0] - 0.5
    label = f"recovery of {METRIC_LABELS['reference_logprob']}, {rows['what'].iloc[0]}"
    heat_map(axes, values, shades, label, left=left, top=top, vmin=-span, vmax=span)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(name)
    axes.set_ylabel("layer")
    return entitle(axes, title, f"{label}: layers down, {name}s across. White is 0.", look)


def named_patch(rows: pd.DataFrame) -> str:
    """Name a patch from its rows, as a title does: `block of full-rl into base, mean over seeds 0, 1`."""
    first = rows.to_dict("records")[0]
    single = sorted({int(seed) for seed in rows["seed"] if seed != ALL_SEEDS})
    averaged = (rows["seed"] == ALL_SEEDS).any()
    over = f"mean over seeds {', '.join(map(str, single))}" if averaged else f"seed {first['seed']}"
    kind = f", {SET_LABELS[first['sets']]}" if first["sets"] in SET_LABELS else ""
    return f"{first['component']} of {first['from']} into {first['into']}, {over}{kind}"


def is_map(rows: pd.DataFrame) -> bool:
    """Return whether the rows of a patch are drawn as a map: heads, and pairs of layers."""
    return bool((rows["sets"] == "pairs").any() or rows["head"].notna().any())


def recovery_limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Return limits around all points and intervals, capped so that one wide interval does not flatten the rest."""
    ends = [name for name in ("low", "high", "contribution_low", "contribution_high", "contribution") if name in rows]
    values = rows[ends].to_numpy(float)
    values = np.append(values[np.isfinite(values)], [0, 1])
    return max(values.min(), -1.5) - 0.1, min(values.max(), 2.5) + 0.1


def reading_of(rows: pd.DataFrame) -> list[str]:
    """Say in words which recoveries of a gain are surely below 0. Nothing is said where none is.

    A layer of RL that is taken out and whose loss is negative was a layer that hurt.
    """
    said = []
    below = rows[(rows["sets"] == "single") & (rows["high"] < 0) & rows["head"].isna() & (rows["share_of"] == "gain")]
    for (what, metric, into), part in below.groupby(["what", "metric", "into"], sort=False):
        layers = ", ".join(map(str, sorted(part["layer"])))
        which = f"{'layers' if len(part) > 1 else 'layer'} {layers}"
        values = ", ".join(f"{value:.2f}" for value in part.sort_values("layer")["recovery"])
        which = f"{which} ({what}, {METRIC_LABELS[str(metric)]} {values})"
        if into == BASE:
            said.append(f"{which}: below 0, so alone in the base what RL did there hurts.")
        else:
            thing = "weights" if what == "weights" else "outputs"
            said.append(
                f"{which}: necessity below 0. With the base's {thing} in their place the trained model does better, so "
                f"what RL did there hurts beside what it did elsewhere."
            )
    return said

"""Training curves of runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lensrl.recipe.runs import FULL, run_layer
from lensrl.show.figures.style import (
    BLUE,
    GREEN,
    GRID,
    INK,
    LISTED,
    MUTED,
    ORANGE,
    RED,
    depth_colours,
    entitle,
    label_ends,
    over_steps,
)
from lensrl.show.words import Look

COLUMNS = {
    "reward_mean": "mean reward",
    "completion_length": "tokens per completion",
    "truncated_share": "share of completions cut",
    "grad_norm": "gradient norm",
    "zero_spread_share": "share of groups without spread",
}  # a column of `Run.training()` -> its label
Curves = Sequence[tuple[str, pd.DataFrame]]


def draw_training(
    axes: Axes,
    curves: Curves,
    column: str = "reward_mean",
    *,
    layers: Collection[int] | None = None,
    window: int = 5,
    title: str = "",
    look: Look | None = None,
) -> Axes:
    """Draw the running mean of a column over `window` steps, for every (name of a run, training curve).

    Names stand at the ends of the lines. Up to 12 single layers have a line each. Of more layers, the figure shows
    the median with the middle half and the whole range, and the layer that ends highest; `layers` names others to
    draw. Full RL and sets of layers always have a line. A cross ends a curve that stops before the longest one.
    """
    smooth = {
        name: curve.set_index("step")[column].rolling(window, min_periods=1).mean()
        for name, curve in curves
        if column in curve
    }
    last = max((line.index[-1] for line in smooth.values()), default=0)
    single = {layer: line for name, line in smooth.items() if (layer := run_layer(name)) is not None}
    crowded = len(single) > LISTED

    # which single layers have a line: all of a few, the best of many, and those that were asked for
    drawn = set(single) & set(layers) if layers is not None else set() if crowded else set(single)
    best = max(single, key=lambda layer: (single[layer].index[-1], single[layer].iloc[-1])) if single else None
    ends: list[tuple[float, str, Any]] = []
    if crowded:
        both = pd.DataFrame(single)
        low, first, median, third, high = (both.quantile(q, axis=1) for q in (0, 0.25, 0.5, 0.75, 1))
        axes.fill_between(both.index, low, high, color=GRID, linewidth=0, zorder=0.5)
        axes.fill_between(both.index, first, third, color=MUTED, alpha=0.3, linewidth=0, zorder=0.6)
        axes.plot(both.index, median, color=MUTED, linewidth=1.4, zorder=2)
        ends.append((median.iloc[-1], "median layer", MUTED))
        drawn |= {best} if best is not None and layers is None else set()

    # one line a run, its name at its end
    shade: Any = depth_colours(single)
    sets = iter([(c, dash) for dash in ("--", ":", "-.") for c in (ORANGE, RED, GREEN, BLUE)] * len(smooth))
    for name, line in smooth.items():
        layer = run_layer(name)
        style: dict[str, Any]
        if name == FULL:
            style = {"color": INK, "linewidth": 2.2, "zorder": 3}
        elif layer is None:
            colour, dash = next(sets)
            style = {"color": colour, "linestyle": dash, "linewidth": 1.4}
        elif layer not in drawn:
            continue
        elif crowded and layers is None:
            style = {"color": BLUE, "linewidth": 1.4, "zorder": 2.5}
        else:
            style = {"color": shade.to_rgba(layer), "linewidth": 1.2}
        (plotted,) = axes.plot(line.index, line, **style)
        word = "best" if column == "reward_mean" else "highest"
        said = f"{word}: {name}" if crowded and layer is not None and layers is None else name
        ends.append((line.iloc[-1], said, plotted.get_color()))
        if line.index[-1] < last:
            axes.plot(line.index[-1], line.iloc[-1], "x", color=plotted.get_color(), zorder=4)
            ends[-1] = (line.iloc[-1], f"{said} ×", plotted.get_color())

    over_steps(axes, last)
    first = min((line.index[0] for line in smooth.values()), default=0)
    axes.set_xlim(first, max(last, first + 1))
    axes.set_ylabel(f"{COLUMNS.get(column, column)} ({window}-step mean)")
    label_ends(axes, ends)
    text = f"{COLUMNS.get(column, column)} of {len(smooth)} runs over {last} steps of training."
    if crowded:
        text += " Grey: the median of single layers, their middle half and their whole range."
    if FULL in smooth and np.isfinite(smooth[FULL].iloc[-1]):
        text += f" Full RL ends at {smooth[FULL].iloc[-1]:.2f}."
    return entitle(axes, title, text, look)

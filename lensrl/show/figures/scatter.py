"""The layer contribution against predictors: one predictor a figure, or the coefficients of all."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lensrl.show.figures.style import (
    BLUE,
    GRID,
    LISTED,
    MUTED,
    ORANGE,
    depth_colours,
    entitle,
    signed,
)
from lensrl.show.words import Look


def draw_scatter(
    axes: Axes,
    table: pd.DataFrame,
    name: str,
    label: str,
    correlations: pd.DataFrame,
    *,
    scale: bool = True,
    title: str = "",
    look: Look | None = None,
) -> Axes:
    """Draw C_l with its interval against one predictor, a column of the table.

    Colours show the depth of the layers. Up to 12 layers are numbered; for more, `scale` adds a colour bar. Below the
    title stand Spearman's coefficient and the coefficient beyond depth.
    """
    shown = table[table["status"] == "defined"]  # the layers that are correlated
    shade: Any = depth_colours(table["layer"])
    ends = np.maximum([shown["contribution"] - shown["low"], shown["high"] - shown["contribution"]], 0)
    axes.errorbar(shown[name], shown["contribution"], yerr=ends, fmt="none", ecolor=MUTED, elinewidth=0.7, alpha=0.55,
                  zorder=1)  # fmt: skip
    axes.scatter(shown[name], shown["contribution"], s=22, c=shade.to_rgba(shown["layer"]), zorder=2, linewidths=0)
    if len(table) <= LISTED:
        _number(axes, shown, name)
    elif scale:
        axes.figure.colorbar(
            shade, ax=axes, label="layer", ticks=MaxNLocator(integer=True, steps=[1, 2, 5, 10]), aspect=30
        )
    found = correlations[correlations["predictor"] == name].set_index("method").to_dict("index")
    said = _coefficients(found)
    axes.set_xlabel(label)
    axes.set_ylabel("contribution $C_l$")
    axes.margins(0.09)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:g}")  # matplotlib would write a common factor over the label
    entitle(axes, title, f"Layer contribution against {label}, a point per layer. {said}", look)
    above = f"{title}\n{said}" if title and (look is None or look.title) else said
    axes.set_title(above.replace("$", r"\$"), fontsize="small")
    return axes


def _number(axes: Axes, shown: pd.DataFrame, name: str) -> None:
    """Write the number of each layer beside its point, at the side on which no near point lies."""
    x, y = shown[name].to_numpy(float), shown["contribution"].to_numpy(float)
    spread = np.array([np.ptp(x) or 1.0, np.ptp(y) or 1.0])
    for i, layer in enumerate(shown["layer"]):
        away = (np.stack([x, y], axis=1) - [x[i], y[i]]) / spread
        near = away[(np.abs(away[:, 1]) < 0.06) & (np.abs(away[:, 0]) < 0.25) & (np.arange(len(x)) != i)]
        side = -1 if len(near) and near[:, 0].mean() >= 0 else 1
        axes.annotate(f"{layer}", (x[i], y[i]), xytext=(4 * side, 3), fontsize="small", textcoords="offset points",
                      ha="right" if side < 0 else "left", color=MUTED)  # fmt: skip


def draw_coefficients(
    axes: Axes, correlations: pd.DataFrame, labels: Mapping[str, str], *, title: str = "", look: Look | None = None
) -> Axes:
    """Draw the correlation of every predictor with C_l, raw (Spearman) and beyond depth, with 95 % intervals."""
    there = correlations["coefficient"].notna()
    known = correlations.loc[there if there.any() else ~there, "predictor"]  # of none, all: an empty row says so
    names = [name for name in labels if (known == name).any()]
    places = np.arange(len(names))
    for method, words, colour, mark, shift in (
        ("spearman", "Spearman's ρ", BLUE, "o", -0.15),
        ("detrended", "beyond depth", ORANGE, "s", 0.15),
    ):
        rows = correlations[correlations["method"] == method].set_index("predictor").reindex(names)
        value = rows["coefficient"].to_numpy(float)
        if method == "detrended" and np.isnan(value).all():  # with fewer than 24 layers
            continue
        ends = np.maximum([value - rows["low"].to_numpy(float), rows["high"].to_numpy(float) - value], 0)
        axes.errorbar(value, places + shift, xerr=ends, fmt=mark, color=colour, markersize=4.2, capsize=2,
                      linewidth=1.1, label=words)  # fmt: skip
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=0.8)
    axes.set_xlim(-1.03, 1.03)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_yticks(places, [labels[name] for name in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("correlation with $C_l$")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    said = f"Correlation of {len(names)} predictors with the layer contribution, raw and beyond depth."
    return entitle(axes, title, said, look)


def drawable(table: pd.DataFrame, predictors: Mapping[str, str]) -> list[str]:
    """Return the predictors that are in the table and differ between layers."""
    shown = table[table["status"] == "defined"]
    return [name for name in predictors if name in table and shown[name].nunique() > 1]


def _coefficients(found: Mapping[Any, Any]) -> str:
    """Return Spearman's coefficient, or its reason; on a second line the coefficient beyond depth, if defined."""
    raw, beyond = found["spearman"], found.get("detrended")
    if np.isnan(raw["coefficient"]):
        return textwrap.fill(raw["reason"], 34)
    lines = [f"ρ = {_with_interval(raw)}"]
    if beyond is not None and not np.isnan(beyond["coefficient"]):
        lines.append(f"beyond depth {_with_interval(beyond)}")
    return "\n".join(lines)


def _with_interval(found: Any) -> str:
    interval = "" if np.isnan(found["low"]) else f" [{signed(found['low'])}, {signed(found['high'])}]"
    return f"{signed(found['coefficient'])}{interval}"

"""The layer contribution against each predictor."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from lensrl.show.figures.style import LISTED, MUTED, depth_colours, house_style, signed

ACROSS = 4  # panels


def scatter_figure(table: pd.DataFrame, predictors: Mapping[str, str], correlations: pd.DataFrame) -> Figure:
    """Draw C_l against each predictor. `predictors` maps columns of the table to labels.

    Colours show the depth of the layers; up to 12 layers are numbered, too. The title of a panel gives Spearman's
    coefficient and the coefficient beyond depth. A predictor that is missing from the table, or constant over layers,
    has no panel.
    """
    with house_style():
        shown = table[table["status"] == "defined"]  # the layers that are correlated
        drawn = [name for name in predictors if name in table and shown[name].nunique() > 1]
        across, rows = min(ACROSS, max(len(drawn), 1)), (len(drawn) + ACROSS - 1) // ACROSS
        figure = Figure(
            figsize=(2.55 * across, 2.6 * max(rows, 1)), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.08)
        )

        # one panel a predictor
        by_method = {str(method): part.set_index("predictor") for method, part in correlations.groupby("method")}
        shade: Any = depth_colours(table["layer"])
        middle = table["layer"].max() / 2
        for i, name in enumerate(drawn):
            axes = figure.add_subplot(rows, across, i + 1)
            axes.scatter(shown[name], shown["contribution"], s=18, c=shade.to_rgba(shown["layer"]))
            for _, row in shown.iterrows() if len(table) <= LISTED else ():
                # layers at the same distance from the middle share an x: number the first half on the left
                side = -1 if row["layer"] < middle else 1
                axes.annotate(f"{row['layer']}", (row[name], row["contribution"]), xytext=(4 * side, 2), fontsize=8,
                              textcoords="offset points", ha="right" if side < 0 else "left", color=MUTED)  # fmt: skip
            found: dict[str, Any] = {method: part.loc[name] for method, part in by_method.items()}
            axes.set_title(_coefficients(found), fontsize=8.5)
            axes.set_xlabel(predictors[name], fontsize=8.5)
            axes.margins(0.12)
            axes.tick_params(labelsize=8.5)
            axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter("{x:g}")  # matplotlib would write a common factor over the label
            if i % across == 0:
                axes.set_ylabel("$C_l$")

        if len(table) > LISTED and drawn:
            figure.colorbar(
                shade, ax=figure.axes, label="layer", ticks=MaxNLocator(integer=True, steps=[1, 2, 5, 10]), aspect=40
            )
    return figure


def _coefficients(found: Mapping[str, Any]) -> str:
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

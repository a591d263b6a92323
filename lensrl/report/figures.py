"""Figures, each a function from a DataFrame to a matplotlib Figure. Widths grow with the number of layers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from lensrl.layers import FULL, run_layer
from lensrl.report import METRICS, figure_format
from lensrl.store.atomic import new_file

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
BLUE, ORANGE, GREEN, RED = "#2f5fb3", "#d97b29", "#3c8f6b", "#b8433f"
COLOURS = {"score": RED, "reference_logprob": BLUE, "logit_difference": ORANGE}
PATCHED_UP_TO = {"bottom": "last of the layers 0 … l", "top": "first of the layers l … last"}
LISTED = 12  # with more layers than this, names and numbers give way to a colour scale
_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lensrl",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def contribution_figure(table: pd.DataFrame, title: str = "") -> Figure:
    """C_l with its interval over depth; layers whose run collapsed and layers without a value stand out."""
    with _style():
        figure, (axes,) = _layer_axes(table["layer"])
        _zero_and_one(axes)
        shown, missing = table[table["contribution"].notna()], table[table["contribution"].isna()]
        collapsed = shown["status"] == "collapsed"
        _points(axes, shown[~collapsed], "contribution", BLUE)
        if collapsed.any():
            _points(axes, shown[collapsed], "contribution", RED, label="run collapsed", markerfacecolor="white")
        if len(missing):
            axes.plot(missing["layer"], np.zeros(len(missing)), "x", color=RED, label="no value", clip_on=False)
        if len(missing) or collapsed.any():
            _legend_above(axes)
        if len(shown):
            axes.set_ylim(min(-0.05, shown["low"].min() - 0.05), max(1.1, shown["high"].max() + 0.05))
        else:
            axes.set_ylim(-0.05, 1.1)
            reason = textwrap.fill(f"{table['status'].iloc[0]}: {table['reason'].iloc[0]}", 70)
            axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=RED)
        axes.set_ylabel("layer contribution $C_l$")
        axes.set_title(title)
    return figure


def recovery_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Recovery by layer beside C_l: one panel for weights, one for activations, one colour per metric."""
    with _style():
        kinds = sorted(rows["what"].unique(), reverse=True)  # weights first: their score is what C_l is made of
        figure, panels = _layer_axes(rows["layer"], panels=len(kinds))
        low, high = _recovery_limits(rows)
        for axes, kind in zip(panels, kinds, strict=True):
            _zero_and_one(axes)
            part = rows[rows["what"] == kind]
            metrics = [metric for metric in METRICS if (part["metric"] == metric).any()]
            offsets = np.linspace(-0.25, 0.25, len(metrics) + 1)
            for metric, offset in zip(metrics, offsets[:-1], strict=True):
                points = part[part["metric"] == metric]
                _points(axes, points, "recovery", COLOURS[metric], offset=offset, label=METRICS[metric])
                for edge, mark in ((low, "v"), (high, "^")):  # a point off the scale is pointed at
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
            _legend_above(axes)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def patch_figure(rows: pd.DataFrame, title: str) -> Figure:
    """What `patch` returned: recovery over depth; a map where a result has a layer and a head, or two layers."""
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
    """Recovery of log p(reference) as a colour, white at 0: one panel per kind, layers down, heads or layers across."""
    with _style():
        rows = rows.assign(other=other.astype(int))[rows["metric"] == "reference_logprob"]
        kinds = sorted(rows["what"].unique(), reverse=True)
        figure = Figure(figsize=(4.2 * len(kinds) + 1.2, 4.2), layout="constrained")
        values = rows["recovery"].abs()
        span = min(max(values.max(), 0.1), 2.0) if values.notna().any() else 1.0
        shades = colormaps["RdBu"].resampled(41)  # white in the middle; from 50 on, colour bars become bitmaps in SVG
        for i, kind in enumerate(kinds):
            axes = figure.add_subplot(1, len(kinds), i + 1)
            grid = rows[rows["what"] == kind].pivot(index="layer", columns="other", values="recovery")
            grid = grid.reindex(index=range(grid.index.min(), grid.index.max() + 1),
                                columns=range(grid.columns.min(), grid.columns.max() + 1))  # fmt: skip
            axes.set_facecolor(GRID)  # of what was not patched, or is undefined
            drawn = axes.pcolormesh(grid.columns, grid.index, grid.to_numpy(float), cmap=shades, vmin=-span, vmax=span)
            axes.invert_yaxis()
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            axes.set_xlabel(name)
            axes.set_ylabel("layer")
            axes.set_title(kind, fontsize=10, color=MUTED)
            if i == len(kinds) - 1:
                figure.colorbar(drawn, ax=axes, label=f"recovery of {METRICS['reference_logprob']}", extend="both")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def delta_figure(table: pd.DataFrame) -> Figure:
    """Relative weight-delta norm by layer: in full RL, and in the layer's own run."""
    with _style():
        figure, (axes,) = _layer_axes(table["layer"])
        axes.plot(table["layer"], table["relative_delta_full"], "o-", color=BLUE, label="in full RL")
        axes.plot(table["layer"], table["relative_delta_single"], "s-", color=ORANGE, label="trained alone")
        axes.set_ylim(0, 1.1 * np.nanmax(table[["relative_delta_full", "relative_delta_single"]].to_numpy(float)))
        axes.set_ylabel("weight change ‖ΔW‖ / ‖W‖")
        _legend_above(axes)
    return figure


def cka_figure(table: pd.DataFrame, title: str) -> Figure:
    """Debiased CKA of two runs over depth, with its interval."""
    with _style():
        figure, (axes,) = _layer_axes(table["layer"])
        axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        _points(axes, table, "cka", BLUE)
        axes.set_ylabel("linear CKA, debiased")
        axes.set_title(title)
    return figure


def weight_figure(table: pd.DataFrame, title: str) -> Figure:
    """Relative change of every matrix by layer, one colour per component."""
    with _style():
        matrices = table[table["spectral"].notna()].dropna(subset=["layer"])
        figure, (axes,) = _layer_axes(matrices["layer"])
        for (component, rows), colour in zip(matrices.groupby("component"), (BLUE, ORANGE, GREEN), strict=False):
            axes.plot(rows["layer"].astype(int), rows["relative"], "o", color=colour, alpha=0.8, label=str(component))
        axes.set_ylim(0, None)
        axes.set_ylabel("weight change ‖ΔW‖ / ‖W‖")
        axes.set_title(title, pad=18)
        _legend_above(axes)
    return figure


def training_figure(curves: Sequence[tuple[str, pd.DataFrame]], *, title: str = "", window: int = 5) -> Figure:
    """Mean reward over steps, smoothed: full RL in front, single layers coloured by depth, sets dashed.

    A curve that stops before the longest one (diverged, collapsed) ends in a cross.
    """
    with _style():
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        layers = [layer for name, _ in curves if (layer := run_layer(name)) is not None]
        shade: Any = _depth_colours(layers)
        listed = len(layers) <= LISTED
        sets = iter((ORANGE, RED, GREEN, BLUE) * len(curves))
        last = max((curve["step"].iloc[-1] for _, curve in curves), default=0)
        for name, curve in curves:
            smooth = curve["reward_mean"].rolling(window, min_periods=1).mean()
            layer = run_layer(name)
            label = name if listed or layer is None else None
            if name == FULL:
                line = axes.plot(curve["step"], smooth, color=INK, linewidth=2.2, label=label, zorder=3)
            elif layer is not None:
                line = axes.plot(curve["step"], smooth, color=shade.to_rgba(layer), linewidth=1, label=label)
            else:
                line = axes.plot(curve["step"], smooth, "--", color=next(sets), linewidth=1.6, label=label)
            if curve["step"].iloc[-1] < last:
                axes.plot(curve["step"].iloc[-1], smooth.iloc[-1], "x", color=line[0].get_color(), zorder=4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("step")
        axes.set_ylabel(f"mean reward ({window}-step mean)")
        axes.set_title(title)
        if listed:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
        else:  # too many layers for a list of names
            figure.colorbar(shade, ax=axes, label="layer", ticks=MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            axes.legend(fontsize=9)
    return figure


def scatter_figure(table: pd.DataFrame, predictors: Mapping[str, str], correlations: pd.DataFrame) -> Figure:
    """C_l against each predictor (column -> what it is), layers coloured by depth and, while there is room, numbered.

    Spearman's coefficient stands over each panel.
    """
    with _style():
        rows = (len(predictors) + 2) // 3
        figure = Figure(figsize=(9.6, 2.9 * rows), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
        spearman = correlations[correlations["method"] == "spearman"].set_index("predictor")
        shown = table[table["status"] == "defined"]  # the layers that are correlated
        shade: Any = _depth_colours(table["layer"])
        middle = table["layer"].max() / 2
        for i, (name, label) in enumerate(predictors.items()):
            axes = figure.add_subplot(rows, 3, i + 1)
            axes.scatter(shown[name], shown["contribution"], s=20, c=shade.to_rgba(shown["layer"]))
            for _, row in shown.iterrows() if len(table) <= LISTED else ():
                # layers at the same distance from the middle share an x: number one half on the left
                side = -1 if row["layer"] < middle else 1
                axes.annotate(f"{row['layer']}", (row[name], row["contribution"]), xytext=(4 * side, 2), fontsize=8,
                              textcoords="offset points", ha="right" if side < 0 else "left", color=MUTED)  # fmt: skip
            found: Any = spearman.loc[name]
            axes.set_title(_spearman(found), fontsize=9)
            axes.set_xlabel(label, fontsize=9)
            axes.margins(0.12)
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter("{x:g}")  # matplotlib would write a common factor over the label
            if i % 3 == 0:
                axes.set_ylabel("$C_l$")
        if len(table) > LISTED:
            figure.colorbar(
                shade, ax=figure.axes, label="layer", ticks=MaxNLocator(integer=True, steps=[1, 2, 5, 10]), aspect=40
            )
    return figure


def _spearman(found: Any) -> str:
    if np.isnan(found["coefficient"]):
        return found["reason"]
    interval = "" if np.isnan(found["low"]) else f" [{_signed(found['low'])}, {_signed(found['high'])}]"
    return f"ρ = {_signed(found['coefficient'])}{interval}"


def svg(figure: Figure) -> str:
    """The figure as an <svg> element."""
    text = StringIO()
    with _style():
        figure.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Save atomically; the format follows the suffix (png, svg, pdf)."""
    path = Path(path)
    suffix = figure_format(path)
    with _style(), new_file(path) as partial:
        figure.savefig(partial, format=suffix, dpi=160)


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE):
        yield


def _layer_axes(layers: Iterable[int], panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Panels over the same layers, one above the other; wide enough for every layer's marks to stay apart."""
    first, last = min(layers, default=0), max(layers, default=0)
    count = last - first + 1
    figure = Figure(
        figsize=(min(max(7.2, 0.28 * count), 12), 3.4 if panels == 1 else 3.0 * panels), layout="constrained"
    )
    drawn: list[Axes] = []
    for panel in range(panels):
        axes = figure.add_subplot(panels, 1, panel + 1)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xticks(range(first, last + 1, 1 if count <= 20 else 2 if count <= 48 else 4))
        axes.set_xlim(first - 0.6, last + 0.6)
        drawn.append(axes)
    drawn[-1].set_xlabel("layer")
    return figure, drawn


def _zero_and_one(axes: Axes) -> None:
    """Nothing of the change, and all of it."""
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))


def _points(axes: Axes, rows: pd.DataFrame, value: str, colour: str, *, offset: float = 0, **style: Any) -> None:
    """Values at their layers, with intervals."""
    y = rows[value]
    axes.errorbar(
        rows["layer"] + offset, y, yerr=np.maximum([y - rows["low"], rows["high"] - y], 0), fmt="o", color=colour,
        markersize=4.5, capsize=2, linewidth=1.2, **style,
    )  # fmt: skip


def _legend_above(axes: Axes) -> None:
    """To the right over the panel, where no point can be under it."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=9, borderaxespad=0.2, handletextpad=0.4)


def _recovery_limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Around everything drawn, but not so far that one wild interval flattens the rest."""
    values = rows[["low", "high", "contribution"]].to_numpy(float)
    values = np.append(values[np.isfinite(values)], [0, 1])
    return max(values.min(), -1.5) - 0.1, min(values.max(), 2.5) + 0.1


def _depth_colours(layers: Iterable[int]) -> ScalarMappable:
    """Dark for shallow layers, light for deep ones."""
    known = list(layers) or [0]
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.05, 0.9, 256)))  # the last yellow is faint on white
    return ScalarMappable(Normalize(min(known), max(known)), colours)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")

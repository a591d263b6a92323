"""Figures, each a function from a DataFrame to a matplotlib Figure. Widths grow with the number of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensrl.errors import LensrlError
from lensrl.store.atomic import new_file

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
BLUE, ORANGE, GREEN, RED = "#2f5fb3", "#d97b29", "#3c8f6b", "#b8433f"
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
    """C_l with its interval over depth; layers without a value are marked on the axis."""
    with _style():
        figure, axes = _layer_axes(len(table))
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        shown = table[table["contribution"].notna()]
        _points(axes, shown["layer"], shown["contribution"], shown["low"], shown["high"], BLUE, "")
        missing = table[table["contribution"].isna()]
        if len(missing):
            axes.plot(missing["layer"], np.zeros(len(missing)), "x", color=RED, label="no value", clip_on=False)
            axes.legend(loc="upper right")
        if len(shown):
            axes.set_ylim(min(-0.05, shown["low"].min() - 0.05), max(1.1, shown["high"].max() + 0.05))
        else:
            axes.set_ylim(-0.05, 1.1)
            reason = table["reason"].iloc[0] if len(table) else "no layers"
            axes.text(0.5, 0.5, f"undefined: {reason}", transform=axes.transAxes, ha="center", color=RED, wrap=True)
        axes.set_ylabel("layer contribution $C_l$")
        axes.set_title(title or "Layer contribution (bars: 95 % intervals; dashed: full RL)")
    return figure


def recovery_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Recovery by layer, one colour per kind and metric, beside C_l."""
    with _style():
        layers = sorted(rows["layer"].unique())
        figure, axes = _layer_axes(len(layers), layers=layers)
        groups = list(rows.groupby(["what", "metric"], sort=True))
        spread = np.linspace(-0.25, 0.25, len(groups) + 1)
        for offset, colour, ((what, metric), part) in zip(spread, (BLUE, GREEN, ORANGE, RED), groups, strict=False):
            label = f"{what}: {str(metric).replace('_', ' ')}"
            _points(axes, part["layer"] + offset, part["recovery"], part["low"], part["high"], colour, label)
        if "contribution" in rows:
            once = rows.drop_duplicates("layer")
            axes.plot(once["layer"] + spread[-1], once["contribution"], "D", color=INK, markersize=4, label="$C_l$")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        finite = rows[["low", "high"]].to_numpy(float)
        finite = finite[np.isfinite(finite)]
        if finite.size:  # one wild interval must not flatten the rest
            axes.set_ylim(max(finite.min(), -1.5) - 0.1, min(finite.max(), 2.5) + 0.1)
        axes.set_ylabel("recovery")
        axes.set_title(title)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=9)
    return figure


def delta_figure(table: pd.DataFrame) -> Figure:
    """Relative weight-delta norm by layer: in full RL, and in the layer's own run."""
    with _style():
        figure, axes = _layer_axes(len(table))
        axes.plot(table["layer"], table["relative_delta_full"], "o-", color=BLUE, label="in full RL")
        axes.plot(table["layer"], table["relative_delta_single"], "s-", color=ORANGE, label="trained alone")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(r"$\|\Delta W_l\| \,/\, \|W_l\|$")
        axes.set_title("Weight change by layer, relative to the layer's weights")
        axes.legend()
    return figure


def training_figure(curves: Sequence[tuple[str, pd.DataFrame]], *, window: int = 5) -> Figure:
    """Mean reward over steps, smoothed: full RL in front, single layers coloured from shallow to deep."""
    with _style():
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        single = [name for name, _ in curves if name != "full-rl"]
        shades = dict(
            zip(single, matplotlib.colormaps["viridis"](np.linspace(0.1, 0.9, max(len(single), 1))), strict=False)
        )
        for name, curve in curves:
            smooth = curve["reward_mean"].rolling(window, min_periods=1).mean()
            if name == "full-rl":
                axes.plot(curve["step"], smooth, color=INK, linewidth=2.2, label=name, zorder=3)
            else:
                labelled = len(single) <= 10 or name in (single[0], single[-1])
                axes.plot(curve["step"], smooth, color=shades[name], linewidth=1, label=name if labelled else None)
        axes.set_xlabel("step")
        axes.set_ylabel(f"mean reward ({window}-step mean)")
        axes.set_title("Training")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure


def scatter_figure(table: pd.DataFrame, predictors: dict[str, str], correlations: pd.DataFrame) -> Figure:
    """C_l against each predictor, layers numbered, Spearman's coefficient in the title."""
    with _style():
        rows = (len(predictors) + 2) // 3
        figure = Figure(figsize=(9, 2.9 * rows), layout="constrained")
        spearman = correlations[correlations["method"] == "spearman"].set_index("predictor")
        shown = table[table["contribution"].notna()]
        for i, name in enumerate(predictors):
            axes = figure.add_subplot(rows, 3, i + 1)
            axes.scatter(shown[name], shown["contribution"], s=16, color=BLUE)
            for _, row in shown.iterrows():
                axes.annotate(f"{row['layer']}", (row[name], row["contribution"]), xytext=(3, 3),
                              textcoords="offset points", fontsize=7, color=MUTED)  # fmt: skip
            found = spearman.loc[name]
            axes.set_title(f"ρ = {found['coefficient']:.2f} [{found['low']:.2f}, {found['high']:.2f}]", fontsize=9)
            axes.set_xlabel(name.replace("_", " "), fontsize=9)
            axes.margins(0.12)
            axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
            if i % 3 == 0:
                axes.set_ylabel("$C_l$")
    return figure


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
    known = ("png", "svg", "pdf")
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in known:
        raise LensrlError(f"cannot save a figure as {path.name!r}: end the name in .{', .'.join(known)}")
    with _style(), new_file(path) as partial:
        figure.savefig(partial, format=suffix, dpi=160)


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE):
        yield


def _layer_axes(count: int, layers: Sequence[int] | None = None) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(min(max(7.2, 0.28 * count), 12), 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    numbers = list(layers) if layers is not None else list(range(count))
    axes.set_xticks(numbers[:: 1 if count <= 20 else 2])
    axes.set_xlim(min(numbers, default=0) - 0.6, max(numbers, default=0) + 0.6)
    axes.set_xlabel("layer")
    return figure, axes


def _points(axes: Axes, x: pd.Series, y: pd.Series, low: pd.Series, high: pd.Series, colour: str, label: str) -> None:
    axes.errorbar(
        x, y, yerr=np.maximum([y - low, high - y], 0), fmt="o", color=colour, markersize=5, capsize=2.5, linewidth=1.2,
        label=label,
    )  # fmt: skip

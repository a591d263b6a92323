"""The profile of a verdict, with the fitted shapes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from lensrl.judge.verdict import Verdict
from lensrl.measures.profile import thirds
from lensrl.measures.shapes import ShapeFit, best_shape
from lensrl.show.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    RED,
    draw_points,
    entitle,
    is_narrow,
    legend_above,
    mark_size,
    over_layers,
    signed,
    zero_and_one,
)
from lensrl.show.words import Look

HUMP = "hump"
VERDICTS = ("supported", "contradicted", "undetermined")
PLACES = {"step": "change point", "sigmoid": "middle of the step", HUMP: "peak", "asymmetric hump": "peak"}
TINT = "#f1f3f7"  # under the middle third: lighter than the grid


def draw_verdict(axes: Axes, verdict: Verdict, *, title: str = "", look: Look | None = None) -> Axes:
    """Draw C_l with its interval, the best hump, the shape that predicts unseen layers best, and the thirds of depth.

    A mark above the curves shows the change point or the peak of the best shape, with its 95 % interval. Without fitted
    shapes (fewer than 6 layers), the figure shows the profile and the thirds.
    """
    layers = verdict.profile["layer"].to_numpy()
    over_layers(axes, range(verdict.n_layers))
    zero_and_one(axes)
    size = mark_size(axes, verdict.n_layers)
    draw_points(axes, verdict.profile, "contribution", BLUE, label="$C_l$", zorder=2, markersize=size)

    # the hump, and the best shape where it is another
    shapes = verdict.shapes
    best = best_shape(shapes) if shapes else None
    if HUMP in shapes:
        fitted = "best symmetric hump" if best is None or best.shape != HUMP else "hump: the best shape"
        axes.plot(layers, shapes[HUMP].curve, color=ORANGE, linewidth=1.8, label=fitted, zorder=1.5)
    if best is not None and best.shape != HUMP:
        drawn = "steps-mid" if best.shape == "step" else "default"
        axes.plot(layers, best.curve, color=RED, linewidth=1.8, drawstyle=drawn, zorder=1.6,
                  label=f"{best.shape}: the best shape")  # fmt: skip

    # room for the place above and for the thirds below
    _limits(axes, verdict, room_above=best is not None and best.shape in PLACES)
    if best is not None and best.shape in PLACES:
        _place(axes, best)
    _thirds(axes, verdict)
    axes.set_ylabel("contribution $C_l$")
    legend_above(axes)
    counts = {word: sum(c.verdict == word for c in verdict.claims) for word in VERDICTS}
    said = f"Layer contributions of {len(layers)} layers with fitted shapes. Of {len(verdict.claims)} claims, "
    said += ", ".join(f"{count} {word}" for word, count in counts.items()) + "."
    return entitle(axes, title, said, look)


def _limits(axes: Axes, verdict: Verdict, *, room_above: bool) -> None:
    """Set limits around the profile and its intervals, with bands for the thirds (below) and the place (above)."""
    ends = verdict.profile[["contribution", "low", "high"]].to_numpy(float)
    ends = np.append(ends[np.isfinite(ends)], [0, 1])
    low, high = max(ends.min(), -1.5), min(ends.max(), 2.5)
    span = high - low
    below = 0.3 if is_narrow(axes) else 0.16  # two lines of words, or one
    axes.set_ylim(low - below * span, high + (0.16 if room_above else 0.05) * span)


def _place(axes: Axes, fit: ShapeFit) -> None:
    """Mark the change point, between the layers on either side, or the peak, with its interval."""
    shift = -0.5 if fit.shape == "step" else 0.0
    where, low, high = (f"{value:.3g}" for value in (fit.where, fit.low, fit.high))
    interval = "" if low == high else f" [{low}, {high}]"
    axes.errorbar(
        fit.where + shift, 0.94, xerr=[[fit.where - fit.low], [fit.high - fit.where]],
        transform=blended_transform_factory(axes.transData, axes.transAxes), fmt="D", color=INK, markersize=5,
        capsize=3, linewidth=1.4, label=f"{PLACES[fit.shape]}: layer {where}{interval}",
    )  # fmt: skip


def _thirds(axes: Axes, verdict: Verdict) -> None:
    """Shade the middle third, and write the mean of each third at the bottom."""
    depth, layers = np.arange(verdict.n_layers), verdict.profile["layer"].to_numpy()
    places, parts = thirds(depth, verdict.n_layers), thirds(layers, verdict.n_layers)
    narrow = is_narrow(axes)
    for name, here, part in zip(("first", "middle", "last"), places, parts, strict=True):
        if not here.any():
            continue
        left, right = depth[here].min() - 0.5, depth[here].max() + 0.5
        if name == "middle":
            axes.axvspan(left, right, color=TINT, zorder=0, linewidth=0)
        text = name if narrow else f"{name} third"
        if part.any():
            mean = signed(verdict.profile["contribution"][part].mean())
            text += f"\n{mean}" if narrow else f": mean {mean}"
        axes.text((left + right) / 2, 0.03, text, transform=blended_transform_factory(axes.transData, axes.transAxes),
                  ha="center", va="bottom", fontsize="small", color=MUTED)  # fmt: skip

"""Figures of made-up tables, and what can be read back from what matplotlib really draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from lensrl.compare.predictors import PREDICTORS
from lensrl.judge.agreement import StudyAgreement
from lensrl.judge.verdict import Verdict, verdict
from lensrl.show.figures.agreement import draw_agreement
from lensrl.show.figures.layers import draw_cka_map, draw_contributions, draw_delta_norms, draw_weights
from lensrl.show.figures.overlap import draw_overlaps
from lensrl.show.figures.patching import draw_recoveries
from lensrl.show.figures.scatter import draw_coefficients, draw_scatter
from lensrl.show.figures.style import canvas, house_style, width_for
from lensrl.show.figures.training import draw_training
from lensrl.show.figures.verdict import draw_verdict
from lensrl.show.words import Look

DEPTHS = [8, 36]
KINDS = ["contribution", "recovery", "delta", "matrices", "map", "verdict", "training", "coefficients", "scatter",
         "overlap", "agreement"]  # fmt: skip
COLLAPSED, MISSING, WILD = 2, 5, 1  # layers

# Tables to draw.


def profile(layers: int) -> pd.DataFrame:
    """Contributions below 0 and above 1, one of a collapsed run, one that is missing."""
    rng = np.random.default_rng(layers)
    value = rng.uniform(-0.4, 1.6, layers)
    table = pd.DataFrame({"layer": range(layers), "contribution": value, "status": "defined", "reason": ""})
    table["low"], table["high"] = value - rng.uniform(0, 0.3, layers), value + rng.uniform(0, 0.3, layers)
    table.loc[COLLAPSED, ["status", "reason"]] = ["collapsed", f"layer-{COLLAPSED} seed 0: every reward is 0"]
    table.loc[MISSING, ["status", "reason"]] = ["missing", f"no run layer-{MISSING}"]
    table.loc[MISSING, ["contribution", "low", "high"]] = np.nan
    return table


def recoveries(layers: int) -> pd.DataFrame:
    """Both kinds of patch with two metrics each; one value far off any scale, one undefined."""
    rng = np.random.default_rng(layers)
    contribution = profile(layers)["contribution"]
    rows = [
        {"layer": layer, "what": what, "metric": metric, "recovery": value, "low": value - 0.2, "high": value + 0.1}
        | {"contribution": contribution[layer], "reason": "", "sets": "single"}
        | {"contribution_low": contribution[layer] - 0.1, "contribution_high": contribution[layer] + 0.2}
        for layer in range(layers)
        for what, metric in (
            ("weights", "score"),
            ("weights", "reference_logprob"),
            ("activations", "reference_logprob"),
            ("activations", "logit_difference"),
        )
        for value in [rng.uniform(-0.5, 1.5)]
    ]
    table = pd.DataFrame(rows)
    weights = (table["what"] == "weights") & (table["metric"] == "score")
    table.loc[weights & (table["layer"] == WILD), ["recovery", "low", "high"]] = [40.0, 30.0, 50.0]
    table.loc[weights & (table["layer"] == MISSING), ["recovery", "low", "high"]] = np.nan
    return table


def predictor_table(layers: int) -> pd.DataFrame:
    rng = np.random.default_rng(layers)
    depth = np.arange(layers, dtype=float)
    columns = {name: rng.uniform(1e-3, 2e-2, layers) for name in PREDICTORS}
    columns |= {"depth": depth, "distance_from_middle": np.abs(depth - depth.mean())}
    return profile(layers).assign(**columns)


def correlations() -> pd.DataFrame:
    found = {"method": "spearman", "coefficient": -0.43, "low": -0.81, "high": 0.12, "reason": ""}
    beyond = found | {"method": "detrended", "coefficient": 0.2, "low": -0.5, "high": 0.7}
    table = pd.DataFrame([{"predictor": name} | row for row in (found, beyond) for name in PREDICTORS])
    table.loc[0, "reason"] = "3 layers with both values: at least 4 are needed"
    table.loc[0, ["coefficient", "low", "high"]] = np.nan
    return table


def curves(layers: int) -> list[tuple[str, pd.DataFrame]]:
    """Full RL, every single layer and a set; the last layer's run ended early."""
    rng = np.random.default_rng(layers)
    names = ["full-rl", *(f"layer-{layer}" for layer in range(layers)), "ends"]
    return [
        (name, pd.DataFrame({"step": np.arange(1, 1 + steps), "reward_mean": rng.uniform(0, 1, steps)}))
        for name in names
        for steps in [30 if name == f"layer-{layers - 1}" else 60]
    ]


def of_seeds(layers: int) -> pd.DataFrame:
    """The contribution of each of three seeds, beside their mean."""
    table = profile(layers).dropna(subset=["contribution"])
    return pd.concat(table[["layer", "contribution"]].assign(contribution=table["contribution"] + d, seed=i)
                     for i, d in enumerate((-0.05, 0.0, 0.05)))  # fmt: skip


def by_matrix(layers: int) -> pd.DataFrame:
    """The change of seven matrices a layer, as `compare_weights` has it."""
    rng = np.random.default_rng(layers)
    inner = [f"self_attn.{m}_proj" for m in "qkvo"] + [f"mlp.{m}_proj" for m in ("gate", "up", "down")]
    rows = [{"parameter": f"model.layers.{layer}.{name}.weight", "layer": layer, "component": "", "spectral": 1.0,
             "relative": rng.uniform(0, 0.01), "frobenius": 1.0, "rounding_norm": 0.0}
            for layer in range(layers) for name in inner]  # fmt: skip
    return pd.DataFrame(rows)


def judged(name: str, layers: int) -> Verdict:
    """The verdict on a planted profile: a step that falls at layer 5 of 8 or 20 of 36, a hump, or three layers."""
    rng = np.random.default_rng(0)
    depth = np.arange(layers)
    shape = {
        "step": np.where(depth < {8: 5, 36: 20}.get(layers, 2), 0.9, 0.3),
        "hump": np.exp(-((depth / (layers - 1) - 0.5) ** 2) / (2 * 0.15**2)),
    }[name]
    table = pd.DataFrame({"layer": depth, "contribution": shape + 0.02 * rng.normal(size=layers)})
    with TemporaryDirectory() as folder:
        table.to_csv(path := Path(folder) / "planted.csv", index=False)
        return verdict(path)


def overlaps_of(layers: int) -> pd.DataFrame:
    """The overlap of full RL and every layer with each other, as `lensrl.overlaps` has it."""
    names = ["full-rl", *(f"layer-{layer}" for layer in range(layers))]
    rows = [(run, other, "samples" if run == other else "runs", 0.5 + 0.4 / (1 + abs(i - j)))
            for i, run in enumerate(names) for j, other in enumerate(names[i:], i)]  # fmt: skip
    return pd.DataFrame(rows, columns=["run", "other", "kind", "overlap"])


def agreed(count: int) -> StudyAgreement:
    """The agreement of so many studies."""
    names = [f"qwen3-{i}" for i in range(count)]
    pairs = [{"first": a, "second": b, "status": "defined", "spearman": -0.52, "spearman_low": -0.88,
              "spearman_high": -0.1} for i, a in enumerate(names) for b in names[i + 1 :]]  # fmt: skip
    return StudyAgreement(pd.DataFrame({"study": names, "reliability": 0.97, "reason": ""}), pd.DataFrame(pairs))


# Figures of them.


def drawn_by(draw: Callable[..., Axes], *tables: Any, look: Look | None = None, **options: Any) -> Figure:
    """The figure that a function draws on Axes of its own, with the size that `lensrl.plot` gives it."""
    look = look or Look(shown=False)
    size = {name: options.pop(name) for name in ("wide", "high", "square") if name in options}
    with house_style(look.points):
        (axes,) = canvas(look, **size)
        drawn = draw(axes, *tables, look=look, **options)
    assert drawn is axes
    found = axes.get_figure(root=True)
    assert found is not None
    return found


def figure(kind: str, layers: int, look: Look | None = None) -> Figure:
    wide: dict[str, Any] = {"look": look, "wide": width_for(layers)}
    if kind == "contribution":
        title = "qwen3-1.7b-math: layer contribution, 95 % intervals"
        return drawn_by(draw_contributions, profile(layers), of_seeds(layers), title=title, **wide)
    if kind == "recovery":
        rows = recoveries(layers)
        title = "qwen3-1.7b-math: block of full-rl into base, seed 0"
        return drawn_by(draw_recoveries, rows[rows["what"] == "weights"], title=title, **wide)
    if kind == "delta":
        return drawn_by(draw_delta_norms, predictor_table(layers), title="weight deltas", **wide)
    if kind == "matrices":
        return drawn_by(draw_weights, by_matrix(layers), title="qwen3-1.7b-math: weight deltas of full-rl", **wide)
    if kind == "map":
        values = np.random.default_rng(0).uniform(0, 1, (layers, layers))
        return drawn_by(draw_cka_map, values, "base", "full-rl", look=look, wide=5.2, high=4.4, square=True)
    if kind == "verdict":
        title = "qwen3-1.7b-grpo-math: the profile and its shapes, 95 % intervals"
        return drawn_by(draw_verdict, judged("step", layers), title=title, high=3.6, **wide)
    if kind == "training":
        return drawn_by(draw_training, curves(layers), title="seed 0", look=look)
    if kind == "overlap":
        side = min(2.6 + 0.38 * layers, 8)
        return drawn_by(
            draw_overlaps, overlaps_of(layers), title="tiny", look=look, wide=side + 1, high=side, square=True
        )
    if kind == "agreement":
        side = 1.05 * (count := 3 if layers < 20 else 5)
        return drawn_by(draw_agreement, agreed(count), title="Agreement of layer contributions, 95 % intervals",
                        look=look, wide=side + 3.4, high=side + 1.9)  # fmt: skip
    if kind == "coefficients":
        tall = 0.3 * len(PREDICTORS) + 0.9
        return drawn_by(draw_coefficients, correlations(), PREDICTORS, title="tiny", look=look, wide=6.4, high=tall)
    return scatter("sufficiency", layers, look)


def scatter(name: str, layers: int, look: Look | None = None) -> Figure:
    return drawn_by(
        draw_scatter, predictor_table(layers), name, PREDICTORS[name], correlations(), look=look, wide=4.6, high=3.6
    )


# What a figure holds.


def drawn_texts(figure: Figure) -> list[Text]:
    """The texts that drawing the figure draws, laid out."""
    drawn: list[Text] = []
    draw = Text.draw

    def recorded(self: Text, renderer: Any) -> None:
        drawn.append(self)
        draw(self, renderer)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Text, "draw", recorded)
        figure.draw_without_rendering()
    return [text for text in drawn if text.get_visible() and text.get_text().strip()]


def marked(axes: Axes, marker: str | int, colour: str | None = None) -> set[tuple[float, float]]:
    """The points that the axes draw with a marker, rounded."""
    return {
        (round(float(x), 9), round(float(y), 9))
        for line in axes.lines
        if line.get_marker() == marker and colour in (None, to_hex(line.get_color()))
        for x, y in np.asarray(line.get_xydata(), float)
        if np.isfinite([x, y]).all()
    }


def points(table: pd.DataFrame, x: str, y: str) -> set[tuple[float, float]]:
    finite = table[np.isfinite(table[y].to_numpy(float))]
    return {(round(float(a), 9), round(float(b), 9)) for a, b in zip(finite[x], finite[y], strict=True)}


def intervals(axes: Axes) -> set[tuple[float, float, float]]:
    """(x, low, high) of the upright lines that the axes draw."""
    return {
        (round(float(x), 9), round(float(low), 9), round(float(high), 9))
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for (x, low), (_, high) in (segment for segment in collection.get_segments() if len(segment))
        if np.isfinite([low, high]).all()
    }


def is_in_view(axes: Axes, drawn: set[tuple[float, float]]) -> bool:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return all(left <= x <= right and low <= y <= high for x, y in drawn)


def legend(axes: Axes) -> Any:
    found = axes.get_legend()
    assert found is not None
    return found

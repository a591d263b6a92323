"""Figures read back from what matplotlib really draws: every number there, every text inside and apart."""

from __future__ import annotations

import errno
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from lensrl.compare.predictors import PREDICTORS
from lensrl.errors import LensrlError
from lensrl.judge.verdict import Verdict, verdict
from lensrl.show.figures import (
    contribution_figure,
    delta_figure,
    recovery_figure,
    save_figure,
    scatter_figure,
    training_figure,
    verdict_figure,
)

DEPTHS = [8, 36]
COLLAPSED, MISSING, WILD = 2, 5, 1  # layers


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
        | {"contribution": contribution[layer], "reason": ""}
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


def figure(kind: str, layers: int) -> Figure:
    if kind == "contribution":
        return contribution_figure(profile(layers), "qwen3-1.7b-math: layer contribution, 95 % intervals")
    if kind == "recovery":
        return recovery_figure(recoveries(layers), "block of full-rl into base, qwen3-1.7b-math, seed 0")
    if kind == "delta":
        return delta_figure(predictor_table(layers))
    if kind == "verdict":
        return verdict_figure(
            judged("step", layers), "qwen3-1.7b-grpo-math: the profile and its shapes, 95 % intervals"
        )
    if kind == "training":
        return training_figure(curves(layers), title="seed 0")
    return scatter_figure(predictor_table(layers), PREDICTORS, correlations())


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


def described(*texts: Text) -> str:
    return " and ".join(f"{text.get_text()!r} at {text.get_window_extent()}" for text in texts)


@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("kind", ["contribution", "recovery", "delta", "training", "scatter", "verdict"])
def test_every_text_lies_on_the_canvas_and_tick_labels_keep_apart(kind: str, layers: int) -> None:
    drawn = figure(kind, layers)
    texts = drawn_texts(drawn)
    canvas = drawn.bbox
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= canvas.width + 1 and box.y1 <= canvas.height + 1
        assert inside, f"{described(text)} is outside {canvas}"
    for axes in drawn.axes:
        ticks = {tick.label1 for tick in axes.xaxis.get_major_ticks()}
        labels = sorted((text for text in texts if text in ticks), key=lambda text: text.get_window_extent().x0)
        shares_an_axis_or_scales_colours = not axes.get_xlabel()
        assert len(labels) >= 2 or shares_an_axis_or_scales_colours
        for left, right in pairwise(labels):
            assert left.get_window_extent().x1 + 2 <= right.get_window_extent().x0, described(left, right)
    assert sum(text.get_text() == "layer" for text in texts) == (
        0 if kind in ("training", "scatter") and layers == 8 else 1
    )


@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("kind", ["contribution", "recovery", "delta", "training", "verdict"])
def test_no_two_texts_overlap(kind: str, layers: int) -> None:
    texts = list(dict.fromkeys(drawn_texts(figure(kind, layers))))
    for i, text in enumerate(texts):
        for other in texts[i + 1 :]:
            assert not text.get_window_extent().overlaps(other.get_window_extent()), described(text, other)


def marked(axes: Axes, marker: str, colour: str | None = None) -> set[tuple[float, float]]:
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
        for (x, low), (_, high) in collection.get_segments()
        if np.isfinite([low, high]).all()
    }


def is_in_view(axes: Axes, drawn: set[tuple[float, float]]) -> bool:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return all(left <= x <= right and low <= y <= high for x, y in drawn)


@pytest.mark.parametrize("layers", DEPTHS)
def test_the_profile_draws_every_contribution_with_its_interval_and_marks_the_others(layers: int) -> None:
    table = profile(layers)
    drawn = contribution_figure(table)
    (axes,) = drawn.axes
    assert marked(axes, "o") == points(table, "layer", "contribution")
    assert len(marked(axes, "o")) == layers - 1
    assert {x for x, _ in marked(axes, "x")} == {MISSING}
    with_interval = table.drop(MISSING)
    assert intervals(axes) == {
        (round(float(layer), 9), round(low, 9), round(high, 9))
        for layer, low, high in zip(with_interval["layer"], with_interval["low"], with_interval["high"], strict=True)
    }
    ends = {(x, y) for x, low, high in intervals(axes) for y in (low, high)}
    assert is_in_view(axes, marked(axes, "o") | marked(axes, "x") | ends)
    collapsed, defined = (
        {x for line in axes.lines if line.get_marker() == "o" and (line.get_markerfacecolor() == "white") is hollow
         for x in np.asarray(line.get_xdata())}
        for hollow in (True, False)
    )  # fmt: skip
    assert collapsed == {COLLAPSED}
    assert defined == set(range(layers)) - {COLLAPSED, MISSING}
    assert {"no value", "run collapsed"} <= {text.get_text() for text in drawn_texts(drawn)}


def test_a_profile_without_any_value_says_why_on_the_canvas() -> None:
    reason = "the interval of S_full - S_base contains 0: 0.0104 [-0.0312, 0.0547], and no more can be said " * 2
    table = profile(8).assign(status="undefined", reason=reason, contribution=np.nan, low=np.nan, high=np.nan)
    drawn = contribution_figure(table)
    assert len(marked(drawn.axes[0], "x")) == 8
    said = [text for text in drawn_texts(drawn) if "S_full" in text.get_text()]
    assert " ".join(said[0].get_text().split()) == f"undefined: {reason}".strip()
    box = said[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn.bbox.width


@pytest.mark.parametrize("layers", DEPTHS)
def test_every_recovery_is_drawn_at_its_layer_or_pointed_at_from_the_edge(layers: int) -> None:
    table = recoveries(layers)
    drawn = recovery_figure(table, "")
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["weights", "activations"]
    for axes in drawn.axes:
        part = table[table["what"] == axes.get_title(loc="left")]
        at_layers = {(round(x), y) for x, y in marked(axes, "o")}
        assert at_layers == points(part, "layer", "recovery")
        assert {(round(x), y) for x, y in marked(axes, "D")} == points(part, "layer", "contribution")
        assert len({x for x, _ in marked(axes, "o") | marked(axes, "D")}) == len(marked(axes, "o") | marked(axes, "D"))
        hidden = {(x, y) for x, y in marked(axes, "o") if not is_in_view(axes, {(x, y)})}
        low, high = axes.get_ylim()
        assert marked(axes, "^") == {(x, round(float(high), 9)) for x, y in hidden if y > high}
        assert marked(axes, "v") == {(x, round(float(low), 9)) for x, y in hidden if y < low}
        assert {round(x) for x, _ in hidden} == ({WILD} if part["recovery"].max() > 10 else set())
        by_metric = {
            metric: {(round(x), y) for x, y in marked(axes, "o", colour)}
            for metric, colour in (
                (text.get_text(), to_hex(handle.get_color()))
                for text, handle in zip(legend(axes).get_texts(), legend(axes).legend_handles, strict=True)
                if text.get_text() != "$C_l$"
            )
        }
        called = {"score": "score", "reference_logprob": "log p(reference)", "logit_difference": "logit difference"}
        assert by_metric == {
            called[str(metric)]: points(rows, "layer", "recovery") for metric, rows in part.groupby("metric")
        }


def legend(axes: Axes) -> Any:
    found = axes.get_legend()
    assert found is not None
    return found


@pytest.mark.parametrize("layers", DEPTHS)
def test_the_deltas_of_both_kinds_are_drawn_in_view(layers: int) -> None:
    table = predictor_table(layers)
    table.loc[MISSING, "relative_delta_single"] = np.nan
    (axes,) = delta_figure(table).axes
    assert marked(axes, "o") == points(table, "layer", "relative_delta_full")
    assert marked(axes, "s") == points(table, "layer", "relative_delta_single")
    assert is_in_view(axes, marked(axes, "o") | marked(axes, "s"))


@pytest.mark.parametrize("layers", DEPTHS)
def test_every_curve_is_drawn_as_its_running_mean_and_an_early_end_is_crossed(layers: int) -> None:
    runs = curves(layers)
    axes = training_figure(runs, window=5).axes[0]
    lines = [line for line in axes.lines if line.get_marker() == "None"]
    assert len(lines) == len(runs)
    for line, (_, curve) in zip(lines, runs, strict=True):
        rewards = curve["reward_mean"].to_numpy()
        means = [rewards[max(0, i - 4) : i + 1].mean() for i in range(len(rewards))]
        np.testing.assert_array_equal(line.get_xdata(), curve["step"])
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), means)
    early = dict(runs)[f"layer-{layers - 1}"]["reward_mean"].to_numpy()
    assert marked(axes, "x") == {(30, round(float(early[-5:].mean()), 9))}


@pytest.mark.parametrize("layers", DEPTHS)
def test_every_layer_that_is_correlated_is_in_each_scatter_panel_and_no_other(layers: int) -> None:
    table = predictor_table(layers)
    drawn = scatter_figure(table, PREDICTORS, correlations())
    panels = {axes.get_xlabel(): axes for axes in drawn.axes if axes.get_xlabel()}
    assert panels.keys() == set(PREDICTORS.values())
    for name, label in PREDICTORS.items():
        (dots,) = (c for c in panels[label].collections if isinstance(c, PathCollection))
        offsets = {(round(float(x), 9), round(float(y), 9)) for x, y in np.asarray(dots.get_offsets(), float)}
        assert offsets == points(table[table["status"] == "defined"], name, "contribution")
        assert len(offsets) == layers - 2
        assert is_in_view(panels[label], offsets)
    titles = [panels[label].get_title(loc="left") for label in PREDICTORS.values()]
    assert " ".join(titles[0].split()) == "3 layers with both values: at least 4 are needed"
    assert set(titles[1:]) == {"ρ = −0.43 [−0.81, 0.12]\nbeyond depth 0.20 [−0.50, 0.70]"}


def test_a_predictor_that_is_missing_or_the_same_everywhere_has_no_panel() -> None:
    table = predictor_table(8).drop(columns="bypass_score").assign(parameters=100)
    drawn = scatter_figure(table, PREDICTORS, correlations())
    labels = {axes.get_xlabel() for axes in drawn.axes}
    assert labels == set(PREDICTORS.values()) - {PREDICTORS["bypass_score"], PREDICTORS["parameters"]}


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


@pytest.mark.parametrize(("shape", "layers", "where"), [("step", 8, 4.5), ("step", 36, 19.5), ("hump", 36, 17.5)])
def test_the_verdict_figure_draws_profile_shapes_and_place(shape: str, layers: int, where: float) -> None:
    found = judged(shape, layers)
    (axes,) = verdict_figure(found).axes
    assert points(found.profile, "layer", "contribution") == {p for p in marked(axes, "o") if p[0] == round(p[0])}
    curves = [np.asarray(line.get_ydata(), float) for line in axes.lines if len(np.asarray(line.get_ydata())) == layers]
    for fit in {shape, "hump"}:
        assert any(np.array_equal(curve, found.shapes[fit].curve) for curve in curves)
    (place,) = marked(axes, "D")
    assert place[0] == pytest.approx(where, abs=0.5 if shape == "hump" else 0)
    labels = [text.get_text() for text in legend(axes).get_texts()]
    assert any(label.startswith("peak" if shape == "hump" else f"change point: layer {where + 0.5:.0f}")
               for label in labels)  # fmt: skip
    said = {text.get_text().split(":")[0] for text in axes.texts}
    assert said == {"first third", "middle third", "last third"}


def test_three_layers_have_a_profile_and_no_shapes() -> None:
    (axes,) = verdict_figure(judged("step", 3)).axes
    assert [text.get_text() for text in legend(axes).get_texts()] == ["$C_l$"]


@pytest.mark.parametrize(("name", "magic"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml"), ("C.PDF", b"%PDF")])
def test_a_figure_is_saved_whole_or_the_old_file_stays(
    name: str, magic: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figures" / name
    save_figure(figure("delta", 8), path)
    before = path.read_bytes()
    assert before.startswith(magic)

    def savefig_on_a_full_disk(self: Figure, target: Path, **_: Any) -> None:
        target.write_bytes(magic)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", savefig_on_a_full_disk)
    with pytest.raises(LensrlError, match=f"{name} could not be written .*No space left"):
        save_figure(figure("contribution", 8), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_another_format_is_refused_with_the_known_ones_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(LensrlError, match=r"cannot save a figure as 'c\.gif': end the name in \.png, \.svg, \.pdf"):
        save_figure(figure("delta", 8), tmp_path / "c.gif")
    assert not list(tmp_path.iterdir())

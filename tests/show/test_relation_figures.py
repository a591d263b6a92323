"""Figures of training, of predictors and of the verdict: every curve, point and fitted shape is there."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from lensrl.compare.predictors import PREDICTORS
from lensrl.show.figures.scatter import drawable
from lensrl.show.figures.training import draw_training
from lensrl.show.figures.verdict import draw_verdict
from tests.show.drawn import (
    DEPTHS,
    curves,
    drawn_by,
    intervals,
    is_in_view,
    judged,
    legend,
    marked,
    points,
    predictor_table,
    scatter,
)


def test_few_curves_are_drawn_as_their_running_means_with_names_at_their_ends() -> None:
    runs = curves(8)
    axes = drawn_by(draw_training, runs, window=5).axes[0]
    lines = [line for line in axes.lines if line.get_marker() == "None"]
    assert len(lines) == len(runs)
    for line, (_, curve) in zip(lines, runs, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve["step"])
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), running_mean(curve))
    assert marked(axes, "x") == {(30, round(float(running_mean(dict(runs)["layer-7"])[-1]), 9))}
    assert {text.get_text() for text in axes.texts} == {name for name, _ in runs} - {"layer-7"} | {"layer-7 ×"}


def running_mean(curve: pd.DataFrame, window: int = 5) -> list[float]:
    rewards = curve["reward_mean"].to_numpy()
    return [rewards[max(0, i - window + 1) : i + 1].mean() for i in range(len(rewards))]


def test_many_curves_become_full_rl_the_best_the_median_and_the_spread_and_chosen_layers() -> None:
    runs = curves(36)
    single = np.array([running_mean(curve) for name, curve in runs if name.startswith("layer-") and len(curve) == 60])
    best = int(single[:, -1].argmax())
    for layers, expected in ((None, {"full-rl", "ends", "median layer", f"best: layer-{best}"}),
                             ([3, 17], {"full-rl", "ends", "median layer", "layer-3", "layer-17"})):  # fmt: skip
        axes = drawn_by(draw_training, runs, layers=layers).axes[0]
        assert {text.get_text() for text in axes.texts} == expected
        drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
        assert any(len(y) == 60 and np.allclose(y[-30:], np.median(single, axis=0)[-30:]) for y in drawn)
        assert any(np.allclose(y, running_mean(runs[0][1])) for y in drawn if len(y) == 60)
        assert len(axes.collections) == 2  # the middle half and the whole range


@pytest.mark.parametrize("layers", DEPTHS)
def test_every_layer_that_is_correlated_is_in_the_scatter_with_its_interval_and_no_other(layers: int) -> None:
    table = predictor_table(layers)
    defined = table[table["status"] == "defined"]
    for name, label in PREDICTORS.items():
        axes = scatter(name, layers).axes[0]
        assert axes.get_xlabel() == label
        (dots,) = (c for c in axes.collections if isinstance(c, PathCollection))
        offsets = {(round(float(x), 9), round(float(y), 9)) for x, y in np.asarray(dots.get_offsets(), float)}
        assert offsets == points(defined, name, "contribution")
        assert len(offsets) == layers - 2
        assert is_in_view(axes, offsets)
        assert {ends[1:] for ends in intervals(axes)} == {
            (round(low, 9), round(high, 9)) for low, high in zip(defined["low"], defined["high"], strict=True)
        }
    first, *others = (scatter(name, layers).axes[0].get_title(loc="left") for name in PREDICTORS)
    assert " ".join(first.split()) == "3 layers with both values: at least 4 are needed"
    assert set(others) == {"ρ = −0.43 [−0.81, 0.12]\nbeyond depth 0.20 [−0.50, 0.70]"}


def test_a_predictor_that_is_missing_or_the_same_everywhere_is_not_drawn() -> None:
    table = predictor_table(8).drop(columns="bypass_score").assign(parameters=100)
    assert drawable(table, PREDICTORS) == [name for name in PREDICTORS if name not in ("bypass_score", "parameters")]


@pytest.mark.parametrize(("shape", "layers", "where"), [("step", 36, 19.5), ("hump", 36, 17.5)])
def test_the_verdict_figure_draws_profile_shapes_and_place(shape: str, layers: int, where: float) -> None:
    found = judged(shape, layers)
    (axes,) = drawn_by(draw_verdict, found).axes
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
    (axes,) = drawn_by(draw_verdict, judged("step", 3)).axes
    assert [text.get_text() for text in legend(axes).get_texts()] == ["$C_l$"]

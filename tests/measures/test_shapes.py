"""Shapes over depth: every layer really left out, planted shapes found, and p that are not small by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from lensrl.measures.shapes import SHAPES, best_shape, compare_shapes

EVERY_OTHER = np.arange(0, 28, 3)


def curves(shape: str, x: np.ndarray) -> list[np.ndarray]:
    """Every curve of a family, as the module's docstring describes them."""
    if shape == "monotone":
        return [x, x**3, 1 - (1 - x) ** 3]
    if shape == "step":
        return [(np.arange(len(x)) >= k).astype(float) for k in range(2, len(x) - 1)]
    if shape == "sigmoid":
        return [expit((x - place) / width) for place in np.linspace(0.1, 0.9, 33) for width in (0.03, 0.05, 0.1)]
    peaks = [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
    widths = [0.08, 0.15, 0.25, 0.4]
    if shape == "hump":
        return [np.exp(-(((x - peak) / width) ** 2) / 2) for peak in peaks for width in widths]
    sides = [(before, behind) for before in (*widths, 1.0) for behind in (*widths, 1.0)]
    return [np.exp(-(((x - p) / np.where(x < p, b, a)) ** 2) / 2) for p in peaks for b, a in sides]


def left_out_error(shape: str, x: np.ndarray, profile: np.ndarray) -> float:
    """The family fitted without a layer, member by member, and asked for that layer; layer by layer."""
    errors = []
    for layer in range(len(x)):
        rest = np.arange(len(x)) != layer
        if shape == "constant":
            errors.append(profile[layer] - profile[rest].mean())
            continue
        found = []
        for curve in curves(shape, x):
            design = np.stack([np.ones(len(x)), curve], axis=1)
            fit = np.linalg.lstsq(design[rest], profile[rest], rcond=None)[0]
            if "hump" in shape and fit[1] < 0:
                fit = np.array([profile[rest].mean(), 0.0])
            found.append((np.sum((profile[rest] - design[rest] @ fit) ** 2), profile[layer] - design[layer] @ fit))
        least = min(rss for rss, _ in found)
        errors.append(np.mean([error for rss, error in found if rss < least + 1e-8]))  # equally good: their mean
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.mark.parametrize("layers", [np.arange(6), np.arange(8), np.arange(28), EVERY_OTHER], ids=len)
@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_that_of_layers_really_left_out(layers: np.ndarray, seed: int) -> None:
    n_layers = int(layers.max()) + 1
    profile = np.random.default_rng(seed).normal(size=len(layers))
    test = compare_shapes(layers, profile, n_layers, draws=1)
    for shape in SHAPES:
        error = left_out_error(shape, layers / (n_layers - 1), profile)
        assert test[shape].error == pytest.approx(error, rel=1e-6), shape
        assert test[shape].explained == pytest.approx(
            1 - (error / left_out_error("constant", layers, profile)) ** 2, abs=1e-6
        )
    assert best_shape(test).error == min(fit.error for fit in test.values())


PLANTED = {
    "constant": [lambda x: np.full(len(x), 0.1), lambda x: np.full(len(x), 0.7), lambda x: np.zeros(len(x))],
    "monotone": [lambda x: 0.2 + 0.5 * x, lambda x: 0.9 - 0.6 * x**3, lambda x: 1 - (1 - x) ** 3],
}


@pytest.mark.parametrize("n", [8, 28, 36])
def test_planted_constant_and_monotone_profiles_are_recognised(n: int) -> None:
    x = np.arange(n) / (n - 1)
    for shape, plants in PLANTED.items():
        for plant in plants:
            test = compare_shapes(np.arange(n), plant(x), n, draws=9)
            assert best_shape(test).shape == shape
            assert np.isnan(test[shape].where)
            np.testing.assert_allclose(test[shape].curve, plant(x), atol=1e-12)
            assert test[shape].rise == (plant(x)[-1] > plant(x)[0] + 1e-9 if shape == "monotone" else False)


@pytest.mark.parametrize("n", [8, 28, 36])
@pytest.mark.parametrize("step", [-0.5, 0.5], ids=["falls", "rises"])
def test_a_planted_step_is_found_where_it_is(n: int, step: float) -> None:
    for change in (2, n // 2, n - 2):
        test = compare_shapes(np.arange(n), 0.7 + step * (np.arange(n) >= change), n, draws=99)
        found = test["step"]
        assert (found.where, found.low, found.high) == (change, change, change)
        assert found.rise == (step > 0)


@pytest.mark.parametrize("n", [8, 28, 36])
@pytest.mark.parametrize("peak", [0.35, 0.5, 0.7])
def test_a_planted_hump_is_found_at_its_peak(n: int, peak: float) -> None:
    x = np.arange(n) / (n - 1)
    profile = 0.3 + 0.6 * np.exp(-(((x - peak) / 0.15) ** 2) / 2)
    test = compare_shapes(np.arange(n), profile, n, draws=99)
    found = test["hump"]
    assert (best_shape(test).shape, found.explained) == ("hump", pytest.approx(1))
    assert (found.where, found.low, found.high) == pytest.approx((peak * (n - 1),) * 3)
    assert found.rise


def test_a_dip_is_no_hump() -> None:
    x = np.arange(28) / 27
    dip = 0.9 - 0.6 * np.exp(-(((x - 0.5) / 0.15) ** 2) / 2) + np.random.default_rng(0).normal(0, 0.03, 28)
    test = compare_shapes(np.arange(28), dip, 28, draws=199)
    assert test["hump"].explained < 0.05
    np.testing.assert_allclose(test["hump"].curve, dip.mean())


def test_a_slow_rise_and_a_smooth_fall_have_their_own_families() -> None:
    rng, x = np.random.default_rng(3), np.arange(28) / 27
    slow = np.exp(-(((x - 0.55) / np.where(x < 0.55, 0.4, 0.08)) ** 2) / 2)
    found = compare_shapes(np.arange(28), slow + rng.normal(0, 0.03, 28), 28, draws=49)
    assert best_shape(found).shape == "asymmetric hump"
    assert found["asymmetric hump"].where == pytest.approx(0.55 * 27, abs=1.5)
    fall = compare_shapes(np.arange(28), 0.9 - 0.6 * expit((x - 0.65) / 0.1) + rng.normal(0, 0.01, 28), 28, draws=49)
    assert best_shape(fall).shape == "sigmoid"
    assert not fall["sigmoid"].rise
    assert fall["sigmoid"].low <= 0.65 * 27 <= fall["sigmoid"].high


def test_layers_that_are_missing_leave_a_gap_and_move_nothing() -> None:
    layers = np.delete(np.arange(28), [3, 13, 14, 20])
    x = layers / 27
    hump = compare_shapes(layers, 0.2 + np.exp(-(((x - 0.5) / 0.15) ** 2) / 2), 28, draws=19)
    assert (best_shape(hump).shape, hump["hump"].where) == ("hump", pytest.approx(13.5))
    step = compare_shapes(layers, np.where(layers >= 14, 0.2, 0.9), 28, draws=19)
    assert step["step"].where == 15  # the first layer beyond, of those there are


@pytest.mark.parametrize("seed", range(3))
def test_units_and_a_shift_of_the_profile_change_nothing_but_the_error(seed: int) -> None:
    profile = np.random.default_rng(seed).normal(size=10)
    one = compare_shapes(np.arange(10), profile, 10, draws=99)
    other = compare_shapes(np.arange(10), 300 * profile - 70, 10, draws=99)
    assert best_shape(one).shape == best_shape(other).shape
    for shape in SHAPES:
        assert other[shape].error == pytest.approx(300 * one[shape].error)
        assert other[shape].explained == pytest.approx(one[shape].explained)
        assert other[shape].where == pytest.approx(one[shape].where, nan_ok=True)


def test_below_six_layers_no_shape_is_told() -> None:
    with pytest.raises(ValueError, match="5 layers: shapes need at least 6"):
        compare_shapes(np.arange(5), np.arange(5.0), 28)

"""Shapes over depth: every layer really left out, planted shapes found, and p that are not small by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensrl.measures.shapes import SHAPES, compare_shapes

EVERY_OTHER = np.arange(0, 28, 3)


def curves(shape: str, x: np.ndarray) -> list[np.ndarray]:
    """Every curve of a family, as the module's docstring describes them."""
    if shape == "monotone":
        return [x, x**3, 1 - (1 - x) ** 3]
    if shape == "step":
        return [(np.arange(len(x)) >= k).astype(float) for k in range(2, len(x) - 1)]
    peaks = [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
    return [np.exp(-(((x - peak) / width) ** 2) / 2) for peak in peaks for width in (0.08, 0.15, 0.25, 0.4)]


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
            if shape == "hump" and fit[1] < 0:
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
        assert test.fits[shape].error == pytest.approx(error, rel=1e-6), shape
        assert test.fits[shape].explained == pytest.approx(
            1 - (error / left_out_error("constant", layers, profile)) ** 2, abs=1e-6
        )
    assert test.best == min(SHAPES, key=lambda shape: test.fits[shape].error)


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
            assert test.best == shape
            assert np.isnan(test.fits[shape].where)
            np.testing.assert_allclose(test.fits[shape].curve, plant(x), atol=1e-12)
            assert test.fits[shape].rise == (plant(x)[-1] > plant(x)[0] + 1e-9 if shape == "monotone" else False)


@pytest.mark.parametrize("n", [8, 28, 36])
@pytest.mark.parametrize("step", [-0.5, 0.5], ids=["falls", "rises"])
def test_a_planted_step_is_found_where_it_is(n: int, step: float) -> None:
    for change in (2, n // 2, n - 2):
        test = compare_shapes(np.arange(n), 0.7 + step * (np.arange(n) >= change), n, draws=99)
        found = test.fits["step"]
        assert (test.best, found.where, found.low, found.high) == ("step", change, change, change)
        assert found.rise == (step > 0)
        assert test.p_hump_over["step"] == 1


@pytest.mark.parametrize("n", [8, 28, 36])
@pytest.mark.parametrize("peak", [0.35, 0.5, 0.7])
def test_a_planted_hump_is_found_at_its_peak(n: int, peak: float) -> None:
    x = np.arange(n) / (n - 1)
    profile = 0.3 + 0.6 * np.exp(-(((x - peak) / 0.15) ** 2) / 2)
    test = compare_shapes(np.arange(n), profile, n, draws=99)
    found = test.fits["hump"]
    assert (test.best, found.explained) == ("hump", pytest.approx(1))
    assert (found.where, found.low, found.high) == pytest.approx((peak * (n - 1),) * 3)
    assert found.rise
    assert max(test.p_hump_over.values()) <= 0.02
    assert test.p_over_hump == 1


def test_a_dip_is_no_hump() -> None:
    x = np.arange(28) / 27
    dip = 0.9 - 0.6 * np.exp(-(((x - 0.5) / 0.15) ** 2) / 2) + np.random.default_rng(0).normal(0, 0.03, 28)
    test = compare_shapes(np.arange(28), dip, 28, draws=199)
    assert test.fits["hump"].explained < 0.05
    np.testing.assert_allclose(test.fits["hump"].curve, dip.mean())
    assert max(test.p_hump_over.values()) > 0.05


@pytest.mark.parametrize(
    ("truth", "p_of"),
    [("constant", "constant"), ("monotone", "monotone"), ("step", "step"), ("hump", "hump")],
)
def test_p_is_small_no_more_often_than_it_says(truth: str, p_of: str) -> None:
    """100 noisy profiles of a shape: against it, 5 of them or a few more are below 0.05."""
    x = np.arange(12) / 11
    mean = {
        "constant": np.zeros(12),
        "monotone": 4 * x,
        "step": np.where(x > 0.6, -4.0, 0.0),
        "hump": 4 * np.exp(-(((x - 0.5) / 0.15) ** 2) / 2),
    }[truth]
    rng, small = np.random.default_rng(7), 0
    for trial in range(100):
        test = compare_shapes(np.arange(12), mean + rng.normal(size=12), 12, draws=79, seed=trial)
        p = test.p_over_hump if p_of == "hump" else test.p_hump_over[p_of]
        small += p <= 0.05
    assert stats.binomtest(small, 100, 0.05, alternative="greater").pvalue > 0.005


def test_a_clear_hump_in_noise_beats_every_other_shape_and_a_cliff_beats_the_hump() -> None:
    rng, x = np.random.default_rng(3), np.arange(28) / 27
    hump = compare_shapes(np.arange(28), np.exp(-(((x - 0.5) / 0.15) ** 2) / 2) + rng.normal(0, 0.1, 28), 28)
    assert max(hump.p_hump_over.values()) < 0.01
    assert hump.p_over_hump > 0.05
    cliff = compare_shapes(np.arange(28), np.where(x < 0.66, 0.9, 0.4) + rng.normal(0, 0.1, 28), 28)
    assert cliff.p_hump_over["step"] > 0.05
    assert cliff.p_over_hump < 0.01
    assert cliff.fits["step"].low <= 18 <= cliff.fits["step"].high


def test_layers_that_are_missing_leave_a_gap_and_move_nothing() -> None:
    layers = np.delete(np.arange(28), [3, 13, 14, 20])
    x = layers / 27
    hump = compare_shapes(layers, 0.2 + np.exp(-(((x - 0.5) / 0.15) ** 2) / 2), 28, draws=19)
    assert (hump.best, hump.fits["hump"].where) == ("hump", pytest.approx(13.5))
    step = compare_shapes(layers, np.where(layers >= 14, 0.2, 0.9), 28, draws=19)
    assert (step.best, step.fits["step"].where) == ("step", 15)  # the first layer beyond, of those there are


@pytest.mark.parametrize("seed", range(3))
def test_units_and_a_shift_of_the_profile_change_nothing_but_the_error(seed: int) -> None:
    profile = np.random.default_rng(seed).normal(size=10)
    one = compare_shapes(np.arange(10), profile, 10, draws=99)
    other = compare_shapes(np.arange(10), 300 * profile - 70, 10, draws=99)
    assert (one.best, one.p_hump_over, one.p_over_hump) == (other.best, other.p_hump_over, other.p_over_hump)
    for shape in SHAPES:
        assert other.fits[shape].error == pytest.approx(300 * one.fits[shape].error)
        assert other.fits[shape].explained == pytest.approx(one.fits[shape].explained)
        assert other.fits[shape].where == pytest.approx(one.fits[shape].where, nan_ok=True)


def test_below_six_layers_no_shape_is_told() -> None:
    with pytest.raises(ValueError, match="5 layers: shapes need at least 6"):
        compare_shapes(np.arange(5), np.arange(5.0), 28)

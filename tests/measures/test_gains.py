"""Gains over crossed seeds and items: mean squares as loops, coverage, and a profile without items."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensrl.errors import LensrlError
from lensrl.measures.gains import LEAST_OF_TWO, Estimate, Gains

MIXED = ["a"] * 4 + ["b"] * 8


def test_the_error_is_that_of_two_crossed_random_effects() -> None:
    """Var = (MS_seed + MS_item - MS_rest) / (seeds * items), as loops; one benchmark."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 1)) + rng.normal(size=(1, 9)) + rng.normal(size=(4, 9))
    seed, item, mean = x.mean(axis=1), x.mean(axis=0), x.mean()
    ms_seed = sum(9 * (s - mean) ** 2 for s in seed) / 3
    ms_item = sum(4 * (i - mean) ** 2 for i in item) / 8
    ms_rest = sum((x[s, i] - seed[s] - item[i] + mean) ** 2 for s in range(4) for i in range(9)) / 24
    variance = (ms_seed + ms_item - ms_rest) / 36
    df = variance**2 / ((ms_seed / 36) ** 2 / 3 + (ms_item / 36) ** 2 / 8 + (ms_rest / 36) ** 2 / 24)
    found = Gains.from_items(x[None], ["only"] * 9).contrast(np.ones(1))
    assert (found.value, found.error, found.df) == pytest.approx((mean, np.sqrt(variance), df))


def test_a_contrast_is_the_gain_of_the_contrast() -> None:
    """Linear: contrasting the means is the same as contrasting every item's gains first."""
    rng = np.random.default_rng(1)
    gains = rng.normal(size=(2, 3, 12))
    weights = np.array([1.0, -0.7])
    ours = Gains.from_items(gains, MIXED).contrast(weights)
    alone = Gains.from_items(np.einsum("g,gsi->si", weights, gains)[None], MIXED).contrast(np.ones(1))
    assert np.array(ours) == pytest.approx(np.array(alone))


@pytest.mark.parametrize(("seeds", "share"), [(2, LEAST_OF_TWO), (3, 0.5), (5, 0.5)])
def test_full_rl_is_never_much_surer_than_single_layers_on_average(seeds: int, share: float) -> None:
    rng = np.random.default_rng(2)
    gains = rng.normal(size=(4, seeds, 1)) + np.zeros((4, seeds, 12))  # only seeds vary
    gains[-1] = 0.5  # the same with all seeds, by luck
    found = Gains.from_items(gains, MIXED).contrast(np.eye(4))
    assert found.error[-1] ** 2 == pytest.approx(share * (found.error[:-1] ** 2).mean())


def test_a_benchmark_of_one_item_is_refused() -> None:
    with pytest.raises(LensrlError, match="benchmark 'a' has a single item"):
        Gains.from_items(np.zeros((1, 1, 3)), ["a", "b", "b"])


@pytest.mark.parametrize(("seeds", "items"), [(2, 200), (3, 200), (5, 60)])
def test_intervals_over_seeds_and_items_cover_the_truth(seeds: int, items: int) -> None:
    """A gain that varies between seeds and between items alike; 95 of 100, give or take."""
    rng = np.random.default_rng(seeds)
    covered = 0
    for _ in range(600):
        x = rng.normal(0, 0.07, (seeds, 1)) + rng.normal(0, 1, (1, items)) + rng.normal(0, 1, (seeds, items))
        covered += 0 in Gains.from_items(x[None], ["only"] * items).contrast(np.ones(1)).interval()
    assert 0.925 < covered / 600 < 0.98


def test_a_profiles_roughness_is_its_error() -> None:
    """Noise of a known size on a line: the line costs nothing, and the noise is found."""
    rng = np.random.default_rng(4)
    errors, df = [], 0.0
    for _ in range(400):
        gains = Gains.from_profile(np.linspace(0.2, 1.0, 28) + rng.normal(0, 0.1, 28))
        found = gains.contrast(np.eye(29)[0])
        errors.append(found.error**2)
        df = found.df
        assert gains.contrast(np.eye(29)[-1])[:2] == (1.0, 0.0)
    assert np.mean(errors) == pytest.approx(0.01, rel=0.05)
    assert df == pytest.approx(2 * 0.01**2 / np.var(errors), rel=0.2)  # df of a scaled chi-squared


def test_one_sided_ps_are_students() -> None:
    some = Estimate(np.array([1.0, -2.0]), np.array([0.5, 1.0]), np.array([5.0, 9.0]))
    assert some.p_above(0.2) == pytest.approx(stats.t.sf([1.6, -2.2], [5, 9]))
    assert some.p_above(0.2) + some.p_below(0.2) == pytest.approx(1)


def test_what_is_certain_has_a_p_of_nothing_or_everything() -> None:
    sure = Estimate(np.array([1.0, 0.0, -1.0]), np.zeros(3), np.ones(3))
    assert sure.p_above() == pytest.approx([0, 0.5, 1])

"""Agreement of profiles: closed forms, brute force, planted truths, and how often the interval holds the truth.

At full length (`python -m tests.benchmarks.agreement`) the interval's coverage stands in `lensrl.measures.agreement`.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lensrl.measures.agreement import (
    COEFFICIENTS,
    Coefficient,
    Measured,
    _kendall,
    _spearman,
    agreement,
    ceiling,
    measured,
    on_common_depth,
    shared_error,
)
from lensrl.measures.gains import Gains

RISE = np.linspace(0.3, 0.95, 8)
QUICK = 600  # draws


def middles(n: int) -> np.ndarray:
    return (np.arange(n) + 0.5) / n


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    found: Any = stats.spearmanr(x, y)
    return float(found.statistic)


def drawn_gains(seeds: int, noise: float = 0.3, layers: int = 5, items: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mean = np.append(np.linspace(0.1, 0.4, layers), 0.4)[:, None, None]
    shared = rng.normal(0, 1, (1, 1, items)) + rng.normal(0, 0.2, (1, seeds, 1))  # of the base: the same for all layers
    return (
        mean + shared + rng.normal(0, noise, (layers + 1, seeds, items)) + rng.normal(0, 0.05, (layers + 1, seeds, 1))
    )


def test_profiles_meet_at_the_depths_of_the_one_with_fewer_layers() -> None:
    few, many = middles(8), middles(28)
    for x, y in ((few, many), (many, few)):
        common, to_x, to_y = on_common_depth(x, y)
        assert common == pytest.approx(few)
        for weights, depth in ((to_x, x), (to_y, y)):
            assert weights @ (3 * depth - 1) == pytest.approx(3 * few - 1)  # a line is what it was
            assert ((weights > 0).sum(axis=1) <= 2).all()
    common, to_x, to_y = on_common_depth(many, many)
    assert to_x == pytest.approx(np.eye(28))
    assert to_y == pytest.approx(np.eye(28))


def test_nothing_is_made_up_inside_a_gap() -> None:
    """Of 28 layers, 5 to 22 have no contribution: what eight layers have in the middle meets nothing."""
    gap = np.r_[middles(28)[:5], middles(28)[23:]]
    common, _, _ = on_common_depth(middles(8), gap)
    assert common == pytest.approx(middles(8)[[0, 7]])
    one_missing = np.delete(middles(28), 12)
    assert on_common_depth(middles(8), one_missing)[0] == pytest.approx(middles(8))
    assert on_common_depth(np.delete(middles(28), 3), one_missing)[0] == pytest.approx(np.delete(middles(28), [3, 12]))


def test_nothing_is_extrapolated() -> None:
    deep = middles(8)[4:]
    common, to_x, _ = on_common_depth(middles(4), deep)
    assert common == pytest.approx(middles(4)[2:])
    assert to_x @ np.arange(4.0) == pytest.approx([2, 3])


def test_the_error_is_that_of_two_layers_difference_and_what_all_layers_share_is_none() -> None:
    gains = Gains.from_items(drawn_gains(1), ["only"] * 60)
    found = measured(gains, np.eye(5))
    errors = [float(gains.contrast(np.eye(6)[i] - np.eye(6)[j]).error) for i, j in combinations(range(5), 2)]
    assert found.error**2 == pytest.approx(np.mean(np.square(errors)) / 2)
    assert found.values == pytest.approx(gains.mean[:-1])
    assert found.df == pytest.approx(59 * 4)
    assert found.reliability == pytest.approx(1 - found.error**2 / found.values.var(ddof=1))
    alone = float(gains.contrast(np.eye(6)[0]).error)
    assert found.error < alone / 2  # the shared items alone make each gain uncertain


def test_seeds_are_in_the_error_where_there_are_several() -> None:
    seeds = [measured(Gains.from_items(drawn_gains(3, 0.05, seed=i), ["only"] * 60), np.eye(5)) for i in range(60)]
    expected = np.sqrt((0.05**2 + 0.05**2 / 60) / 3)
    assert np.sqrt(np.mean([m.error**2 for m in seeds])) == pytest.approx(expected, rel=0.15)
    assert all(4 <= m.df <= 59 * 4 for m in seeds)


def test_a_profile_that_is_noise_has_no_reliability_and_one_without_error_all_of_it() -> None:
    assert Measured(np.array([0.1, 0.2, 0.15]), 0.2, 9.0).reliability == 0
    assert Measured(RISE, 0.0, np.inf).reliability == 1
    assert Measured(np.full(4, 0.5), 0.1, 9.0).reliability == 0


def test_items_that_both_were_scored_on_give_their_errors_a_covariance() -> None:
    rng = np.random.default_rng(0)
    liked = rng.normal(0, 0.4, (5, 4000))  # items that layer l of both does well on
    items = np.concatenate([liked + rng.normal(0, 0.3, liked.shape) for _ in range(2)])
    found = shared_error(items, ["only"] * 4000, np.eye(5), np.eye(5))
    assert found == pytest.approx(0.4**2 / 4000, rel=0.1)
    apart = shared_error(rng.normal(size=(10, 4000)), ["only"] * 4000, np.eye(5), np.eye(5))
    assert abs(apart) < 0.1 / 4000


def test_coefficients_are_scipys() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 6, 9))
    assert _spearman(x, y) == pytest.approx([stats.spearmanr(*pair)[0] for pair in zip(x, y, strict=True)])
    assert _kendall(x, y) == pytest.approx([stats.kendalltau(*pair)[0] for pair in zip(x, y, strict=True)])


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_profiles_without_errors_have_no_interval_and_a_ceiling_of_one(coefficient: Coefficient) -> None:
    other = np.array([0.2, 0.9, 0.9, 0.4, 0.5, 0.1, 0.8, 0.7])  # with a tie
    found = agreement(Measured(RISE, 0.0, np.inf), Measured(other, 0.0, np.inf), coefficient)
    known: Any = (stats.spearmanr if coefficient == "spearman" else stats.kendalltau)(RISE, other)
    assert found.value == pytest.approx(known.statistic)
    assert np.isnan(found[1:]).all()


def test_a_constant_profile_agrees_with_nothing() -> None:
    found = agreement(Measured(np.full(8, 0.5), 0.1, 9.0), Measured(RISE, 0.1, 9.0), "spearman")
    assert np.isnan(found).all()


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_the_same_profile_measured_twice_may_agree_wholly_and_one_turned_around_may_not(
    coefficient: Coefficient,
) -> None:
    rng = np.random.default_rng(2)
    one, again, turned = (Measured(p + rng.normal(0, 0.07, 8), 0.07, 14.0) for p in (RISE, RISE, -RISE))
    found, opposite = agreement(one, again, coefficient), agreement(one, turned, coefficient)
    assert found.low > 0.2
    assert found.high == 1
    assert opposite.low == -1
    assert opposite.high < -0.2


def test_a_bootstrap_of_noise_upon_noise_misses_what_the_interval_holds() -> None:
    """Two noisy measurements of one profile: resampled with their own errors they never seem to be one."""
    rng = np.random.default_rng(3)
    truth = 0.6 + 0.2 * rng.normal(size=28)
    x, y = truth + rng.normal(0, 0.12, (2, 28))
    again = _spearman(x + rng.normal(0, 0.12, (2000, 28)), y + rng.normal(0, 0.12, (2000, 28)))
    assert np.quantile(again, 0.975) < 0.9
    found = agreement(Measured(x, 0.12, 100.0), Measured(y, 0.12, 100.0), "spearman")
    assert found.low < found.value < found.high == 1


def test_independent_profiles_have_an_interval_around_nothing_that_narrows_with_the_noise() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(0.6, 0.2, (2, 28))
    true = spearman(x, y)
    found, wide = None, None
    for noise in (0.15, 0.03):
        one, other = (Measured(p + rng.normal(0, noise, 28), noise, 50.0) for p in (x, y))
        found = agreement(one, other, "spearman")
        assert found.low < true < found.high
        assert wide is None or found.high - found.low < wide / 2
        wide = found.high - found.low
    assert found is not None
    assert found.low < 0 < found.high


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@pytest.mark.parametrize("kind", ["rough", "plateaus"])
def test_the_ceiling_is_what_two_measurements_of_one_profile_show_on_average(
    kind: str, coefficient: Coefficient
) -> None:
    """Pearson's reliability would be too high a ceiling for ranks, above all on plateaus."""
    rng, seen, ceilings, reliability = np.random.default_rng(5), [], [], []
    for _ in range(60):
        truth = 0.6 + 0.2 * rng.normal(size=28) if kind == "rough" else np.where(middles(28) < 0.66, 0.95, 0.4)
        one, other = (Measured(truth + rng.normal(0, 0.1, 28), 0.1, 100.0) for _ in range(2))
        ceilings.append(ceiling(one, other, coefficient, draws=QUICK))
        reliability.append(np.sqrt(one.reliability * other.reliability))
        found: Any = (stats.spearmanr if coefficient == "spearman" else stats.kendalltau)(one.values, other.values)
        seen.append(found.statistic)
    assert np.mean(ceilings) == pytest.approx(np.mean(seen), abs=0.05 if kind == "rough" else 0.12)
    if kind == "plateaus" or coefficient == "kendall":
        assert abs(np.mean(ceilings) - np.mean(seen)) < 0.7 * abs(np.mean(reliability) - np.mean(seen))
    assert ceiling(Measured(RISE, 0.0, np.inf), Measured(-RISE, 0.0, np.inf), coefficient) == 1


def test_errors_that_both_share_are_not_agreement() -> None:
    """Unlike profiles with errors from the same items: told of it, the interval holds the truth more often."""
    rng, told, untold = np.random.default_rng(6), 0, 0
    for trial in range(30):
        x, y = rng.normal(0.6, 0.12, (2, 12))
        true = spearman(x, y)
        both, own = rng.normal(0, 0.1 * 0.8**0.5, 12), rng.normal(0, 0.1 * 0.2**0.5, (2, 12))
        one, other = Measured(x + both + own[0], 0.1, 100.0), Measured(y + both + own[1], 0.1, 100.0)
        aware = agreement(one, other, "spearman", shared=0.008, draws=QUICK, seed=trial)
        unaware = agreement(one, other, "spearman", draws=QUICK, seed=trial)
        told += aware.low <= true <= aware.high
        untold += unaware.low <= true <= unaware.high
    assert told >= 28
    assert untold < told


@pytest.mark.parametrize(("layers", "noise", "df"), [(8, 0.07, 14.0), (28, 0.1, 54.0)])
@pytest.mark.parametrize("kind", ["rise", "cliffs", "rough"])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(
    kind: str, layers: int, noise: float, df: float
) -> None:
    rng, held, x = np.random.default_rng([7, layers]), 0, middles(layers)
    for trial in range(25):
        first, second = 0.6 + 0.2 * rng.normal(size=(2, layers))
        if kind == "rise":
            first = second = 0.25 + 0.7 * x
        elif kind == "cliffs":  # the order within a plateau is there and cannot be seen
            first, second = np.where(x < 0.66, 0.95, 0.4) + 0.005 * rng.normal(size=(2, layers))
        errors = noise * np.sqrt(rng.chisquare(df, 2) / df)
        one, other = (
            Measured(p + rng.normal(0, noise, layers), float(e), df)
            for p, e in zip((first, second), errors, strict=True)
        )
        found = agreement(one, other, "spearman", draws=QUICK, seed=trial)
        held += found.low - 1e-9 <= spearman(first, second) <= found.high + 1e-9
    assert stats.binomtest(held, 25, 0.95, alternative="less").pvalue > 0.005

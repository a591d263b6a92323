"""A profile as a whole: closed forms, brute force, planted layers, and the winner's curse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensrl.judge.evidence import stability
from lensrl.measures.gains import Gains
from lensrl.measures.halves import best_layer, contributions_on_halves, split_items
from lensrl.measures.profile import gini, gini_of_equals, partial_conjunction, seed_agreement, simes


def test_gini_of_equals_is_nothing_and_of_one_alone_is_all_but_its_share() -> None:
    assert gini(np.full(7, 0.3)) == pytest.approx(0)
    for n in (3, 8, 28):
        assert gini(2.5 * np.eye(n)[n // 2]) == pytest.approx(1 - 1 / n)


def test_gini_is_half_the_mean_difference_of_any_two_over_the_mean() -> None:
    drawn = np.random.default_rng(0).normal(0.5, 0.5, (5, 9))
    for found, row in zip(gini(drawn), drawn, strict=True):
        values = [max(float(c), 0.0) for c in row]
        differences = [abs(a - b) for a in values for b in values]
        assert found == pytest.approx(np.mean(differences) / 2 / np.mean(values))


def test_the_gini_of_equal_layers_is_what_noise_alone_makes() -> None:
    assert gini_of_equals(Gains.exactly(np.array([0.2, 0.9, 0.4]))) == pytest.approx((0, 0, 0))
    noisy = Gains.from_profile(np.random.default_rng(1).normal(0.7, 0.1, 28))
    error = float(noisy.contrast(np.eye(29)[0]).error)
    simulated = gini(np.random.default_rng(2).normal(noisy.mean[:-1].mean(), error, (4000, 28)))
    found = gini_of_equals(noisy)
    assert found == pytest.approx((simulated.mean(), *np.quantile(simulated, [0.025, 0.975])), rel=0.03)


def test_one_false_hypothesis_is_bonferronis_and_all_of_them_the_largest_p() -> None:
    p = np.array([0.2, 0.004, 0.03, 0.5])
    assert partial_conjunction(p, 1) == pytest.approx(0.016)
    assert partial_conjunction(p, 2) == pytest.approx(0.09)
    assert partial_conjunction(p, 4) == 0.5
    assert partial_conjunction(p, 3) == pytest.approx(0.4)
    assert partial_conjunction(np.full(4, 0.6), 1) == 1


def test_items_are_split_in_halves_of_every_benchmark() -> None:
    benchmark = np.array(["b", "a", "b", "b", "a", "c", "b", "a", "c"])
    one, other = split_items(benchmark)
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(9))
    for name, counts in {"a": (2, 1), "b": (2, 2), "c": (1, 1)}.items():
        assert ((benchmark[one] == name).sum(), (benchmark[other] == name).sum()) == counts
    assert one.tolist() == [0, 1, 3, 5, 7]


def test_halves_are_the_contributions_of_every_seed_on_either_half() -> None:
    rng = np.random.default_rng(3)
    benchmark = np.array(["a"] * 6 + ["b"] * 14)
    gains = rng.normal(0.5, 0.3, (4, 2, 20))
    found = contributions_on_halves(gains, benchmark)
    assert found.shape == (2, 3, 2)
    for h, items in enumerate(split_items(benchmark)):

        def score(values: np.ndarray, items: np.ndarray = items) -> float:
            return float(np.mean([values[[i for i in items if benchmark[i] == name]].mean() for name in "ab"]))

        full = np.mean([score(gains[3, seed]) for seed in range(2)])
        for layer in range(3):
            for seed in range(2):
                assert found[h, layer, seed] == pytest.approx(score(gains[layer, seed]) / full)


def drawn_gains(contribution: np.ndarray, seed: int, noise: float, items: int = 100) -> np.ndarray:
    """One seed's gains with full RL's near 0.4 for certain."""
    rng = np.random.default_rng(seed)
    gains = 0.4 * contribution[:, None] + rng.normal(0, noise, (len(contribution), items))
    return np.concatenate([gains, 0.4 + rng.normal(0, 0.01, (1, items))])[:, None]


def test_a_planted_best_layer_is_found_with_its_contribution() -> None:
    contribution = np.full(8, 0.3)
    contribution[5] = 0.9
    layers = np.array([0, 1, 2, 4, 6, 11, 12, 13])
    for best, found in best_layer(drawn_gains(contribution, 0, 0.2), np.array(["only"] * 100), layers):
        assert best == 11
        assert 0.9 in found
        assert 0.02 < found.high - found.low < 0.4


def test_the_best_layer_is_measured_where_full_rl_has_a_gain_and_items_are_enough() -> None:
    layers, benchmark = np.arange(8), np.array(["only"] * 100)
    gains = drawn_gains(np.full(8, 0.5), 0, 0.2)
    assert len(best_layer(gains, benchmark, layers)) == 2
    gains[-1][..., 1::2] -= gains[-1][..., 1::2].mean()  # full RL gains nothing on one half
    assert len(best_layer(gains, benchmark, layers)) == 1
    assert best_layer(gains, np.array(["many"] * 97 + ["three"] * 3), layers) == []


def test_simes_is_the_smallest_of_the_ordered_p_times_their_number_by_their_place() -> None:
    assert simes(np.array([0.04, 0.9, 0.01])) == pytest.approx(0.03)
    assert simes(np.array([0.04, 0.04, 0.04])) == pytest.approx(0.04)


def test_the_best_of_equal_layers_is_no_better_on_items_it_was_not_chosen_on() -> None:
    benchmark, layers = np.array(["only"] * 100), np.arange(8)
    honest, naive = [], []
    for trial in range(80):
        gains = drawn_gains(np.full(8, 0.5), 100 + trial, 0.5)
        honest.append(np.mean([found.value for _, found in best_layer(gains, benchmark, layers)]))
        means = gains.mean(axis=(1, 2))
        naive.append(means[:-1].max() / means[-1])
    assert abs(np.mean(honest) - 0.5) < 3.5 * stats.sem(honest)
    assert np.mean(naive) - 0.5 > 10 * stats.sem(naive)  # expected: 1.42 standard errors of 0.125
    assert np.mean(naive) - 0.5 == pytest.approx(1.42 * 0.125, rel=0.15)


STEP = np.where(np.arange(12) < 7, 0.9, 0.3)


def noisy_halves(rng: np.random.Generator, seeds: int, wiggle: np.ndarray) -> np.ndarray:
    """A step and `wiggle`, which all seeds have, with noise of each seed (on both halves) and of each measurement."""
    own = rng.normal(0, 0.1, (1, 12, seeds))
    return STEP[:, None] + wiggle[:, None] + own + rng.normal(0, 0.05, (2, 12, seeds))


def test_seeds_that_share_a_profile_beyond_a_step_agree() -> None:
    rng = np.random.default_rng(4)
    profiles = noisy_halves(rng, 3, rng.normal(0, 0.3, 12))
    found = seed_agreement(profiles, STEP)
    assert found.p_above < 0.01
    assert found.p_below > 0.9
    assert found.agreement > found.chance.high
    rest = profiles.copy()
    for level in (slice(0, 7), slice(7, 12)):
        rest[:, level] -= rest[:, level].mean(axis=1, keepdims=True)
    pairs = [np.corrcoef(rest[0, :, s], rest[1, :, t])[0, 1] for s in range(3) for t in range(3) if s != t]
    assert found.agreement == pytest.approx(np.mean(pairs))
    whole = profiles.mean(axis=0)
    orders = stats.rankdata(whole, axis=0)
    ranks = [np.corrcoef(orders[:, s], orders[:, t])[0, 1] for s, t in ((0, 1), (0, 2), (1, 2))]
    assert found.spearman == pytest.approx(np.mean(ranks))


def test_seeds_that_share_a_step_and_nothing_else_do_not_agree() -> None:
    """Their rankings are alike all the same; noise of the items that both were scored on must not count."""
    rng, small, ranks = np.random.default_rng(5), 0, []
    for trial in range(80):
        items = rng.normal(0, 0.05, (2, 12, 1))  # one half's items favour a layer of all seeds
        found = seed_agreement(noisy_halves(rng, 3, np.zeros(12)) + items, STEP, draws=99, seed=trial)
        small += found.p_above <= 0.05
        ranks.append(found.spearman)
    assert stats.binomtest(small, 80, 0.05, alternative="greater").pvalue > 0.005
    assert np.mean(ranks) > 0.5


def test_opposite_seeds_disagree() -> None:
    rng = np.random.default_rng(6)
    wiggle = rng.normal(0, 0.3, 12)
    found = seed_agreement(STEP[:, None] + np.stack([wiggle, -wiggle], axis=1) + np.zeros((2, 1, 1)), STEP)
    assert found.agreement < -0.9
    assert found.p_below < 0.01


def test_one_seed_is_refused_with_the_reason() -> None:
    claim = stability(noisy_halves(np.random.default_rng(7), 1, np.zeros(12)), STEP)
    assert claim.reason == "one seed: whether another would rank the layers alike cannot be known"
    assert np.isnan([claim.value, claim.p_for, claim.p_against]).all()

"""A profile as a whole: closed forms, brute force, planted layers, and the winner's curse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensrl.judge.evidence import stability
from lensrl.measures.gains import Gains
from lensrl.measures.halves import best_layer, best_reaches, contributions_on_halves, split_items
from lensrl.measures.profile import beyond_step, effective_layers, seed_agreement, simes


def exactly(contribution: np.ndarray) -> Gains:
    return Gains.with_errors(contribution, np.full(len(contribution), 1e-9))


def test_the_effective_number_is_all_layers_one_layer_or_the_inverse_of_the_squared_shares() -> None:
    assert effective_layers(exactly(np.full(7, 0.3))).number.value == pytest.approx(7)
    assert effective_layers(exactly(np.eye(9)[4])).number.value == pytest.approx(1)
    drawn = np.random.default_rng(0).uniform(0.1, 1, 12)
    shares = drawn / drawn.sum()
    found = effective_layers(exactly(drawn)).number
    assert found.value == pytest.approx(1 / np.sum(shares**2))
    assert found.high - found.low < 1e-6
    below = effective_layers(exactly(np.append(drawn, [-0.5, -0.1])))
    assert below.number.value == pytest.approx(1 / np.sum(shares**2)), "negative contributions carry nothing"
    assert np.isnan(effective_layers(exactly(-drawn)).number.value)


@pytest.mark.parametrize("few", [True, False])
def test_the_interval_of_the_effective_number_holds_the_truth_and_errors_do_not_concentrate(few: bool) -> None:
    truth = np.where(np.arange(20) < 3, 1.0, 0.2) if few else np.full(20, 0.6)
    number = truth.sum() ** 2 / np.sum(truth**2)
    rng, held, values, raw = np.random.default_rng(1), 0, [], []
    for _ in range(200):
        seen = truth + rng.normal(0, 0.1, 20)
        found = effective_layers(Gains.with_errors(seen, np.full(20, 0.1)))
        held += found.number.low <= number + 1e-9 and number - 1e-9 <= found.number.high
        values.append(found.number.value)
        raw.append(seen.sum() ** 2 / np.sum(seen**2))
        assert found.p_half_or_less + found.p_half_or_more == pytest.approx(1)
    assert held >= 180
    assert abs(np.mean(values) - number) < abs(np.mean(raw) - number)


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


def test_what_a_step_leaves_is_the_best_steps_by_brute_force() -> None:
    profiles = noisy_halves(np.random.default_rng(3), 2, np.zeros(12))
    mean = profiles.mean(axis=(0, 2))
    fits = [np.where(np.arange(12) < k, mean[:k].mean(), mean[k:].mean()) for k in range(2, 11)]
    change = 2 + int(np.argmin([((mean - fit) ** 2).sum() for fit in fits]))
    expected = profiles.copy()
    for part in (slice(0, change), slice(change, 12)):
        expected[:, part] -= np.median(expected[:, part], axis=1, keepdims=True)
    np.testing.assert_allclose(beyond_step(profiles[None])[0], expected)


def test_seeds_that_share_a_profile_beyond_a_step_agree() -> None:
    rng = np.random.default_rng(4)
    profiles = noisy_halves(rng, 3, rng.normal(0, 0.3, 12))
    found = seed_agreement(profiles)
    assert found.p_above < 0.02
    assert found.p_below > 0.9
    assert found.agreement > found.chance.high
    rest = beyond_step(profiles[None])[0]
    unit = rest / np.linalg.norm(rest, axis=1, keepdims=True)
    pairs = [unit[0, :, s] @ unit[1, :, t] for s in range(3) for t in range(3) if s != t]
    assert found.agreement == pytest.approx(np.mean(pairs))
    whole = profiles.mean(axis=0)
    orders = stats.rankdata(whole, axis=0)
    ranks = [np.corrcoef(orders[:, s], orders[:, t])[0, 1] for s, t in ((0, 1), (0, 2), (1, 2))]
    assert found.spearman == pytest.approx(np.mean(ranks))


@pytest.mark.parametrize("luck", ["every layer", "one layer", "smooth"])
def test_seeds_that_share_a_step_and_nothing_else_do_not_agree(luck: str) -> None:
    """Their rankings are alike all the same; noise of the items that both were scored on must not count."""
    rng, small, ranks = np.random.default_rng(5), 0, []
    for _ in range(100):
        own = rng.normal(0, 0.1, (12, 3))
        if luck == "one layer":
            own = np.where(np.arange(12)[:, None] == 4, 4.0, 0.2) * own
        if luck == "smooth":
            own = np.cumsum(own, axis=0) / 2
        items = rng.normal(0, 0.05, (2, 12, 1))  # one half's items favour a layer of all seeds
        found = seed_agreement(STEP[:, None] + own + items + rng.normal(0, 0.03, (2, 12, 3)), draws=199)
        small += found.p_above <= 0.025
        ranks.append(found.spearman)
    assert stats.binomtest(small, 100, 0.05, alternative="greater").pvalue > 0.01
    assert np.mean(ranks) > 0.4


def test_opposite_seeds_disagree() -> None:
    rng = np.random.default_rng(6)
    wiggle = rng.normal(0, 0.3, 12)
    seeds = STEP[:, None] + wiggle[:, None] * np.array([1, -1, 1, -1, 1, -1]) + rng.normal(0, 0.02, (2, 12, 6))
    assert seed_agreement(seeds).agreement < 0


def test_one_seed_is_refused_with_the_reason() -> None:
    claim = stability(noisy_halves(np.random.default_rng(7), 1, np.zeros(12)))
    assert claim.reason == "one seed: whether another would rank the layers alike cannot be known"
    assert np.isnan([claim.value, claim.p_for, claim.p_against]).all()


def few_of(best: float, seeds: int, rng: np.random.Generator, luck: float = 0.02) -> np.ndarray:
    """Gains of 12 layers, two of which recover `best` of full RL's 0.3."""
    share = np.append(np.where(np.arange(12) < 2, best, 0.2), 1.0)[:, None, None]
    return 0.3 * share + rng.normal(0, luck, (13, seeds, 1)) + rng.normal(0, 0.3, (13, seeds, 300))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_best_layer_on_a_part_reaches_a_share_on_the_rest_no_more_often_than_it_should(seeds: int) -> None:
    rng, benchmark = np.random.default_rng(8), np.array(["only"] * 300)
    p = [best_reaches(few_of(0.8, seeds, rng, 0.0 if seeds == 1 else 0.03), benchmark, 0.8) for _ in range(200)]
    small = sum(reach is not None and reach.p < 0.025 for reach in p)
    assert stats.binomtest(small, 200, 0.03, alternative="greater").pvalue > 0.005
    high = [best_reaches(few_of(1.3, seeds, rng), benchmark, 0.8) for _ in range(40)]
    assert np.mean([reach is not None and reach.p < 0.025 for reach in high]) > 0.5
    assert all(reach is not None and reach.layer < 2 for reach in high)


def test_a_part_with_too_few_items_of_a_benchmark_has_no_best_layer() -> None:
    gains = few_of(1.0, 1, np.random.default_rng(9))
    assert best_reaches(gains, np.array(["many"] * 297 + ["three"] * 3), 0.8) is None

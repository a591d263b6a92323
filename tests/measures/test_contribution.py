"""Layer contribution: closed forms, two other bootstraps, laws, and the coverage of the interval."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from lensrl.measures.contribution import GainRatio, Interval, gain_ratios, mean_score

ITEMS = 60
ONE = ["only"] * ITEMS
SCORES = hnp.arrays(np.float64, (2, 12), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
MIXED = ["a"] * 3 + ["b"] * 9


Metrics = tuple[np.ndarray, np.ndarray, np.ndarray]


def planted(rng: np.random.Generator, n_items: int = ITEMS, seeds: int = 1) -> Metrics:
    """Solved or not, with probability 0.3 before, 0.8 after and 0.6 for the part: a ratio of 0.6."""
    shape = (seeds, n_items)
    before, after, part = ((rng.random(shape) < p).astype(np.float64) for p in (0.3, 0.8, 0.6))
    return before, after, part


def one_ratio(
    before: np.ndarray, after: np.ndarray, part: np.ndarray, benchmark: list[str], resamples: int = 10_000
) -> GainRatio:
    return gain_ratios(before, after, {"part": part}, benchmark, resamples=resamples)["part"]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 1.7, -0.5])
def test_a_part_that_gains_the_same_share_of_every_item_has_that_ratio_for_certain(share: float) -> None:
    before, after, _ = planted(np.random.default_rng(0), seeds=2)
    result = one_ratio(before, after, before + share * (after - before), ONE)
    assert result.status == "defined"
    assert result.ratio == pytest.approx((share, share, share), abs=1e-12)


def test_benchmarks_count_the_same_whatever_their_size() -> None:
    benchmark = ["small"] * 2 + ["large"] * 8
    before = np.zeros((1, 10))
    after = np.array([[1.0, 1.0] + [0.5] * 8])
    part = np.array([[1.0, 0.5] + [0.25] * 8])
    result = one_ratio(before, after, part, benchmark)
    assert result.numerator.value == pytest.approx((0.75 + 0.25) / 2)
    assert result.denominator.value == pytest.approx((1.0 + 0.5) / 2)
    assert result.ratio.value == pytest.approx(0.5 / 0.75)
    assert mean_score(part[0], benchmark) == pytest.approx(0.5)


def test_items_are_drawn_within_their_benchmark() -> None:
    benchmark = ["a"] * 5 + ["b"] * 20
    after = np.array([[1.0] * 5 + [0.5] * 20])  # no benchmark varies within itself
    result = one_ratio(np.zeros((1, 25)), after, after / 2, benchmark)
    assert result.denominator == pytest.approx((0.75, 0.75, 0.75))


def test_the_interval_of_a_gain_is_near_the_normal_one() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(0, 1, (1, 400)), rng.normal(2, 1, (1, 400))
    result = one_ratio(before, after, after, ["only"] * 400)
    gains = (after - before)[0]
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    assert result.denominator == pytest.approx((gains.mean(), low, high), abs=0.006)


def test_the_interval_agrees_with_scipys_bootstrap() -> None:
    before, after, part = planted(np.random.default_rng(2))

    def ratio(into: np.ndarray, whole: np.ndarray, some: np.ndarray, axis: int) -> np.ndarray:
        return (some.mean(axis) - into.mean(axis)) / (whole.mean(axis) - into.mean(axis))

    other = stats.bootstrap(
        (before[0], after[0], part[0]),
        ratio,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(3),
    ).confidence_interval
    ours = one_ratio(before, after, part, ONE).ratio
    assert (ours.low, ours.high) == pytest.approx((other.low, other.high), abs=0.015)
    assert ours.high - ours.low > 0.2


def test_the_interval_agrees_with_a_bootstrap_written_as_loops() -> None:
    rng = np.random.default_rng(4)
    before, after, part = planted(rng, n_items=30, seeds=3)
    after[2] = np.maximum(after[2], part[1])  # seeds that differ
    benchmark = ["a"] * 10 + ["b"] * 20
    ratios = []
    for _ in range(4000):
        drawn = np.concatenate([rng.integers(0, 10, 10), rng.integers(10, 30, 20)])
        seeds = rng.integers(0, 3, 3)
        scores = []
        for metric in (before, after, part):
            by_seed = [(metric[s, drawn[:10]].mean() + metric[s, drawn[10:]].mean()) / 2 for s in seeds]
            scores.append(sum(by_seed) / len(by_seed))
        ratios.append((scores[2] - scores[0]) / (scores[1] - scores[0]))
    result = one_ratio(before, after, part, benchmark).ratio
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), abs=0.03)


def test_seeds_are_drawn_together_for_numerator_and_denominator() -> None:
    before = np.zeros((2, ITEMS))
    after = np.repeat([[0.4], [0.8]], ITEMS, axis=1)
    part = np.repeat([[0.1], [0.6]], ITEMS, axis=1)  # a quarter of the gain with one seed, three with the other
    result = one_ratio(before, after, part, ONE)
    assert result.ratio == pytest.approx((0.7 / 1.2, 0.25, 0.75))


def test_one_seed_gives_an_interval_over_items_alone() -> None:
    after = np.full((1, ITEMS), 0.4)
    assert one_ratio(np.zeros((1, ITEMS)), after, after / 4, ONE).ratio == pytest.approx((0.25, 0.25, 0.25))


def test_a_ratio_is_undefined_exactly_when_the_denominators_interval_holds_zero() -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for gain in np.linspace(0, 0.4, 30):
        before = (rng.random((1, ITEMS)) < 0.4).astype(float)
        after = (rng.random((1, ITEMS)) < 0.4 + gain).astype(float)
        result = one_ratio(before, after, after, ONE, resamples=500)
        holds_zero = result.denominator.low <= 0 <= result.denominator.high
        assert (result.status == "undefined") == holds_zero == bool(np.isnan(result.ratio).all()) == bool(result.reason)
        assert np.isfinite(result.numerator).all()
        seen.add(result.status)
    assert seen == {"defined", "undefined"}


def test_the_reason_shows_the_denominators_interval() -> None:
    nothing = np.zeros((1, ITEMS))
    reason = one_ratio(nothing, nothing, nothing + 1, ONE).reason
    assert reason == "the interval of after - before contains 0: 0 [0, 0]"


def test_draws_without_any_gain_leave_a_finite_interval_and_no_warning() -> None:
    after = np.zeros((1, 40))
    after[0, :5] = 1.0  # (35/40)^40: one draw in two hundred holds no gain
    part = np.zeros((1, 40))
    part[0, :2] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = one_ratio(np.zeros((1, 40)), after, part, ["only"] * 40)
    assert result.status == "defined"
    assert 0 == result.ratio.low < 0.4 < result.ratio.high == 1


@given(SCORES, SCORES, SCORES, st.permutations(range(12)))
def test_the_order_of_items_does_not_matter(
    before: np.ndarray, after: np.ndarray, part: np.ndarray, order: list[int]
) -> None:
    ours = one_ratio(before, after, part, MIXED, resamples=50)
    benchmark = [MIXED[i] for i in order]
    theirs = one_ratio(before[:, order], after[:, order], part[:, order], benchmark, resamples=50)
    assert theirs.numerator.value == pytest.approx(ours.numerator.value)
    assert theirs.denominator.value == pytest.approx(ours.denominator.value)


@given(SCORES, SCORES, SCORES, st.floats(0.1, 10), st.floats(-5, 5))
def test_the_unit_of_the_metric_does_not_matter(
    before: np.ndarray, after: np.ndarray, part: np.ndarray, scale: float, shift: float
) -> None:
    after = after + 2
    ours = one_ratio(before, after, part, MIXED, resamples=50).ratio
    before, after, part = (scale * array + shift for array in (before, after, part))
    theirs = one_ratio(before, after, part, MIXED, resamples=50).ratio
    assert theirs == pytest.approx(ours, abs=1e-9)


def test_parts_do_not_influence_one_another() -> None:
    before, after, part = planted(np.random.default_rng(6))
    together = gain_ratios(before, after, {0: part, 1: after, "x": before}, ONE, resamples=200)
    assert list(together) == [0, 1, "x"]
    assert together[0] == one_ratio(before, after, part, ONE, resamples=200)


def test_the_number_of_resamples_need_not_be_a_multiple_of_anything() -> None:
    before, after, part = planted(np.random.default_rng(7))
    few, many = (one_ratio(before, after, part, ONE, resamples=n).ratio for n in (1_301, 10_000))
    assert few == pytest.approx(many, abs=0.05)


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    before, after, part = planted(np.random.default_rng(8))
    narrow, wide = (gain_ratios(before, after, {0: part}, ONE, confidence=c)[0].ratio for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_95_percent_interval_covers_the_planted_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(9)
    trials = 300
    covered = 0
    for _ in range(trials):
        before, after, part = planted(rng, n_items=120)
        covered += 0.6 in one_ratio(before, after, part, ["only"] * 120, resamples=400).ratio
    assert 0.91 < covered / trials < 0.985


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("place", "name"), [(0, "before"), (1, "after"), (2, "part 'part'")])
def test_values_that_are_not_finite_are_named(place: int, name: str, bad: float) -> None:
    arrays = [np.zeros((1, ITEMS)) for _ in range(3)]
    arrays[place][0, 7] = bad
    with pytest.raises(ValueError, match=f"^{name} holds values that are not finite"):
        one_ratio(arrays[0], arrays[1], arrays[2], ONE)


def test_a_benchmark_name_is_needed_for_every_item() -> None:
    array = np.zeros((1, ITEMS))
    with pytest.raises(ValueError, match=r"before has shape \(1, 60\), expected \(1, 59\)"):
        one_ratio(array, array, array, ONE[1:])


def test_an_interval_contains_its_ends_and_nothing_that_is_no_number() -> None:
    interval = Interval(0.5, 0.0, 1.0)
    assert 0 in interval
    assert 1.0 in interval
    assert 1.01 not in interval
    assert "0.5" not in interval
    assert float("nan") not in interval

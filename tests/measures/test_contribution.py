"""Layer contribution: closed forms, a bootstrap, laws, and the coverage of the interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from lensrl.measures.contribution import GainRatio, gain_ratios
from lensrl.measures.gains import Interval
from lensrl.measures.score import mean_score

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


def one_ratio(before: np.ndarray, after: np.ndarray, part: np.ndarray, benchmark: list[str]) -> GainRatio:
    return gain_ratios(before, after, {"part": part}, benchmark)["part"]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 1.7, -0.5])
def test_a_part_that_gains_the_same_share_of_every_item_has_that_ratio_for_certain(share: float) -> None:
    before, after, _ = planted(np.random.default_rng(0), seeds=4)
    result = one_ratio(before, after, before + share * (after - before), ONE)
    assert result.status == "defined"
    assert result.ratio == pytest.approx((share, share, share), abs=1e-6)


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


def test_items_vary_within_their_benchmark() -> None:
    benchmark = ["a"] * 5 + ["b"] * 20
    after = np.array([[1.0] * 5 + [0.5] * 20])  # no benchmark varies within itself
    result = one_ratio(np.zeros((1, 25)), after, after / 2, benchmark)
    assert result.denominator == pytest.approx((0.75, 0.75, 0.75))


def test_the_interval_of_a_gain_over_one_seeds_items_is_students() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(0, 1, (1, 400)), rng.normal(2, 1, (1, 400))
    result = one_ratio(before, after, after, ["only"] * 400)
    gains = (after - before)[0]
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    assert result.denominator == pytest.approx((gains.mean(), low, high))


def test_the_interval_over_many_seeds_of_items_without_noise_is_students() -> None:
    """Only seeds vary: the interval is that of the seeds' means."""
    rng = np.random.default_rng(1)
    after = np.repeat(rng.normal(2, 1, (6, 1)), ITEMS, axis=1)
    result = one_ratio(np.zeros((6, ITEMS)), after, after, ONE)
    low, high = stats.t.interval(0.95, 5, after[:, 0].mean(), stats.sem(after[:, 0]))
    assert result.denominator == pytest.approx((after.mean(), low, high))


def test_the_interval_is_fiellers_closed_form() -> None:
    """Over one seed, the roots of (n - c d)^2 = t^2 Var(n - c d)."""
    before, after, part = planted(np.random.default_rng(3))
    n, d = (part - before)[0], (after - before)[0]
    variance = np.cov(n, d) / ITEMS
    t = stats.t.ppf(0.975, ITEMS - 1)
    square, linear, constant = (
        d.mean() ** 2 - t**2 * variance[1, 1],
        -2 * (n.mean() * d.mean() - t**2 * variance[0, 1]),
        n.mean() ** 2 - t**2 * variance[0, 0],
    )
    low, high = sorted(np.roots([square, linear, constant]))
    assert one_ratio(before, after, part, ONE).ratio == pytest.approx((n.mean() / d.mean(), low, high))


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


def test_one_seed_gives_an_interval_over_items_alone() -> None:
    after = np.full((1, ITEMS), 0.4)
    assert one_ratio(np.zeros((1, ITEMS)), after, after / 4, ONE).ratio == pytest.approx((0.25, 0.25, 0.25))


def test_a_ratio_is_undefined_exactly_when_the_denominators_interval_holds_zero() -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for gain in np.linspace(0, 0.4, 30):
        before = (rng.random((1, ITEMS)) < 0.4).astype(float)
        after = (rng.random((1, ITEMS)) < 0.4 + gain).astype(float)
        result = one_ratio(before, after, after, ONE)
        holds_zero = result.denominator.low <= 0 <= result.denominator.high
        assert (result.status == "undefined") == holds_zero == bool(np.isnan(result.ratio).all()) == bool(result.reason)
        assert np.isfinite(result.numerator).all()
        seen.add(result.status)
    assert seen == {"defined", "undefined"}


def test_the_reason_shows_the_denominators_interval() -> None:
    nothing = np.zeros((1, ITEMS))
    reason = one_ratio(nothing, nothing, nothing + 1, ONE).reason
    assert reason == "the interval of after - before contains 0: 0 [0, 0]"


@given(SCORES, SCORES, SCORES, st.permutations(range(12)))
def test_the_order_of_items_does_not_matter(
    before: np.ndarray, after: np.ndarray, part: np.ndarray, order: list[int]
) -> None:
    ours = one_ratio(before, after, part, MIXED)
    benchmark = [MIXED[i] for i in order]
    theirs = one_ratio(before[:, order], after[:, order], part[:, order], benchmark)
    assert theirs.numerator.value == pytest.approx(ours.numerator.value)
    assert theirs.denominator.value == pytest.approx(ours.denominator.value)


@given(SCORES, SCORES, SCORES, st.floats(0.1, 10), st.floats(-5, 5))
def test_the_unit_of_the_metric_does_not_matter(
    before: np.ndarray, after: np.ndarray, part: np.ndarray, scale: float, shift: float
) -> None:
    after = after + 2
    ours = one_ratio(before, after, part, MIXED).ratio
    before, after, part = (scale * array + shift for array in (before, after, part))
    theirs = one_ratio(before, after, part, MIXED).ratio
    assert tuple(theirs) == pytest.approx(tuple(ours), rel=1e-6, abs=1e-6, nan_ok=True)


def test_parts_do_not_influence_one_another() -> None:
    before, after, part = planted(np.random.default_rng(6))
    together = gain_ratios(before, after, {0: part, 1: after, "x": before}, ONE)
    assert list(together) == [0, 1, "x"]
    assert together[0] == one_ratio(before, after, part, ONE)


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
        covered += 0.6 in one_ratio(before, after, part, ["only"] * 120).ratio
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

"""Correlation over layers: SciPy's numbers, exact permutations, and a planted null."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lensrl.measures.correlation import Method, correlate, explained_share, seed_reliability

METHODS: list[Method] = ["spearman", "pearson"]


def drawn(n: int, seed: int, rho: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)


@pytest.mark.parametrize("n", [4, 8, 28])
@pytest.mark.parametrize("seed", [0, 1])
def test_pearson_and_its_interval_are_scipys(n: int, seed: int) -> None:
    x, y = drawn(n, seed)
    ours = correlate(x, y, "pearson", confidence=0.9)
    theirs: Any = stats.pearsonr(x, y)
    interval = theirs.confidence_interval(0.9)
    assert (ours.method, ours.n, ours.reason) == ("pearson", n, "")
    assert ours.coefficient == pytest.approx(theirs.statistic)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("n", [4, 8, 28])
@pytest.mark.parametrize("decimals", [0, 9], ids=["with ties", "without ties"])
def test_spearman_is_scipys(n: int, decimals: int) -> None:
    x, y = (np.round(values, decimals) for values in drawn(n, 2))
    theirs: Any = stats.spearmanr(x, y)
    assert correlate(x, y, "spearman").coefficient == pytest.approx(theirs.statistic)


def test_spearmans_interval_has_the_width_of_bonett_and_wright() -> None:
    result = correlate(np.arange(7.0), np.array([6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0]), "spearman")
    assert result.coefficient == pytest.approx(-2 / 7)  # 1 - 6 * (36 + 36) / (7 * 48)
    width = np.arctanh(result.high) - np.arctanh(result.low)
    assert width == pytest.approx(2 * 1.959964 * np.sqrt((1 + (2 / 7) ** 2 / 2) / 4))


def test_spearman_sees_ranks_only() -> None:
    x, y = drawn(10, 3)
    assert correlate(x, y, "spearman") == correlate(np.exp(x), y**3, "spearman")
    assert correlate(x, y, "pearson") != correlate(np.exp(x), y**3, "pearson")


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", METHODS)
def test_a_straight_line_is_perfect_and_claims_no_interval(method: Method, sign: float) -> None:
    x = np.arange(8.0)
    result = correlate(x, sign * (3 * x + 1), method)
    assert result.coefficient == pytest.approx(sign)
    assert np.isnan([result.low, result.high]).all()
    assert "perfect" in result.reason
    assert result.p == pytest.approx(2 / 40320, abs=3e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [5, 6])
@pytest.mark.parametrize("method", METHODS)
def test_few_layers_give_the_exact_p_of_every_permutation(n: int, seed: int, method: Method) -> None:
    x, y = drawn(n, 10 + seed)
    a, b = (stats.rankdata(x), stats.rankdata(y)) if method == "spearman" else (x, y)
    observed = np.corrcoef(a, b)[0, 1]
    every = np.array([np.corrcoef(order, b)[0, 1] for order in permutations(a)])
    above, below = (every >= observed - 1e-12).mean(), (every <= observed + 1e-12).mean()
    assert correlate(x, y, method).p == pytest.approx(min(1.0, 2 * min(above, below)))


def test_many_layers_give_about_the_p_of_the_t_distribution() -> None:
    x, y = drawn(28, 5, rho=0.3)
    theirs: Any = stats.pearsonr(x, y)
    assert correlate(x, y, "pearson").p == pytest.approx(theirs.pvalue, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_under_a_planted_null_p_is_uniform(method: Method) -> None:
    p = np.array([correlate(*drawn(9, 100 + trial, rho=0.0), method).p for trial in range(300)])
    for level in (0.05, 0.2, 0.5, 0.8):
        assert stats.binomtest(int((p <= level).sum()), len(p), level).pvalue > 0.005


@pytest.mark.parametrize("method", METHODS)
def test_the_95_percent_interval_covers_the_planted_truth_about_95_times_in_100(method: Method) -> None:
    rho = 0.6
    truth = 6 / np.pi * np.arcsin(rho / 2) if method == "spearman" else rho
    results = [correlate(*drawn(12, 1000 + trial, rho), method) for trial in range(150)]
    assert 0.88 < np.mean([r.low <= truth <= r.high for r in results]) < 0.995


@pytest.mark.parametrize("method", METHODS)
def test_layers_without_both_values_are_left_out(method: Method) -> None:
    x, y = drawn(10, 6)
    holes_x, holes_y = x.copy(), y.copy()
    holes_x[2], holes_y[5], holes_y[9] = np.nan, np.nan, np.inf
    kept = np.delete(np.arange(10), [2, 5, 9])
    assert correlate(holes_x, holes_y, method) == correlate(x[kept], y[kept], method)
    assert correlate(holes_x, holes_y, method).n == 7


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_has_no_correlation_and_says_so(method: Method) -> None:
    x, y = drawn(8, 7)
    for pair in ((np.full(8, 0.3), y), (x, np.full(8, 0.3))):
        result = correlate(*pair, method)
        assert np.isnan([result.coefficient, result.low, result.high, result.p]).all()
        assert (result.n, result.reason) == (8, "one of the two is constant over layers")


@pytest.mark.parametrize("method", METHODS)
def test_three_layers_are_too_few(method: Method) -> None:
    x, y = drawn(4, 8)
    y[1] = np.nan
    result = correlate(x, y, method)
    assert np.isnan(result.coefficient)
    assert (result.n, result.reason) == (3, "3 layers with both values: at least 4 are needed")


def test_the_seed_fixes_the_random_permutations() -> None:
    x, y = drawn(12, 9)
    assert correlate(x, y, "pearson", seed=1) == correlate(x, y, "pearson", seed=1)
    assert correlate(x, y, "pearson", seed=1).p != correlate(x, y, "pearson", seed=2).p


def drifting_pair(r: float, n: int, rng: np.random.Generator, memory: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two series with correlation r; `memory` is the lag-one autocorrelation of both."""
    both = rng.normal(size=(2, n))
    both[1] = r * both[0] + np.sqrt(1 - r * r) * both[1]
    for i in range(1, n):
        both[:, i] = memory * both[:, i - 1] + np.sqrt(1 - memory**2) * both[:, i]
    return both[0], both[1]


@pytest.mark.parametrize(
    ("r", "less"), [(0.0, True), (0.45, True), (0.6, True), (-0.6, True), (0.95, False), (-0.95, False)]
)
@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_both_sides_are_about_one_half_of_the_variance_whatever_the_sign(r: float, less: bool, memory: float) -> None:
    rng = np.random.default_rng(8)
    found = [explained_share(*drifting_pair(r, 28, rng, memory)) for _ in range(100)]
    supported = np.mean([f.p_half_or_more < 0.025 for f in found])
    contradicted = np.mean([f.p_half_or_less < 0.025 for f in found])
    assert (contradicted if less else supported) <= 0.06
    if abs(r) > 0.9 and memory == 0:
        assert contradicted > 0.9
    if r == 0:
        assert supported > (0.9 if memory == 0 else 0.5)


def test_at_one_half_neither_side_is_shown() -> None:
    rng = np.random.default_rng(9)
    found = [explained_share(*drifting_pair(0.5**0.5, 28, rng)) for _ in range(200)]
    assert np.mean([f.p_half_or_more < 0.025 for f in found]) <= 0.06
    assert np.mean([f.p_half_or_less < 0.025 for f in found]) <= 0.06
    assert np.mean([f.low <= 0.5 <= f.high for f in found]) > 0.9


def test_an_error_in_the_second_series_hides_a_part_and_is_allowed_for() -> None:
    rng = np.random.default_rng(10)
    x, y = drifting_pair(0.75, 28, rng)
    noisy = y + rng.normal(size=28)  # half of its variance is error
    told, untold = explained_share(x, noisy, reliability=0.5), explained_share(x, noisy)
    assert told.share == untold.share == pytest.approx(np.corrcoef(x, noisy)[0, 1] ** 2)
    assert told.low == untold.low
    assert told.high > untold.high
    assert told.p_half_or_more > untold.p_half_or_more
    assert told.p_half_or_less == untold.p_half_or_less
    assert explained_share(x, noisy, reliability=0.0).p_half_or_more > 0.5


def test_the_reliability_of_a_mean_over_seeds_is_that_of_the_planted_errors() -> None:
    rng, found = np.random.default_rng(11), []
    for _ in range(200):
        layers, seeds = rng.normal(size=(28, 1)), 5 * rng.normal(size=3)  # a seed's own level changes nothing
        found.append(seed_reliability(layers + seeds + rng.normal(size=(28, 3))))
    # true: var 1 of layers, 1/3 of error in the mean; the error is taken at its upper 90 % limit
    assert 0.64 < np.median(found) < 0.71, "0.75 with the error itself"
    assert seed_reliability(layers) == 1.0, "one seed shows no error"
    assert seed_reliability(np.vstack([np.full((1, 3), np.nan), layers + np.zeros(3)])) == pytest.approx(1.0)


def test_errors_of_either_series_hide_a_part() -> None:
    rng = np.random.default_rng(12)
    x, y = drifting_pair(0.75, 28, rng)
    one, other = explained_share(x, y, reliability=0.5), explained_share(x, y, reliability_of_x=0.5)
    assert one == other
    assert explained_share(x, y, reliability=0.8, reliability_of_x=0.5).high >= one.high


def test_the_share_is_fishers_z() -> None:
    x, y = drawn(20, 3)
    found = explained_share(x, y)
    r = np.corrcoef(x, y)[0, 1]
    assert (found.correlation, found.share) == pytest.approx((r, r * r))
    z = (np.arctanh(abs(r)) - np.arctanh(0.5**0.5)) * np.sqrt(found.n_effective - 3)
    assert found.p_half_or_more == pytest.approx(stats.norm.cdf(z))
    assert found.p_half_or_less == pytest.approx(stats.norm.sf(z))
    assert found.low < found.share < found.high


def test_few_layers_and_a_constant_have_reasons() -> None:
    x, y = drawn(8, 4)
    assert explained_share(x[:5], y[:5]).reason == "5 layers with both values: at least 6 are needed"
    assert explained_share(np.full(8, 0.2), y).reason == "one of the two is constant"
    x[2] = np.nan
    kept = np.delete(np.arange(8), 2)
    assert explained_share(x, y) == explained_share(x[kept], y[kept])

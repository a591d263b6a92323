"""Correlation over layers: SciPy's numbers, exact permutations, and a planted null."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lensrl.measures.correlation import Method, correlate, correlate_detrended

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


def beyond(depth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What least squares on 1, depth and depth^2 leaves."""
    design = np.stack([np.ones(len(depth)), depth, depth**2], axis=1)
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def with_trends(n: int, seed: int, memory: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, and two related series that drift, each with a strong quadratic trend."""
    rng, depth = np.random.default_rng(seed), np.arange(float(n))
    x, y = rng.normal(size=(2, n))
    for i in range(1, n):
        x[i], y[i] = memory * x[i - 1] + x[i], memory * y[i - 1] + y[i]
    return depth, x + 0.3 * depth, y + 0.4 * x - 0.02 * (depth - n / 3) ** 2


@pytest.mark.parametrize("n", [8, 28])
@pytest.mark.parametrize("seed", range(6))
def test_beyond_depth_is_the_partial_correlation(n: int, seed: int) -> None:
    depth, x, y = with_trends(n, seed)
    u, v = beyond(depth, x), beyond(depth, y)
    found = correlate_detrended(depth, x, y)
    assert (found.coefficient, found.n, found.reason) == (pytest.approx(np.corrcoef(u, v)[0, 1]), n, "")
    lag = [sum(w[i] * w[i - 1] for i in range(1, n)) / sum(w[i] ** 2 for i in range(n)) for w in (u, v)]
    lag = [min(a + (1 + 3 * a) / n, 0.95) for a in lag]
    assert found.n_effective == pytest.approx(min(n, n * (1 - lag[0] * lag[1]) / (1 + lag[0] * lag[1])))
    z, reach = np.arctanh(found.coefficient), 1.959964 / np.sqrt(max(found.n_effective - 5, 1e-9))
    assert (found.low, found.high) == pytest.approx((np.tanh(z - reach), np.tanh(z + reach)))


def test_where_neighbours_are_unlike_p_is_that_of_the_regression() -> None:
    """y on 1, depth, depth^2 and x: the t of x, with n - 4 degrees of freedom."""
    checked = 0
    for seed in range(12):
        depth, x, y = with_trends(20, seed)
        found = correlate_detrended(depth, x, y)
        if found.n_effective < 20:
            continue
        checked += 1
        design = np.stack([np.ones(20), depth, depth**2, x], axis=1)
        slopes, rss, *_ = np.linalg.lstsq(design, y, rcond=None)
        t = slopes[3] / np.sqrt(rss[0] / 16 * np.linalg.inv(design.T @ design)[3, 3])
        assert found.p_above == pytest.approx(stats.t.sf(t, 16))
        assert found.p_below == pytest.approx(stats.t.cdf(t, 16))
    assert checked >= 3


def test_layers_that_resemble_their_neighbours_count_for_less_and_never_for_more() -> None:
    effective = [correlate_detrended(*with_trends(28, seed, memory=0.8)).n_effective for seed in range(20)]
    assert np.mean(effective) < 22
    alternating = np.where(np.arange(28) % 2, 1.0, -1.0)
    both = correlate_detrended(np.arange(28.0), alternating, alternating + np.random.default_rng(0).normal(0, 0.1, 28))
    assert max(*effective, both.n_effective) <= 28


def test_drifting_series_that_have_nothing_in_common_are_seldom_related() -> None:
    """Allowing for the drift: p below 0.05 in not much more than 5 of 100, and in fewer than without."""
    rng, ours, naive = np.random.default_rng(1), 0, 0
    for _ in range(300):
        series = rng.normal(size=(2, 36))
        for i in range(1, 36):
            series[:, i] += 0.7 * series[:, i - 1]
        found = correlate_detrended(np.arange(36.0), *series)
        ours += found.p_above < 0.05
        naive += stats.t.sf(found.coefficient * np.sqrt(32 / (1 - found.coefficient**2)), 32) < 0.05
    assert ours / 300 < 0.11 < naive / 300


@pytest.mark.parametrize("seed", range(3))
def test_the_shift_p_counts_turns_of_one_series_around_depth(seed: int) -> None:
    depth, x, y = with_trends(9, 20 + seed, memory=0.5)
    u, v = beyond(depth, x), beyond(depth, y)
    observed = abs(np.corrcoef(u, v)[0, 1])
    as_strong = 0
    for shift in range(9):
        turned = [u[(i - shift) % 9] for i in range(9)]
        as_strong += abs(np.corrcoef(turned, v)[0, 1]) >= observed - 1e-9
    assert correlate_detrended(depth, x, y).shift_p == pytest.approx(as_strong / 9)


def test_a_true_coefficient_of_at_least_is_fishers_z() -> None:
    found = correlate_detrended(*with_trends(20, 0))
    z = (np.arctanh(found.coefficient) - np.arctanh(0.9)) * np.sqrt(found.n_effective - 5)
    assert 0 < found.p_at_least(0.9) < 0.05
    assert found.p_at_least(0.9) == pytest.approx(stats.norm.cdf(z))
    assert found.p_at_least(found.coefficient) == pytest.approx(0.5)


@pytest.mark.parametrize("trend", [[0.3, 0.0, 0.0], [0.0, 0.0, 0.0], [0.1, -0.4, 0.02]], ids=["flat", "zero", "curve"])
def test_a_trend_in_depth_leaves_nothing_and_says_so(trend: list[float]) -> None:
    depth, x, y = with_trends(12, 1)
    quadratic = trend[0] + trend[1] * depth + trend[2] * depth**2
    for pair in ((quadratic, y), (x, quadratic)):
        found = correlate_detrended(depth, *pair)
        assert found.reason == "a trend in depth leaves nothing of one of the two"
        assert np.isnan([found.coefficient, found.low, found.p_above, found.shift_p, found.p_at_least(0.5)]).all()


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_beyond_depth_the_units_do_not_matter(unit: float) -> None:
    depth, x, y = with_trends(12, 2)
    ours, other = correlate_detrended(depth, x, y), correlate_detrended(10 * depth - 3, unit * x, y)
    assert list(vars(ours).values())[:-1] == pytest.approx(list(vars(other).values())[:-1])


def test_beyond_depth_six_layers_are_too_few_and_holes_are_left_out() -> None:
    depth, x, y = with_trends(9, 3)
    x[4], y[7] = np.nan, np.inf
    kept = np.delete(np.arange(9), [4, 7])
    assert correlate_detrended(depth, x, y) == correlate_detrended(depth[kept], x[kept], y[kept])
    x[0] = np.nan
    assert correlate_detrended(depth, x, y).reason == "6 layers with both values: at least 7 are needed"


def test_beyond_a_step_is_what_the_best_step_and_a_quadratic_leave_by_brute_force() -> None:
    depth, rng = np.arange(12.0), np.random.default_rng(9)
    x, y = np.where(depth < 7, 0.9, 0.3) + 0.1 * rng.normal(size=(2, 12))

    def left(values: np.ndarray) -> np.ndarray:
        fits = []
        for change in range(2, 11):
            design = np.stack([np.ones(12), depth, depth**2, depth >= change], axis=1)
            fits.append(values - design @ np.linalg.pinv(design) @ values)
        return min(fits, key=np.linalg.norm)

    found, without = (correlate_detrended(depth, x, y, step=step) for step in (True, False))
    assert found.coefficient == pytest.approx(np.corrcoef(left(x), left(y))[0, 1])
    assert found.n_effective <= 10
    assert found.high - found.low > without.high - without.low

"""Relations beyond a trend in depth: brute force, planted relations, shared trends and rivals that are none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensrl.measures.trend import (
    _choose,
    _columns,
    _edges,
    _Trend,
    autocorrelation,
    correlate_detrended,
    effective_size,
)

DEPTH = np.arange(28.0)
X = DEPTH / 27


def drifting(n: int, rng: np.random.Generator, memory: float = 0.6) -> np.ndarray:
    series = rng.normal(size=n)
    for layer in range(1, n):
        series[layer] = memory * series[layer - 1] + np.sqrt(1 - memory**2) * series[layer]
    return series


SHARED = {
    "nothing": 0 * X,
    "quadratic": 1 - (2 * X - 1) ** 2,
    "step": np.where(X < 0.66, 1.0, 0.0),
    "plateau": 1.0 * ((X > 0.2) & (X < 0.7)),
    "hump": np.exp(-(((X - 0.5) / 0.17) ** 2) / 2),
    "decay": np.exp(-DEPTH / 2),
    "plateau and decay": 1.0 * ((X > 0.2) & (X < 0.7)) + np.exp(-DEPTH / 2),
    "ramps": np.clip(np.minimum(X / 0.25, (1 - X) / 0.25), 0, 1),
    "first layer": 1.0 * (DEPTH == 0),
    "last layer": 1.0 * (DEPTH == 27),
}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("noise", [0.02, 0.05, 0.15])
def test_series_that_share_a_trend_and_nothing_else_are_seldom_related(kind: str, noise: float) -> None:
    rng, related, raw = np.random.default_rng(0), 0, []
    for _ in range(100):
        x, y = (0.6 * SHARED[kind] + noise * drifting(28, rng) for _ in range(2))
        related += correlate_detrended(DEPTH, x, y).p_above < 0.025
        raw.append(np.corrcoef(x, y)[0, 1])
    assert stats.binomtest(related, 100, 0.05, alternative="greater").pvalue > 0.01
    if kind in ("step", "plateau", "hump") and noise == 0.05:
        assert np.mean(raw) > 0.8


@pytest.mark.parametrize("kind", ["nothing", "step", "hump"])
def test_a_relation_beyond_the_trend_is_found(kind: str) -> None:
    rng, found = np.random.default_rng(1), []
    for _ in range(40):
        deviations = drifting(28, rng, 0.3)
        y = 0.6 * SHARED[kind] + 0.15 * deviations
        x = 0.3 * SHARED[kind] + 0.15 * (0.9 * deviations + np.sqrt(1 - 0.81) * drifting(28, rng, 0.3))
        found.append(correlate_detrended(DEPTH, x, y).p_above < 0.025)
    assert np.mean(found) > 0.9


def test_what_both_take_from_a_rival_is_no_relation_given_the_rival() -> None:
    rng, alone, given = np.random.default_rng(2), 0, 0
    for _ in range(60):
        rival = drifting(28, rng, 0.3)
        x, y = (rival + 0.4 * drifting(28, rng, 0.3) for _ in range(2))
        alone += correlate_detrended(DEPTH, x, y).p_above < 0.025
        given += correlate_detrended(DEPTH, x, y, given=rival).p_above < 0.025
    assert alone > 50
    assert given <= 6


def test_a_curve_of_a_rival_is_no_relation_given_the_rival() -> None:
    """The exponential is no cubic."""
    rng, found = np.random.default_rng(5), {"shared": 0, "own": 0}
    for _ in range(60):
        rival = drifting(28, rng, 0.3)
        x, y = (np.exp(rival / 1.5) + 0.35 * drifting(28, rng, 0.3) for _ in range(2))
        own = drifting(28, rng, 0.3)
        found["shared"] += correlate_detrended(DEPTH, x, y, given=rival).p_above < 0.025
        found["own"] += correlate_detrended(DEPTH, x + own, y + own, given=rival).p_above < 0.025
    assert found["shared"] <= 6
    assert found["own"] > 50


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_rival_of_few_values_is_removed_as_its_groups(levels: int) -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 28))
    rival = np.arange(28) % levels * 1.7
    groups = [(rival == value).astype(float) for value in np.unique(rival)]
    found = correlate_detrended(DEPTH, x, y, given=rival)
    trends = [_choose(values, tuple(DEPTH)) for values in (x, y)]
    edges = sorted({edge for trend in trends for edge in trend.edges})
    columns = [*_columns(tuple(DEPTH), max(t.waves for t in trends)), *_edges(28)[edges], *groups]
    left = [v - np.stack(columns, 1) @ np.linalg.lstsq(np.stack(columns, 1), v)[0] for v in (x, y)]
    lengths = [np.sqrt(u @ u + 0.05**2 * 26 * values[1:-1].var()) for u, values in zip(left, (x, y), strict=True)]
    assert found.coefficient == pytest.approx(left[0] @ left[1] / (lengths[0] * lengths[1]), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_coefficient_is_the_partial_correlation_given_the_trend_of_both(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = 0.6 * SHARED["plateau"] + 0.1 * rng.normal(size=28), 0.6 * SHARED["hump"] + 0.1 * rng.normal(size=28)
    places = tuple(DEPTH.tolist())
    trends = [_choose(values, places) for values in (x, y)]
    edges = sorted({edge for trend in trends for edge in trend.edges})
    design = np.stack([*_columns(places, max(t.waves for t in trends)), *_edges(28)[edges]], axis=1)
    u, v = (values - design @ np.linalg.pinv(design) @ values for values in (x, y))
    found = correlate_detrended(DEPTH, x, y)
    floors = [0.05**2 * 26 * values[1:-1].var() for values in (x, y)]
    assert found.coefficient == pytest.approx(u @ v / np.sqrt((u @ u + floors[0]) * (v @ v + floors[1])))
    assert (found.waves, found.edges, found.n) == (max(t.waves for t in trends), len(edges), 28)
    assert abs(u[0]) < 1e-9, "the end layers have no part in it"
    assert abs(v[-1]) < 1e-9
    df = 28 - design.shape[1] - 1
    assert found.df <= df
    t = found.coefficient * np.sqrt(found.df / (1 - found.coefficient**2))
    assert found.p_above == pytest.approx(stats.t.sf(t, found.df))
    assert found.p_above + found.p_below == pytest.approx(1)


def test_a_series_chooses_the_edges_and_the_waves_that_it_has() -> None:
    places, noise = tuple(DEPTH.tolist()), 0.02 * np.random.default_rng(3).normal(size=28)
    plateau = _choose(SHARED["plateau"] + noise, places)
    assert {4, 17} <= {*plateau.edges}, "steps begin at layer 2"
    assert _choose(SHARED["step"] + noise, places).edges[:1] == (16,)
    assert _choose(SHARED["decay"] + noise, places) == _Trend(0, (len(_edges(28)) - 5,))
    assert _choose(np.cos(2 * np.pi * (DEPTH + 0.5) / 28) + noise, places).waves >= 2


def test_the_end_layers_are_left_out_and_their_weight_is_shown() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 28))
    x[0] = y[0] = 30.0
    found = correlate_detrended(DEPTH, x, y)
    assert found.with_ends > 0.9
    assert abs(found.coefficient) < 0.7


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_units_do_not_matter_nor_does_the_order_of_layers(unit: float) -> None:
    rng = np.random.default_rng(5)
    x, y = drifting(28, rng), drifting(28, rng)
    ours, other = correlate_detrended(DEPTH, x, y), correlate_detrended(10 * DEPTH - 3, unit * x, y)
    assert list(vars(ours).values())[:-1] == pytest.approx(list(vars(other).values())[:-1])
    turned = rng.permutation(28)
    again = correlate_detrended(DEPTH[turned], x[turned], y[turned])
    assert again.coefficient == pytest.approx(ours.coefficient)


def test_too_few_layers_holes_and_nothing_left_have_reasons() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 28))
    few = correlate_detrended(DEPTH[:23], x[:23], y[:23])
    assert few.reason == "23 layers with both values: beyond a trend in depth at least 24 are needed"
    assert np.isnan([few.coefficient, few.p_above, few.shift_p]).all()
    assert correlate_detrended(DEPTH, SHARED["step"], y).reason == "a trend in depth leaves nothing of one of the two"
    assert correlate_detrended(DEPTH, x, y, given=x).reason == "a trend in depth leaves nothing of one of the two"
    x[3], y[7] = np.nan, np.inf
    kept = np.delete(np.arange(28), [3, 7])
    assert correlate_detrended(DEPTH, x, y) == correlate_detrended(DEPTH[kept], x[kept], y[kept])


def test_layers_that_resemble_their_neighbours_count_for_less() -> None:
    rng = np.random.default_rng(7)
    alike, apart = ([effective_size(drifting(36, rng, memory)) for _ in range(50)] for memory in (0.8, 0.0))
    assert np.mean(alike) < 12 < 25 < np.mean(apart)
    assert effective_size(np.array([1.0, -1.0] * 14)) == 28
    series = rng.normal(size=30)
    series = (series - series.mean()) / np.linalg.norm(series - series.mean())
    seen = sum(series[i] * series[i - 1] for i in range(1, 30))
    assert autocorrelation(series) == pytest.approx(seen + (1 + 3 * seen) / 30)

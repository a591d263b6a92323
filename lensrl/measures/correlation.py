"""Correlation of a per-layer predictor with the layer contribution: coefficient, interval, permutation p.

Layers are few (8 to 36), and neighbouring layers resemble each other. The interval and the p of `correlate` treat
layers as exchangeable, so both are optimistic wherever both series drift with depth. Depth itself is therefore always
among the predictors, as the rival to beat. `lensrl.measures.trend` removes a trend in depth and allows for the
resemblance of neighbours.

The module correlates two arrays. It does not measure predictors and judges no claim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from lensrl.measures.trend import autocorrelation

Method = Literal["spearman", "pearson"]
PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Correlation:
    """A coefficient over `n` layers, with the interval from `low` to `high` and the two-sided `p`.

    `reason` says why the coefficient, or its interval, is NaN; it is empty otherwise.
    """

    method: Method
    coefficient: float
    low: float
    high: float
    p: float
    n: int
    reason: str


def correlate(
    x: Float[np.ndarray, " layer"],
    y: Float[np.ndarray, " layer"],
    method: Method,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Compute Spearman's or Pearson's coefficient over the layers where both series are finite.

    The interval is Fisher's: tanh(artanh(r) -/+ z error), with z the normal quantile of `confidence`. The standard
    error is 1 / sqrt(n - 3) for Pearson, and sqrt((1 + r^2 / 2) / (n - 3)) for Spearman (Bonett and Wright 2000,
    doi:10.1007/BF02294183). At a coefficient of 1 or -1 Fisher's interval would shrink to a point, which a few layers
    cannot justify: the ends are NaN then.

    p is two-sided, by permutation of x: all permutations if they are at most 9,999, else 9,999 random ones, drawn with
    `seed`.

    The result is NaN, with a reason, for fewer than 4 layers or a constant series.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    n = len(x)
    if n < 4:
        return _undefined(method, n, f"{n} layers with both values: at least 4 are needed")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return _undefined(method, n, "one of the two is constant over layers")
    if method == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    # Coefficient and Fisher's interval: the ranks, or the values, as unit vectors.
    x, y = _standardised(x), _standardised(y)
    coefficient = float(np.clip(x @ y, -1, 1))
    error = math.sqrt((1 + coefficient**2 / 2 if method == "spearman" else 1) / (n - 3))
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * error
    perfect = math.isclose(abs(coefficient), 1)
    z = math.nan if perfect else math.atanh(coefficient)
    reason = "Fisher's interval has no width at a perfect correlation" if perfect else ""
    # p by permutation: it assumes exchangeable layers, and nothing about the distribution of either series.
    test = stats.permutation_test(
        (x,),
        lambda permuted, axis: (permuted * y).sum(axis=axis),
        permutation_type="pairings",
        n_resamples=PERMUTATIONS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return Correlation(
        method=method,
        coefficient=coefficient,
        low=math.tanh(z - reach),
        high=math.tanh(z + reach),
        p=float(test.pvalue),
        n=n,
        reason=reason,
    )


def _standardised(values: Float[np.ndarray, " layer"]) -> Float[np.ndarray, " layer"]:
    """Centre and scale values to mean 0 and norm 1, so that a dot product is Pearson's coefficient."""
    centred = values - values.mean()
    return centred / np.linalg.norm(centred)


def _undefined(method: Method, n: int, reason: str) -> Correlation:
    nan = math.nan
    return Correlation(method=method, coefficient=nan, low=nan, high=nan, p=nan, n=n, reason=reason)


def seed_reliability(by_seed: Float[np.ndarray, "layer seed"]) -> float:
    """Return the share of the variance over layers of a mean over seeds that is not error.

        1 - V / var(mean over seeds),    V = sum of e^2 / ((layers - 1) (seeds - 1) seeds)

    e is what the means of layers and of seeds leave: a seed that moves all layers alike changes no correlation. V is
    taken at its upper 90 % limit. One seed shows no error: the result is 1 then. Layers with a NaN are left out.
    """
    known = by_seed[np.isfinite(by_seed).all(axis=1)]
    n, seeds = known.shape
    if seeds < 2 or n < 2:
        return 1.0
    mean = known.mean(axis=1)
    e = known - mean[:, None] - known.mean(axis=0) + known.mean()
    squares, whole = float((e**2).sum()), float(mean.var(ddof=1))
    error = squares / float(stats.chi2.ppf(0.1, (n - 1) * (seeds - 1))) / seeds
    return max(1 - error / whole, 0.0) if whole > 0 else 1.0


@dataclass(frozen=True)
class Explained:
    """The share of one series' variance over layers that another explains, r^2, with its 95 % interval.

    `low` carries the choice of layers; `high` also the errors of both series, which hide a part of the share.
    `p_half_or_more` is the p of the hypothesis that the share is one half or more, and `p_half_or_less` that it is one
    half or less. `correlation` is r. `n_effective` is the number of independent layers. `reason` says why all are NaN.
    """

    share: float
    low: float
    high: float
    p_half_or_more: float
    p_half_or_less: float
    correlation: float
    n_effective: float
    reason: str


def explained_share(
    x: Float[np.ndarray, " layer"],
    y: Float[np.ndarray, " layer"],
    *,
    reliability: float = 1.0,
    reliability_of_x: float = 1.0,
    confidence: float = 0.95,
) -> Explained:
    """Estimate which share of y's variance over layers x explains, r^2, whatever the sign of r.

    Fisher's z has the standard error 1 / sqrt(n' - 3). The effective size n' = n (1 - a b) / (1 + a b), at most n,
    allows for the lag-one autocorrelations a and b (Bretherton et al. 1999). `reliability` is the share of y's variance
    that is not error, and `reliability_of_x` that of x. Errors make r^2 too small by both factors (Spearman 1904). So
    |r| / sqrt(their product) is compared with sqrt(1/2) from above, and |r| itself from below: both are on the safe
    side.

    The result is NaN, with a reason, for fewer than 6 layers or a constant series.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y, nan = x[finite], y[finite], math.nan
    n = len(x)
    if n < 6 or np.ptp(x) == 0 or np.ptp(y) == 0:
        reason = f"{n} layers with both values: at least 6 are needed" if n < 6 else "one of the two is constant"
        return Explained(nan, nan, nan, nan, nan, nan, nan, reason)
    u, v = _standardised(x), _standardised(y)
    r = float(np.clip(u @ v, -1 + 1e-12, 1 - 1e-12))
    common = autocorrelation(u) * autocorrelation(v)
    n_effective = min(float(n), n * (1 - common) / (1 + common))
    precision = math.sqrt(max(n_effective - 3, 0.5))
    seen, half = math.atanh(abs(r)), math.atanh(math.sqrt(0.5))
    whole = math.atanh(min(abs(r) / math.sqrt(max(reliability * reliability_of_x, 1e-9)), 1 - 1e-12))
    reach = float(stats.norm.ppf((1 + confidence) / 2)) / precision
    return Explained(
        share=r * r,
        low=math.tanh(max(seen - reach, 0.0)) ** 2,
        high=math.tanh(whole + reach) ** 2,
        p_half_or_more=float(stats.norm.cdf((whole - half) * precision)),
        p_half_or_less=float(stats.norm.cdf((half - seen) * precision)),
        correlation=r,
        n_effective=n_effective,
        reason="",
    )

"""Correlation of a per-layer predictor with the layer contribution: value, interval, permutation p.

Layers are few (8 to 36) and neighbours resemble each other, so the interval and the p, which treat layers as
exchangeable, are optimistic wherever both series drift with depth. Depth itself is therefore always among the
predictors, as the rival to beat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

Method = Literal["spearman", "pearson"]
PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Correlation:
    """A coefficient over `n` layers; `reason` says why it, or its interval, is NaN."""

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
    """Spearman's or Pearson's coefficient over the layers where both are finite.

    The interval is Fisher's z with standard error 1 / sqrt(n - 3) for Pearson and, for Spearman,
    sqrt((1 + r^2 / 2) / (n - 3)) (Bonett and Wright 2000, doi:10.1007/BF02294183). p is two-sided, by permuting x:
    all permutations where they are at most 9,999, else as many random ones. At a coefficient of 1 or -1 Fisher's
    interval would shrink to a point, which no few layers can justify: it is NaN then, with the reason.
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
    x, y = _standardised(x), _standardised(y)
    coefficient = float(np.clip(x @ y, -1, 1))
    error = math.sqrt((1 + coefficient**2 / 2 if method == "spearman" else 1) / (n - 3))
    reach = float(stats.norm.ppf((1 + confidence) / 2)) * error
    perfect = math.isclose(abs(coefficient), 1)
    z = math.nan if perfect else math.atanh(coefficient)
    reason = "Fisher's interval has no width at a perfect correlation" if perfect else ""
    test = stats.permutation_test(
        (x,),
        lambda permuted, axis: (permuted * y).sum(axis=axis),
        permutation_type="pairings",
        n_resamples=PERMUTATIONS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return Correlation(method, coefficient, math.tanh(z - reach), math.tanh(z + reach), float(test.pvalue), n, reason)


def _standardised(values: Float[np.ndarray, " layer"]) -> Float[np.ndarray, " layer"]:
    """Mean 0 and norm 1, so that a dot product is Pearson's coefficient."""
    centred = values - values.mean()
    return centred / np.linalg.norm(centred)


def _undefined(method: Method, n: int, reason: str) -> Correlation:
    nan = float("nan")
    return Correlation(method, nan, nan, nan, nan, n, reason)

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
from jaxtyping import Float, Real
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


@dataclass(frozen=True)
class Detrended:
    """Pearson's coefficient of what a quadratic in depth leaves of both series.

    `p_above` and `p_below` are one-sided, of a true coefficient of at most, and at least, 0. `shift_p` is two-sided,
    by circular shifts over depth, so it cannot be smaller than 1 / `n`. `n_effective` counts the layers that the
    residuals' resemblance to their neighbours leaves.
    """

    coefficient: float
    low: float
    high: float
    p_above: float
    p_below: float
    shift_p: float
    n: int
    n_effective: float
    reason: str

    def p_at_least(self, coefficient: float) -> float:
        """One-sided p, by Fisher's z, of a true coefficient of `coefficient` or more."""
        if not math.isfinite(self.coefficient):
            return math.nan
        error = 1 / math.sqrt(max(self.n_effective - _TREND - 3, 1e-9))
        return float(stats.norm.cdf((_fisher(self.coefficient) - _fisher(coefficient)) / error))


_TREND = 2  # parameters of the trend in depth beside its mean


def correlate_detrended(
    depth: Real[np.ndarray, " layer"],
    x: Float[np.ndarray, " layer"],
    y: Float[np.ndarray, " layer"],
    *,
    step: bool = False,
    confidence: float = 0.95,
) -> Detrended:
    """The correlation of x with y that depth does not account for.

    Student's t with n' - 4 degrees of freedom and Fisher's z with standard error 1 / sqrt(n' - 5), where n' =
    n (1 - a b) / (1 + a b), at most n, allows for the lag-one autocorrelations a and b of the residuals (Bretherton et
    al. 1999, doi:10.1175/1520-0442(1999)012<1990:TENOSD>2.0.CO;2). The shifts turn the residuals of x around depth,
    which keeps what neighbours have in common: with few layers they can say little. With `step`, the best two-level
    step goes with the quadratic, each series its own, and the level and the place of it cost n' two more.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    depth, x, y = depth[finite], x[finite], y[finite]
    n = len(x)
    nan = float("nan")
    if n < 7:
        few = f"{n} layers with both values: at least 7 are needed"
        return Detrended(nan, nan, nan, nan, nan, nan, n, nan, few)
    u, v = (_residual(depth, values, step=step) for values in (x, y))
    if any(np.linalg.norm(left) <= 1e-9 * np.linalg.norm(whole) for left, whole in ((u, x), (v, y))):
        return Detrended(nan, nan, nan, nan, nan, nan, n, nan, "a trend in depth leaves nothing of one of the two")
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    r = float(np.clip(u @ v, -1 + 1e-12, 1 - 1e-12))
    common = _autocorrelation(u) * _autocorrelation(v)
    n_effective = min(float(n), n * (1 - common) / (1 + common)) - (2 if step else 0)
    df = max(n_effective - 2 - _TREND, 1.0)
    t = r * math.sqrt(df / (1 - r * r))
    shifts = np.array([np.roll(u, k) @ v for k in range(n)])
    reach = float(stats.norm.ppf((1 + confidence) / 2)) / math.sqrt(max(n_effective - _TREND - 3, 1e-9))
    return Detrended(
        r, math.tanh(_fisher(r) - reach), math.tanh(_fisher(r) + reach),
        float(stats.t.sf(t, df)), float(stats.t.cdf(t, df)), float(np.mean(np.abs(shifts) >= abs(r) - 1e-12)),
        n, n_effective, "",
    )  # fmt: skip


def effective_size(values: Float[np.ndarray, " layer"]) -> float:
    """How many independent layers know the mean of a series as well as these: n (1 - a) / (1 + a), at most n.

    a is the lag-one autocorrelation (Bayley and Hammersley 1946, doi:10.2307/2983560).
    """
    centred = values - values.mean()
    length = float(np.linalg.norm(centred))
    a = max(_autocorrelation(centred / length), 0.0) if length > 0 else 0.0
    return len(values) * (1 - a) / (1 + a)


def _residual(
    depth: Real[np.ndarray, " layer"], values: Float[np.ndarray, " layer"], *, step: bool = False
) -> Float[np.ndarray, " layer"]:
    """What a quadratic in depth leaves, or a quadratic with the step that, between any two layers, leaves least."""
    if not step:
        trend = np.polynomial.Polynomial.fit(depth, values, _TREND)
        return values - trend(depth)
    powers = np.vander((depth - depth.mean()) / np.ptp(depth), _TREND + 1)
    designs = [np.column_stack([powers, depth >= change]) for change in np.sort(depth)[2:-1]]
    left = [values - design @ np.linalg.lstsq(design, values)[0] for design in designs]
    return min(left, key=lambda residual: float(residual @ residual))


def _autocorrelation(residual: Float[np.ndarray, " layer"]) -> float:
    """Lag one, of a series with norm 1, without most of its bias in few layers (Marriott and Pope 1954)."""
    seen = float(residual[1:] @ residual[:-1])
    return min(seen + (1 + 3 * seen) / len(residual), 0.95)


def _fisher(coefficient: float) -> float:
    return math.atanh(min(max(coefficient, -1 + 1e-12), 1 - 1e-12))

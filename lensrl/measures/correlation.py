"""Correlation of a per-layer predictor with the layer contribution: coefficient, interval, permutation p.

Layers are few (8 to 36), and neighbouring layers resemble each other. The interval and the p of `correlate` treat
layers as exchangeable, so both are optimistic wherever both series drift with depth. Depth itself is therefore always
among the predictors, as the rival to beat. `correlate_detrended` removes the trend in depth and allows for the
resemblance of neighbours.

The module correlates two arrays. It does not measure predictors and judges no claim.
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


@dataclass(frozen=True)
class Detrended:
    """Pearson's coefficient of the residuals that a quadratic in depth leaves of two series over `n` layers.

    `low` and `high` are the ends of Fisher's interval. `p_above` and `p_below` are one-sided, for the hypotheses that
    the true coefficient is at most 0 and at least 0. `shift_p` is two-sided, by circular shifts over depth: it cannot
    be smaller than 1 / `n`. `n_effective` is the number of independent layers after the autocorrelation of the
    residuals is allowed for. `reason` says why the values are NaN; it is empty otherwise.
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
        """Return the one-sided p, by Fisher's z, of the hypothesis that the true value is `coefficient` or more."""
        if not math.isfinite(self.coefficient):
            return math.nan
        error = 1 / math.sqrt(max(self.n_effective - _TREND - 3, 1e-9))
        return float(stats.norm.cdf((_fisher_z(self.coefficient) - _fisher_z(coefficient)) / error))


_TREND = 2  # parameters of the quadratic trend in depth, without its mean


def correlate_detrended(
    depth: Real[np.ndarray, " layer"],
    x: Float[np.ndarray, " layer"],
    y: Float[np.ndarray, " layer"],
    *,
    step: bool = False,
    confidence: float = 0.95,
) -> Detrended:
    """Correlate x with y after removal of a quadratic in depth from both.

    p comes from Student's t with n' - 4 degrees of freedom, and the interval from Fisher's z with standard error
    1 / sqrt(n' - 5). The effective size

        n' = n (1 - a b) / (1 + a b),    at most n,

    allows for the lag-one autocorrelations a and b of the residuals (Bretherton et al. 1999,
    doi:10.1175/1520-0442(1999)012<1990:TENOSD>2.0.CO;2). `shift_p` rotates the residuals of x around depth. A rotation
    keeps the resemblance of neighbours, and with few layers it can show little.

    With `step`, the best two-level step is removed together with the quadratic, from each series its own step. The
    level and the place of the step reduce n' by two more.

    The result is NaN, with a reason, for fewer than 7 layers, or where the trend leaves nothing of a series.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    depth, x, y = depth[finite], x[finite], y[finite]
    n = len(x)
    if n < 7:
        return _undetrended(n, f"{n} layers with both values: at least 7 are needed")
    u, v = (_residual(depth, values, step=step) for values in (x, y))
    if any(np.linalg.norm(left) <= 1e-9 * np.linalg.norm(whole) for left, whole in ((u, x), (v, y))):
        return _undetrended(n, "a trend in depth leaves nothing of one of the two")
    # Correlate the residuals, and count the layers that their autocorrelation leaves.
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    r = float(np.clip(u @ v, -1 + 1e-12, 1 - 1e-12))
    common = _autocorrelation(u) * _autocorrelation(v)
    n_effective = min(float(n), n * (1 - common) / (1 + common)) - (2 if step else 0)
    df = max(n_effective - 2 - _TREND, 1.0)
    t = r * math.sqrt(df / (1 - r * r))
    # The null of `shift_p`: every rotation of one residual, the identity among them.
    shifts = np.array([np.roll(u, k) @ v for k in range(n)])
    reach = float(stats.norm.ppf((1 + confidence) / 2)) / math.sqrt(max(n_effective - _TREND - 3, 1e-9))
    return Detrended(
        coefficient=r,
        low=math.tanh(_fisher_z(r) - reach),
        high=math.tanh(_fisher_z(r) + reach),
        p_above=float(stats.t.sf(t, df)),
        p_below=float(stats.t.cdf(t, df)),
        shift_p=float(np.mean(np.abs(shifts) >= abs(r) - 1e-12)),
        n=n,
        n_effective=n_effective,
        reason="",
    )


def _undetrended(n: int, reason: str) -> Detrended:
    nan = math.nan
    return Detrended(
        coefficient=nan, low=nan, high=nan, p_above=nan, p_below=nan, shift_p=nan, n=n, n_effective=nan, reason=reason
    )


def effective_size(values: Float[np.ndarray, " layer"]) -> float:
    """Return the number of independent layers that would give the mean of a series with the same precision.

    n (1 - a) / (1 + a), at most n, with a the lag-one autocorrelation (Bayley and Hammersley 1946,
    doi:10.2307/2983560).
    """
    centred = values - values.mean()
    length = float(np.linalg.norm(centred))
    a = max(_autocorrelation(centred / length), 0.0) if length > 0 else 0.0
    return len(values) * (1 - a) / (1 + a)


def _residual(
    depth: Real[np.ndarray, " layer"], values: Float[np.ndarray, " layer"], *, step: bool = False
) -> Float[np.ndarray, " layer"]:
    """Subtract a quadratic in depth; with `step`, a quadratic and the step between two layers that leaves least."""
    if not step:
        trend = np.polynomial.Polynomial.fit(depth, values, _TREND)
        return values - trend(depth)
    powers = np.vander((depth - depth.mean()) / np.ptp(depth), _TREND + 1)
    designs = [np.column_stack([powers, depth >= change]) for change in np.sort(depth)[2:-1]]
    left = [values - design @ np.linalg.lstsq(design, values)[0] for design in designs]
    return min(left, key=lambda residual: float(residual @ residual))


def _autocorrelation(residual: Float[np.ndarray, " layer"]) -> float:
    """Return the lag-one autocorrelation of a series of norm 1, at most 0.95.

    Most of the bias that few layers cause is removed (Marriott and Pope 1954).
    """
    seen = float(residual[1:] @ residual[:-1])
    return min(seen + (1 + 3 * seen) / len(residual), 0.95)


def _fisher_z(coefficient: float) -> float:
    """Return artanh of a coefficient, finite also at 1 and -1."""
    return math.atanh(min(max(coefficient, -1 + 1e-12), 1 - 1e-12))

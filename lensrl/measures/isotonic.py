"""Isotonic and unimodal regression of many profiles at once, by least squares.

    isotonic    f_1 <= f_2 <= ... <= f_n
    unimodal    f_1 <= ... <= f_m >= ... >= f_n, with the peak m that leaves the smallest sum of squares

The isotonic fit is the max-min formula f_i = max over a <= i of min over b >= i of mean(y_a .. y_b) (Barlow,
Bartholomew, Bremner and Brunk 1972, "Statistical Inference under Order Restrictions"). Layers have equal weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int


class Unimodal(NamedTuple):
    """Unimodal fits of several profiles: the curves, and the number of different levels of each."""

    curve: Float64[np.ndarray, "profile layer"]
    levels: Int[np.ndarray, " profile"]


def isotonic(profiles: Float[np.ndarray, "profile layer"]) -> Float64[np.ndarray, "profile layer"]:
    """Return the best rising fit of each profile."""
    return _max_min(_means(profiles))


def unimodal(profiles: Float[np.ndarray, "profile layer"]) -> Unimodal:
    """Return the best fit of each profile that rises up to a peak and falls beyond it. Either part may be missing."""
    n = profiles.shape[1]
    means, mirrored = _means(profiles), _means(profiles[:, ::-1])
    best = np.full(len(profiles), np.inf)
    curve = np.empty(profiles.shape)
    for peak in range(1, n + 1):  # layers of the rising part; the rest falls
        fitted = np.empty(profiles.shape)
        fitted[:, :peak] = _max_min(means[:, :peak, :peak])
        if peak < n:
            fitted[:, peak:] = _max_min(mirrored[:, : n - peak, : n - peak])[:, ::-1]
        left = ((profiles - fitted) ** 2).sum(axis=1)
        better = left < best
        best, curve = np.where(better, left, best), np.where(better[:, None], fitted, curve)
    apart = 1e-9 * np.abs(profiles).max(axis=1, keepdims=True)
    return Unimodal(curve, 1 + (np.abs(np.diff(curve, axis=1)) > apart).sum(axis=1))


def _means(profiles: Float[np.ndarray, "profile layer"]) -> Float64[np.ndarray, "profile layer layer"]:
    """Return the mean of layers a to b of every profile, at [profile, a, b]; infinite for b < a."""
    n = profiles.shape[1]
    sums = np.concatenate([np.zeros((len(profiles), 1)), np.cumsum(profiles, axis=1)], axis=1)
    a, b = np.indices((n, n))
    length = np.maximum(b - a + 1, 1)
    return np.where(b >= a, (sums[:, b + 1] - sums[:, a]) / length, np.inf)


def _max_min(means: Float64[np.ndarray, "profile layer layer"]) -> Float64[np.ndarray, "profile layer"]:
    """Apply the max-min formula to the means of all stretches of layers."""
    least = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
    n = means.shape[1]
    starts_before = np.arange(n)[:, None] <= np.arange(n)
    return np.where(starts_before, least, -np.inf).max(axis=1)

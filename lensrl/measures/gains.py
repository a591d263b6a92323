"""Gains of several interventions, and how far they are known: contrasts and ratios with intervals.

The gain of run r is the mean over benchmarks of the mean over items of S_r - S_base, averaged over training seeds.
Every run is scored on the same items, and a seed's runs share that seed, so the gains of a study are one vector of
means over two crossed samples, seeds and items. With mean squares A (between seeds), B (between items within their
benchmark) and E (what is left), each a covariance matrix of the means' errors,

    Var = A + B - E                    (E is in both A and B: Searle, Casella and McCulloch 1992, "Variance Components")
    df  = Var^2 / (A^2 / df_A + B^2 / df_B + E^2 / df_E)                     (Satterthwaite 1946, doi:10.2307/3002019)

for any contrast of gains. With one seed, how seeds differ cannot be seen: Var = B, over items alone. A table of
contributions without items has its errors estimated from its own roughness over depth (`from_profile`).

Ratios have Fieller's interval: all c for which numerator - c * denominator is not significantly different from 0
(Fieller 1954, doi:10.1111/j.2517-6161.1954.tb00159.x). It is bounded exactly when the denominator is significant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy import special, stats

from lensrl.errors import LensrlError
from lensrl.measures.score import item_weights

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int | float) and self.low <= number <= self.high


class Estimate(NamedTuple):
    """Estimates with their standard errors and degrees of freedom; arrays of one shape."""

    value: Float64[np.ndarray, "*shape"]
    error: Float64[np.ndarray, "*shape"]
    df: Float64[np.ndarray, "*shape"]

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Student's interval of a single estimate."""
        reach = float(stats.t.ppf((1 + confidence) / 2, self.df) * self.error)
        return Interval(float(self.value), float(self.value) - reach, float(self.value) + reach)

    def p_above(self, number: float = 0.0) -> Float64[np.ndarray, "*shape"]:
        """One-sided p of the hypothesis that the truth is at most `number`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (self.value - number) / self.error
        return np.asarray(stats.t.sf(np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf), self.df))

    def p_below(self, number: float = 0.0) -> Float64[np.ndarray, "*shape"]:
        """One-sided p of the hypothesis that the truth is at least `number`."""
        return Estimate(-self.value, self.error, self.df).p_above(-number)


class _Part(NamedTuple):
    """One mean square: as a covariance matrix of the gains' errors, its degrees of freedom, and how it enters."""

    covariance: Float64[np.ndarray, "gain gain"]
    df: float
    sign: int


@dataclass(frozen=True)
class Gains:
    """A vector of gains whose errors are known; `contrast` and `ratio` are what one asks of it."""

    mean: Float64[np.ndarray, " gain"]
    parts: tuple[_Part, ...]
    n_seeds: int

    @classmethod
    def from_items(cls, gains: Float[np.ndarray, "gain seed item"], benchmark: Sequence[str]) -> Gains:
        """From paired differences per seed and item; `benchmark` names each item's benchmark.

        Raises LensrlError when a benchmark has a single item: how far its mean is known cannot be told.
        """
        n_gains, n_seeds, n_items = gains.shape
        weight, spread, members = _benchmarks(tuple(benchmark))
        gains = np.asarray(gains, np.float64)
        by_seed = gains @ weight  # (gain, seed)
        mean = by_seed.mean(axis=1)
        by_item = gains.mean(axis=1)
        items = (by_item - _within(by_item, members)) * spread
        item_df = float(max(n_items - len(members), 1))
        if n_seeds == 1:
            return cls(mean, (_Part(items @ items.T, item_df, 1),), 1)
        seeds = by_seed - mean[:, None]
        rest = gains - by_item[:, None]  # (gain, seed, item)
        rest = ((rest - _within(rest, members)) * spread).reshape(n_gains, -1)
        share = 1 / (n_seeds * (n_seeds - 1))
        between = share * seeds @ seeds.T
        if n_gains > 2:
            # Two or three seeds that happen to agree would make the denominator look certain, and only then is a
            # ratio defined: full RL is taken to vary between seeds at least half as much as single layers on average.
            between[-1, -1] = max(between[-1, -1], np.diag(between)[:-1].mean() / 2)
        return cls(
            mean,
            (
                _Part(items @ items.T, item_df, 1),
                _Part(between, n_seeds - 1.0, 1),
                _Part(share * rest @ rest.T, (n_seeds - 1) * item_df, -1),
            ),
            n_seeds,
        )

    @classmethod
    def from_profile(cls, contribution: Float[np.ndarray, " layer"]) -> Gains:
        """From contributions alone (the last gain, of full RL, is 1 for certain), errors from their own roughness.

        Var = mean of ((C_{l-1} + C_{l+1}) / 2 - C_l)^2 * 2/3, the error variance where the truth is close to a line
        over any three layers (Gasser, Sroka and Jennen-Steinmetz 1986, doi:10.1093/biomet/73.3.625): all that differs
        from one layer to the next counts as error, so a cliff makes it larger than it is. df is that of n - 2 second
        differences, 18 (n - 2)^2 / (35 n - 88).
        """
        n = len(contribution)
        bend = (contribution[:-2] + contribution[2:]) / 2 - contribution[1:-1]
        covariance = np.zeros((n + 1, n + 1))
        covariance[:n, :n] = np.eye(n) * np.mean(bend**2) * 2 / 3
        df = 18 * (n - 2) ** 2 / (35 * n - 88)
        return cls(np.append(contribution, 1.0).astype(np.float64), (_Part(covariance, df, 1),), 0)

    @classmethod
    def exactly(cls, contribution: Float[np.ndarray, " layer"]) -> Gains:
        """Contributions taken as they are."""
        n = len(contribution) + 1
        return cls(np.append(contribution, 1.0), (_Part(np.zeros((n, n)), 1.0, 1),), 0)

    def contrast(self, weights: Float[np.ndarray, "*contrast gain"]) -> Estimate:
        """weights @ gains, with its error."""
        squares = [np.asarray(np.einsum("...i,ij,...j->...", weights, p.covariance, weights)) for p in self.parts]
        return Estimate(np.asarray(weights @ self.mean), *_combined(squares, self.parts))

    def combined(self, weights: Float[np.ndarray, "combination gain"]) -> Gains:
        """The gains weights @ gains."""
        parts = tuple(_Part(weights @ p.covariance @ weights.T, p.df, p.sign) for p in self.parts)
        return Gains(weights @ self.mean, parts, self.n_seeds)

    def ratios(self, confidence: float = CONFIDENCE) -> list[Interval]:
        """Every gain but the last over the last, with Fieller's interval; infinite where it has no end."""
        n, d = self.mean[:-1], self.mean[-1]
        parts = [(np.diag(p.covariance)[:-1], p.covariance[:-1, -1], p.covariance[-1, -1]) for p in self.parts]

        def excess(c: np.ndarray) -> np.ndarray:
            """Above 0 where c is rejected."""
            squares = [nn - 2 * c * nd + c * c * dd for nn, nd, dd in parts]
            error, df = _combined(squares, self.parts)
            return np.abs(n - c * d) - special.stdtrit(df, (1 + confidence) / 2) * error

        with np.errstate(divide="ignore", invalid="ignore"):
            value = n / d
        low, high = _end(excess, value, -1), _end(excess, value, 1)
        return [Interval(*map(float, ends)) for ends in zip(value, low, high, strict=True)]


def _combined(squares: Sequence[np.ndarray], parts: Sequence[_Part]) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors and degrees of freedom from the mean squares of contrasts, one array of them per part."""
    squares = [np.maximum(square, 0.0) for square in squares]  # rounding may leave less than nothing
    total = np.sum([part.sign * square for square, part in zip(squares, parts, strict=True)], axis=0)
    # no smaller than either sample alone leaves it
    alone = [square for square, part in zip(squares, parts, strict=True) if part.sign > 0]
    variance = np.max(np.stack([total, *alone]), axis=0)
    uncertainty = sum(square**2 / part.df for square, part in zip(squares, parts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(variance > 0, variance**2 / uncertainty, max(part.df for part in parts))
    return np.asarray(np.sqrt(variance)), np.asarray(np.maximum(df, 1.0))


def _end(excess: Callable[[np.ndarray], np.ndarray], start: np.ndarray, side: int) -> np.ndarray:
    """Where `excess` crosses 0 on the way from `start`, where it is at most 0, to one side; infinite if nowhere."""
    outside, within = np.full_like(start, 1e-3), np.ones(start.shape, bool)
    for _ in range(40):
        within = ~(excess(start + side * outside) > 0)
        if not within.any():
            break
        outside = np.where(within, 2 * outside, outside)
    inside = np.zeros_like(start)
    for _ in range(50):
        middle = (inside + outside) / 2
        rejected = excess(start + side * middle) > 0
        inside, outside = np.where(rejected, inside, middle), np.where(rejected, middle, outside)
    return np.where(within, side * np.inf, start + side * inside)


@lru_cache(maxsize=8)
def _benchmarks(benchmark: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Per item its weight in the score, and what turns its deviation into its share of the error; per benchmark its
    items.
    """
    names, index, counts = np.unique(np.asarray(benchmark), return_inverse=True, return_counts=True)
    if (counts < 2).any():
        raise LensrlError(f"benchmark {str(names[counts < 2][0])!r} has a single item: at least two are needed")
    weight = item_weights(benchmark)
    spread = weight * np.sqrt(counts[index] / (counts[index] - 1))
    return weight, spread, tuple(np.flatnonzero(index == i) for i in range(len(names)))


def _within(values: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """For every item, the mean over its benchmark's items."""
    means = np.empty_like(values)
    for items in members:
        means[..., items] = values[..., items].mean(axis=-1, keepdims=True)
    return means

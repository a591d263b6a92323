"""Gains of several interventions with their errors: contrasts, ratios, and intervals of both.

The gain of run r is the mean over benchmarks of the mean over items of S_r - S_base, averaged over training seeds.
Every run is scored on the same items, and the runs of a seed share that seed. So the gains of a study are one vector of
means over two crossed samples: seeds and items. Let A be the mean square between seeds, B the mean square between items
within their benchmark, and E the rest, each as a covariance matrix of the means' errors. For any contrast of gains,

    Var = A + B - E                    (E is in both A and B: Searle, Casella and McCulloch 1992, "Variance Components")
    df  = Var^2 / (A^2 / df_A + B^2 / df_B + E^2 / df_E)                     (Satterthwaite 1946, doi:10.2307/3002019)

One seed shows no differences between seeds: Var = B then, over items alone. A table of contributions without items
takes its errors from its own roughness over depth (`Gains.from_profile`).

Ratios have Fieller's interval: all c for which numerator - c * denominator does not differ significantly from 0
(Fieller 1954, doi:10.1111/j.2517-6161.1954.tb00159.x). It is bounded exactly when the denominator is significant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy import special

from lensrl.errors import LensrlError
from lensrl.measures.score import item_weights

CONFIDENCE = 0.95
KNOWN = 1e6  # degrees of freedom of an error that is given
LEAST_SPREAD, LEAST_OF_TWO = 0.5, 1.5  # of full RL's variance between seeds, over that of layers; with two seeds
FEW_SEEDS = 3  # up to this number, unequal variances between seeds are warned of
UNEQUAL = 3.0  # ratio of full RL's variance between seeds to that of the layers, above which it is said
BARELY = 3.5  # standard errors of full RL's gain, below which contributions are said to be pulled down


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval. `number in interval` includes the ends."""

    value: float
    low: float
    high: float

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int | float) and self.low <= number <= self.high


class Estimate(NamedTuple):
    """Estimates with their standard errors and degrees of freedom: three arrays of one shape."""

    value: Float64[np.ndarray, "*shape"]
    error: Float64[np.ndarray, "*shape"]
    df: Float64[np.ndarray, "*shape"]

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return Student's interval of a single estimate: value -/+ t(df) * error."""
        reach = float(special.stdtrit(self.df, (1 + confidence) / 2) * self.error)
        return Interval(float(self.value), float(self.value) - reach, float(self.value) + reach)

    def p_above(self, number: float = 0.0) -> Float64[np.ndarray, "*shape"]:
        """Return the one-sided p of the hypothesis that the true value is at most `number`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (self.value - number) / self.error
        return np.asarray(special.stdtr(self.df, -np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf)))

    def p_below(self, number: float = 0.0) -> Float64[np.ndarray, "*shape"]:
        """Return the one-sided p of the hypothesis that the true value is at least `number`."""
        return Estimate(-self.value, self.error, self.df).p_above(-number)


class _Part(NamedTuple):
    """One mean square of the variance: A, B or E of the module's docstring.

    `covariance` is the covariance matrix of the gains' errors, `df` its degrees of freedom, and `sign` +1 or -1, the
    sign with which it enters the variance.
    """

    covariance: Float64[np.ndarray, "gain gain"]
    df: float
    sign: int


@dataclass(frozen=True)
class Gains:
    """A vector of gains with known errors. Ask it for contrasts, combinations and ratios.

    `mean` holds one gain per intervention, full RL last where ratios are wanted. `parts` are the mean squares of the
    errors. `n_seeds` is the number of training seeds, 0 if the gains come from contributions alone.
    """

    mean: Float64[np.ndarray, " gain"]
    parts: tuple[_Part, ...]
    n_seeds: int

    @classmethod
    def from_items(cls, gains: Float[np.ndarray, "gain seed item"], benchmark: Sequence[str]) -> Gains:
        """Estimate gains and their errors from paired differences per seed and item, (gain, seed, item).

        `benchmark` names the benchmark of each item. Raises LensrlError if a benchmark has a single item: one item does
        not show how precise the benchmark's mean is.
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
            # Seeds that agree by chance would make the denominator look certain, and a ratio is defined only if it is.
            # So full RL varies at least half as much as single layers on average (variance). Two seeds agree by chance
            # so often that 1.5 times as much is needed: see CALIBRATION.md for what intervals then hold.
            least = LEAST_SPREAD if n_seeds > 2 else LEAST_OF_TWO
            between[-1, -1] = max(between[-1, -1], least * np.diag(between)[:-1].mean())
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
        """Take contributions as gains, with errors from the roughness of the profile itself.

        The last gain, of full RL, is exactly 1. The error variance is

            Var = 2/3 * mean of ((C_{l-1} + C_{l+1}) / 2 - C_l)^2,    df = 18 (n - 2)^2 / (35 n - 88)

        (Gasser, Sroka and Jennen-Steinmetz 1986, doi:10.1093/biomet/73.3.625), with df the degrees of freedom of n - 2
        second differences. It is the error variance where the true profile is close to a line over any three layers.
        All differences between neighbouring layers count as error, so a cliff in the profile makes the estimate too
        large.
        """
        n = len(contribution)
        bend = (contribution[:-2] + contribution[2:]) / 2 - contribution[1:-1]
        covariance = np.zeros((n + 1, n + 1))
        covariance[:n, :n] = np.eye(n) * np.mean(bend**2) * 2 / 3
        df = 18 * (n - 2) ** 2 / (35 * n - 88)
        return cls(np.append(contribution, 1.0).astype(np.float64), (_Part(covariance, df, 1),), 0)

    @classmethod
    def with_errors(cls, contribution: Float[np.ndarray, " layer"], error: Float[np.ndarray, " layer"]) -> Gains:
        """Take contributions with known, independent standard errors as gains. The last gain, of full RL, is 1."""
        covariance = np.diag(np.append(np.asarray(error, np.float64) ** 2, 0.0))
        return cls(np.append(contribution, 1.0).astype(np.float64), (_Part(covariance, KNOWN, 1),), 0)

    @classmethod
    def exactly(cls, contribution: Float[np.ndarray, " layer"]) -> Gains:
        """Take contributions as exact gains, without errors. The last gain, of full RL, is 1."""
        n = len(contribution) + 1
        return cls(np.append(contribution, 1.0), (_Part(np.zeros((n, n)), 1.0, 1),), 0)

    @property
    def contributions(self) -> Float64[np.ndarray, " layer"]:
        """Every gain but the last over the last: C_l, where the last gain is the gain of full RL."""
        return self.mean[:-1] / self.mean[-1]

    def warnings(self) -> list[str]:
        """Return sentences about ratios whose intervals may be too narrow, or whose values are pulled to one side.

        Full RL may vary between seeds more than the layers do. With two or three seeds this is seen badly, and
        Fieller's interval then holds the truth less often than it says. A gain of full RL that is near two standard
        errors was significant by luck, so it is measured too large and the ratios too small.
        """
        said = []
        full = self.contrast(np.eye(len(self.mean))[-1])
        if 1 < self.n_seeds <= FEW_SEEDS and len(self.mean) > 2:
            between = np.diag(self.parts[1].covariance)
            times = float(between[-1] / max(between[:-1].mean(), 1e-300))
            if times > UNEQUAL:
                said.append(
                    f"Full RL varies between the {self.n_seeds} seeds {times:.1f} times as much as layers do "
                    "(variance). In simulated studies where it varies 10 times as much, 95 % intervals of C_l held "
                    "the truth in about 0.92 (two seeds) or 0.93 (three)."
                )
        certainty = float(full.value / full.error) if full.error > 0 else np.inf
        if certainty < BARELY:
            said.append(
                f"Full RL's gain is {certainty:.1f} standard errors above 0, which is barely certain: contributions "
                f"tend to be measured too small."
            )
        return said

    def contrast(self, weights: Float[np.ndarray, "*contrast gain"]) -> Estimate:
        """Return the contrasts weights @ gains, with their errors. The last axis of `weights` runs over gains."""
        squares = [np.asarray(np.einsum("...i,ij,...j->...", weights, p.covariance, weights)) for p in self.parts]
        return Estimate(np.asarray(weights @ self.mean), *_combined(squares, self.parts))

    def combined(self, weights: Float[np.ndarray, "combination gain"]) -> Gains:
        """Return new gains, the linear combinations weights @ gains."""
        parts = tuple(_Part(weights @ p.covariance @ weights.T, p.df, p.sign) for p in self.parts)
        return Gains(weights @ self.mean, parts, self.n_seeds)

    def ratios(self, confidence: float = CONFIDENCE) -> list[Interval]:
        """Divide every gain but the last by the last, with Fieller's interval. An unbounded side is infinite."""
        n, d = self.mean[:-1], self.mean[-1]
        parts = [(np.diag(p.covariance)[:-1], p.covariance[:-1, -1], p.covariance[-1, -1]) for p in self.parts]

        def excess(c: np.ndarray) -> np.ndarray:
            """Return a number above 0 where c is rejected."""
            squares = [nn - 2 * c * nd + c * c * dd for nn, nd, dd in parts]
            error, df = _combined(squares, self.parts)
            return np.abs(n - c * d) - special.stdtrit(df, (1 + confidence) / 2) * error

        with np.errstate(divide="ignore", invalid="ignore"):
            value = self.contributions
        low, high = _ends(excess, value)
        return [Interval(*map(float, ends)) for ends in zip(value, low, high, strict=True)]


def _combined(squares: Sequence[np.ndarray], parts: Sequence[_Part]) -> tuple[np.ndarray, np.ndarray]:
    """Combine mean squares into standard errors and degrees of freedom.

    `squares` holds one array per part, the mean square of each contrast.
    """
    squares = [np.maximum(square, 0.0) for square in squares]  # rounding may make a square slightly negative
    total = np.sum([part.sign * square for square, part in zip(squares, parts, strict=True)], axis=0)
    # The variance is at least the variance from either sample alone.
    alone = [square for square, part in zip(squares, parts, strict=True) if part.sign > 0]
    variance = np.max(np.stack([total, *alone]), axis=0)
    uncertainty = sum(square**2 / part.df for square, part in zip(squares, parts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(variance > 0, variance**2 / uncertainty, max(part.df for part in parts))
    return np.asarray(np.sqrt(variance)), np.asarray(np.maximum(df, 1.0))


def _ends(excess: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> np.ndarray:
    """Find the numbers below and above `start` where `excess` crosses 0. `excess` is at most 0 at `start`.

    A number is infinite if there is no crossing on its side.
    """
    side = np.array([[-1.0], [1.0]])
    outside, within = np.full((2, *start.shape), 1e-3), np.ones((2, *start.shape), bool)
    for _ in range(40):
        within = ~(excess(start + side * outside) > 0)
        if not within.any():
            break
        outside = np.where(within, 2 * outside, outside)
    inside = np.zeros_like(outside)
    for _ in range(34):
        middle = (inside + outside) / 2
        rejected = excess(start + side * middle) > 0
        inside, outside = np.where(rejected, inside, middle), np.where(rejected, middle, outside)
    return np.where(within, side * np.inf, start + side * inside)


@lru_cache(maxsize=8)
def _benchmarks(benchmark: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Return the weight of each item, its error scale, and the items of each benchmark.

    The weight is the item's weight in the score. The error scale turns the item's deviation into its share of the
    error. Raises LensrlError if a benchmark has a single item.
    """
    names, index, counts = np.unique(np.asarray(benchmark), return_inverse=True, return_counts=True)
    if (counts < 2).any():
        raise LensrlError(f"benchmark {str(names[counts < 2][0])!r} has a single item: at least two are needed")
    weight = item_weights(benchmark)
    spread = weight * np.sqrt(counts[index] / (counts[index] - 1))
    return weight, spread, tuple(np.flatnonzero(index == i) for i in range(len(names)))


def _within(values: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """Return, for every item, the mean over the items of its benchmark."""
    means = np.empty_like(values)
    for items in members:
        means[..., items] = values[..., items].mean(axis=-1, keepdims=True)
    return means

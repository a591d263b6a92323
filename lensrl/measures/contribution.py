"""Layer contribution and patching recovery: ratios of paired gains, with bootstrap intervals.

Both are the share of a change that one intervention recovers,

    C_l      = (S_l - S_base) / (S_full - S_base)                    ("Is One Layer Enough?", arXiv 2607.01232)
    recovery = (M(patched) - M(into)) / (M(from) - M(into))

and both are ratios of noisy differences. Scores are paired by item, so items are resampled together for every run;
seeds, where there are several, are resampled together for numerator and denominator. A ratio whose denominator may
be zero means nothing: when the interval of the denominator contains 0 the ratio is *undefined*, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Float64, UInt16

RESAMPLES = 10_000
CONFIDENCE = 0.95
_BLOCK = 500  # resamples at once: bounds memory at _BLOCK x items

Key = TypeVar("Key")


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int | float) and self.low <= number <= self.high


@dataclass(frozen=True)
class GainRatio:
    """`ratio` = `numerator` / `denominator`, each with its interval.

    `status` is `defined`, or `undefined` with the `reason`; the ratio is then NaN.
    """

    ratio: Interval
    numerator: Interval
    denominator: Interval
    status: str
    reason: str


def gain_ratios(
    before: Float[np.ndarray, "seed item"],
    after: Float[np.ndarray, "seed item"],
    parts: Mapping[Key, Float[np.ndarray, "seed item"]],
    benchmark: Sequence[str],
    *,
    gain: str = "after - before",
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[Key, GainRatio]:
    """(part - before) / (after - before) for every part, by a paired percentile bootstrap.

    Arrays hold one metric per seed and item, the items in the same order everywhere; `benchmark` names each item's
    benchmark, and a score is the mean over benchmarks of the mean over its items. Items are drawn with replacement
    within their benchmark, the same draw for every array; with more than one seed, seeds are drawn too. All parts
    share the draws. One seed says nothing about how much seeds differ: the interval is then over items alone.
    `gain` is what the reason of an undefined ratio calls the denominator.

    Raises ValueError when shapes differ or a value is not finite.
    """
    arrays = {"before": before, "after": after} | {f"part {key!r}": part for key, part in parts.items()}
    for name, array in arrays.items():
        if array.shape != (before.shape[0], len(benchmark)):
            raise ValueError(f"{name} has shape {array.shape}, expected {(before.shape[0], len(benchmark))}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
    stacked = np.stack(list(arrays.values())).astype(np.float64)
    observed = stacked @ _weights(benchmark)  # (array, seed)
    drawn = _bootstrap_means(stacked, benchmark, resamples, seed)  # (array, resample)
    points = observed.mean(axis=1)
    gains, gain_draws = points[1:] - points[0], drawn[1:] - drawn[0]  # the first is the denominator
    denominator = _interval(gains[0], gain_draws[0], confidence)
    undefined = (
        f"the interval of {gain} contains 0: {denominator.value:.3g} [{denominator.low:.3g}, {denominator.high:.3g}]"
        if 0 in denominator
        else ""
    )
    results: dict[Key, GainRatio] = {}
    for key, shared, draws in zip(parts, gains[1:], gain_draws[1:], strict=True):
        numerator = _interval(shared, draws, confidence)
        if undefined:
            nothing = Interval(float("nan"), float("nan"), float("nan"))
            results[key] = GainRatio(nothing, numerator, denominator, "undefined", undefined)
        else:
            some = gain_draws[0] != 0  # a rare draw has no gain to share
            ratio = _interval(shared / gains[0], draws[some] / gain_draws[0][some], confidence)
            results[key] = GainRatio(ratio, numerator, denominator, "defined", "")
    return results


def mean_score(scores: Float[np.ndarray, " item"], benchmark: Sequence[str]) -> float:
    """The mean over benchmarks of the mean over each benchmark's items."""
    return float(scores @ _weights(benchmark))


def _weights(benchmark: Sequence[str]) -> Float64[np.ndarray, " item"]:
    """Weights that turn a sum over items into the mean over benchmarks of the mean over items."""
    names, index, counts = np.unique(np.asarray(benchmark), return_inverse=True, return_counts=True)
    return 1.0 / (len(names) * counts[index])


def _bootstrap_means(
    stacked: Float64[np.ndarray, "array seed item"], benchmark: Sequence[str], resamples: int, seed: int
) -> Float64[np.ndarray, "array resample"]:
    n_arrays, n_seeds, n_items = stacked.shape
    item_counts, seed_counts = _draws(tuple(benchmark), n_seeds, resamples, seed)
    weighted = stacked.reshape(-1, n_items) * _weights(benchmark)
    means = np.empty((n_arrays, resamples))
    for start in range(0, resamples, _BLOCK):
        block = slice(start, start + _BLOCK)
        per_seed = weighted @ item_counts[block].T.astype(np.float64)  # (array x seed, resample)
        per_seed = per_seed.reshape(n_arrays, n_seeds, -1)
        means[:, block] = np.einsum("asr,rs->ar", per_seed, seed_counts[block] / n_seeds)
    return means


@lru_cache(maxsize=4)  # a table of recoveries asks for the same draws once per row
def _draws(
    benchmark: tuple[str, ...], n_seeds: int, resamples: int, seed: int
) -> tuple[UInt16[np.ndarray, "resample item"], UInt16[np.ndarray, "resample seed"]]:
    """How often each item (within its benchmark) and each seed is drawn in each resample."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(benchmark)
    counts = np.zeros((resamples, len(labels)), np.uint16)
    for name in np.unique(labels):
        items = np.flatnonzero(labels == name)
        for start in range(0, resamples, _BLOCK):
            stop = min(start + _BLOCK, resamples)
            counts[start:stop, items] = _counts(rng, len(items), stop - start)
    return counts, _counts(rng, n_seeds, resamples)


def _counts(rng: np.random.Generator, n: int, resamples: int) -> UInt16[np.ndarray, "resample n"]:
    """n draws with replacement from n, counted, for each resample."""
    drawn = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=resamples * n).reshape(resamples, n).astype(np.uint16)


def _interval(value: float, draws: Float64[np.ndarray, " resample"], confidence: float) -> Interval:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(low), float(high))

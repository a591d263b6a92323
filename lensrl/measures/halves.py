"""Halves of the items: choose a layer on one half and measure it on the other, against the winner's curse.

The functions split items and compute contributions on the halves. Agreement between halves is in
`lensrl.measures.profile`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from lensrl.measures.gains import Estimate, Gains, Interval
from lensrl.measures.score import item_weights


def best_layer(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray, layers: np.ndarray
) -> list[tuple[int, Interval]]:
    """Choose the best layer on one half of the items and measure its C_l on the other half; then swap the halves.

    Measured on the items that chose it, the best of many noisy layers looks better than it is (the winner's curse).

    `gains` (gain, seed, item) are paired differences from the base; the last gain is full RL's. `benchmark` names the
    benchmark of each item, `layers` the layer of each gain but the last.

    Returns up to two pairs (layer, C_l with Fieller's interval). A pair is left out if full RL's gain is not
    significantly above 0 on the half that measures: there is nothing to divide by. Both are left out if a half has
    fewer than two items of a benchmark.
    """
    split = split_items(benchmark)
    if any(np.sum(benchmark[half] == name) < 2 for half in split for name in np.unique(benchmark)):
        return []
    parts = [Gains.from_items(gains[..., half], benchmark[half].tolist()) for half in split]
    chosen = [int(part.mean[:-1].argmax()) for part in parts]
    return [
        (int(layers[best]), other.ratios()[best])
        for best, other in zip(chosen, reversed(parts), strict=True)
        if other.contrast(np.eye(len(other.mean))[-1]).interval().low > 0
    ]


class BestReach(NamedTuple):
    """The best layer on a part of the items and seeds, its C_l on the rest, and the p that it is below a share."""

    layer: int  # its place among the layers
    contribution: float
    p: float


def best_reaches(gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray, share: float) -> BestReach | None:
    """Test that the best layer recovers at least `share` of full RL's gain, without the luck that chose it.

    The best layer is chosen on every third item and on a third of the seeds (at least one), and measured on the rest.
    Only one layer is tested, so there is nothing to correct for the number of layers. A third is enough to choose a
    layer that stands out, and leaves most of the data to measure it. With one seed, the items alone are split.

    The hypothesis is d = g_best - share * g_full <= 0. The error of d has two parts: that over items, and that over
    seeds. Few seeds do not show the second for one layer. It is therefore at least its mean over all layers, and full
    RL is taken to vary between seeds at least as much as layers do.

    Returns None where a part has fewer than two items of a benchmark.
    """
    place = _place_in_benchmark(benchmark)
    choose, test = np.flatnonzero(place % 3 == 0), np.flatnonzero(place % 3 != 0)
    if any(np.sum(benchmark[part] == name) < 2 for part in (choose, test) for name in np.unique(benchmark)):
        return None
    n_seeds = gains.shape[1]
    first = max(1, n_seeds // 3)
    choosing, testing = (slice(0, first), slice(first, None)) if n_seeds > 1 else (slice(None), slice(None))

    # choose the layer, and measure it on items and seeds that had no part in the choice
    chosen = gains[:, choosing][..., choose] @ item_weights(benchmark[choose].tolist())
    best = int(chosen[:-1].mean(axis=1).argmax())
    names = benchmark[test].tolist()
    mean = Gains.from_items(gains[:, testing][..., test].mean(axis=1, keepdims=True), names)
    over_items = mean.contrast(np.eye(len(gains))[best] - share * np.eye(len(gains))[-1])

    # the error over items and that over seeds, with their degrees of freedom (Satterthwaite)
    variance, df = _seed_variance(gains[..., test], item_weights(names), best, share)
    parts = np.array([float(over_items.error) ** 2, variance / (n_seeds - first if n_seeds > 1 else 1)])
    freedom = parts.sum() ** 2 / max(float((parts**2 / np.array([float(over_items.df), df])).sum()), 1e-300)
    d = Estimate(over_items.value, np.asarray(np.sqrt(parts.sum())), np.asarray(max(freedom, 1.0)))
    return BestReach(best, float(mean.mean[best] / mean.mean[-1]), float(d.p_above()))


def _seed_variance(
    gains: Float64[np.ndarray, "gain seed item"], weight: Float64[np.ndarray, " item"], best: int, share: float
) -> tuple[float, float]:
    """Return the variance between seeds of g_best - share * g_full, and its degrees of freedom.

    The noise of each seed's own items is subtracted: the error over items holds it already.
    """
    n_layers, n_seeds = len(gains) - 1, gains.shape[1]
    if n_seeds == 1:
        return 0.0, 1.0
    scores = gains @ weight  # (gain, seed)
    own = gains - gains.mean(axis=1, keepdims=True)
    ratio = n_seeds / (n_seeds - 1)
    noise = ratio * ((own * weight) ** 2).sum(axis=2).mean(axis=1)
    noise_of_d = ratio * (((own[:-1] - share * own[-1]) * weight) ** 2).sum(axis=2).mean(axis=1)
    between = scores.var(axis=1, ddof=1) - noise
    differences = (scores[:-1] - share * scores[-1]).var(axis=1, ddof=1) - noise_of_d
    layers, full = max(float(between[:-1].mean()), 0.0), max(float(between[-1]), 0.0)
    short = share**2 * max(layers - full, 0.0)
    variance = max(float(differences[best]), float(differences.mean()), 0.0) + short
    of_full = share**2 * max(full, layers)
    of_layer = max(variance - of_full, 0.0)
    df_layer = n_layers * (n_seeds - 1.0)
    df_full = n_seeds - 1.0 if full > layers else df_layer
    spread = of_layer**2 / df_layer + of_full**2 / df_full
    return variance, (of_layer + of_full) ** 2 / spread if spread > 0 else df_layer


def contributions_on_halves(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray
) -> Float64[np.ndarray, "half layer seed"]:
    """Compute the contributions of every seed on each half of the items: (half, layer, seed).

    The denominator is full RL's gain on that half, mean over seeds. Full RL is the last of the gains.
    """
    return np.stack([contributions_on_items(gains, benchmark, half) for half in split_items(benchmark)])


def contributions_on_items(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray, items: Int[np.ndarray, " chosen"]
) -> Float64[np.ndarray, "layer seed"]:
    """Compute the contributions of every seed on the chosen items: (layer, seed).

    `items` are indices. The denominator is full RL's gain on these items, mean over seeds.
    """
    mean = gains[..., items] @ item_weights(benchmark[items].tolist())
    return mean[:-1] / mean[-1].mean()


def split_items(benchmark: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of every other item of each benchmark, and the indices of the remaining items."""
    place = _place_in_benchmark(benchmark)
    return np.flatnonzero(place % 2 == 0), np.flatnonzero(place % 2 == 1)


def _place_in_benchmark(benchmark: np.ndarray) -> Int[np.ndarray, " item"]:
    """Number the items of each benchmark from 0."""
    order = np.argsort(benchmark, kind="stable")
    place = np.empty(len(benchmark), int)
    place[order] = np.concatenate([np.arange(n) for n in np.unique(benchmark, return_counts=True)[1]])
    return place

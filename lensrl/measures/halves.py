"""Halves of the items: choose a layer on one half and measure it on the other, against the winner's curse.

The functions split items and compute contributions on the halves. Agreement between halves is in
`lensrl.measures.profile`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int

from lensrl.measures.gains import Gains, Interval
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
    order = np.argsort(benchmark, kind="stable")
    ranks = np.empty(len(benchmark), int)
    ranks[order] = np.concatenate([np.arange(n) for n in np.unique(benchmark, return_counts=True)[1]])
    return np.flatnonzero(ranks % 2 == 0), np.flatnonzero(ranks % 2 == 1)

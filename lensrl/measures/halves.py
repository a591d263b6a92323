"""Contributions on halves of the items: choose on one half and measure on the other, against the winner's curse."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int

from lensrl.measures.gains import Gains, Interval, item_weights


def best_layer(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray, layers: np.ndarray
) -> list[tuple[int, Interval]]:
    """Return the best layer on one half of the items with its C_l on the other half, and the same with halves swapped.

    The best of many noisy layers looks better than it is when one half both chooses and measures it (the winner's
    curse). The last gain is the gain of full RL. A result is left out when this gain is not certainly above 0 on the
    half that measures: there is nothing to divide by. The list is empty when a half has fewer than two items of a
    benchmark.
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
    """Return the contributions of every seed on both halves of the items.

    The denominator is the mean over seeds of full RL's gain, the last of the gains.
    """
    return np.stack([contributions_on_items(gains, benchmark, half) for half in split_items(benchmark)])


def contributions_on_items(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray, items: Int[np.ndarray, " chosen"]
) -> Float64[np.ndarray, "layer seed"]:
    """Return the contributions of every seed on the chosen items, over the mean of full RL's gain on these items."""
    mean = gains[..., items] @ item_weights(benchmark[items].tolist())
    return mean[:-1] / mean[-1].mean()


def split_items(benchmark: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of every other item of each benchmark, and the indices of the rest."""
    order = np.argsort(benchmark, kind="stable")
    ranks = np.empty(len(benchmark), int)
    ranks[order] = np.concatenate([np.arange(n) for n in np.unique(benchmark, return_counts=True)[1]])
    return np.flatnonzero(ranks % 2 == 0), np.flatnonzero(ranks % 2 == 1)

"""Halves of the items: choose on one half and measure on the other, against the winner's curse."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int

from lensrl.measures.gains import Gains, Interval
from lensrl.measures.score import item_weights


def best_layer(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray, layers: np.ndarray
) -> list[tuple[int, Interval]]:
    """The best layer on one half of the items and its C_l on the other half, then the other way round.

    Measured where it was chosen, the best of many noisy layers looks better than it is (the winner's curse). The last
    gain is full RL's; where that is not certain on the half that measures, there is nothing to divide by, and that way
    round is left out. So are both where a half has fewer than two items of a benchmark.
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
    """Contributions of every seed on either half of the items, over full RL's mean gain (the last of the gains)."""
    return np.stack([contributions_on_items(gains, benchmark, half) for half in split_items(benchmark)])


def contributions_on_items(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray, items: Int[np.ndarray, " chosen"]
) -> Float64[np.ndarray, "layer seed"]:
    """Contributions of every seed on some of the items, over full RL's mean gain there."""
    mean = gains[..., items] @ item_weights(benchmark[items].tolist())
    return mean[:-1] / mean[-1].mean()


def split_items(benchmark: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every other item of each benchmark, and the rest."""
    order = np.argsort(benchmark, kind="stable")
    ranks = np.empty(len(benchmark), int)
    ranks[order] = np.concatenate([np.arange(n) for n in np.unique(benchmark, return_counts=True)[1]])
    return np.flatnonzero(ranks % 2 == 0), np.flatnonzero(ranks % 2 == 1)

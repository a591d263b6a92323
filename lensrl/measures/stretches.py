"""Stretches of layers, and how far each lies above or below the stretches before it and behind it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64


class Pairs(NamedTuple):
    """Stretches of layers, and all pairs of an earlier and a later one that do not overlap.

    `means` @ profile gives the mean over each stretch. `earlier` and `later` are indices of stretches. `unit` is the
    standard error of a pair's difference for independent errors of size 1.
    """

    stretches: list[tuple[int, int]]
    means: Float64[np.ndarray, "stretch layer"]
    earlier: np.ndarray
    later: np.ndarray
    unit: Float64[np.ndarray, " pair"]


@lru_cache(maxsize=32)
def stretch_pairs(n: int, share: float) -> Pairs:
    """Return the stretches of `share` of n layers, twice as many and so on, and their pairs."""
    shortest = max(2, round(n * share))
    lengths = [shortest * 2**i for i in range(n) if i == 0 or shortest * 2**i <= n - 2 * shortest]
    stretches = [(start, start + length) for length in lengths for start in range(n - length + 1)]
    ends, size = np.array(stretches), np.diff(stretches, axis=1)[:, 0]
    place = np.arange(n)
    inside = (place >= ends[:, :1]) & (place < ends[:, 1:])
    earlier, later = np.nonzero(ends[:, None, 1] <= ends[None, :, 0])
    return Pairs(stretches, inside / size[:, None], earlier, later, np.sqrt(1 / size[earlier] + 1 / size[later]))


def sides(pairs: Pairs, rises: Float64[np.ndarray, " pair"]) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much each stretch lies above the lowest one before it, and above the lowest one behind it."""
    before, behind = np.full((2, len(pairs.stretches)), -np.inf)
    np.maximum.at(before, pairs.later, rises)
    np.maximum.at(behind, pairs.earlier, -rises)
    return before, behind


def deepest_valley(
    profiles: Float64[np.ndarray, "profile layer"], share: float
) -> tuple[Float64[np.ndarray, " profile"], np.ndarray]:
    """Return the largest t by which a stretch lies below one before it and one behind it, for a scatter of 1.

    Stretches are `share` of the layers long, or longer. The index of the stretch follows.
    """
    pairs = stretch_pairs(profiles.shape[1], share)
    means = profiles @ pairs.means.T
    rises = (means[:, pairs.later] - means[:, pairs.earlier]) / pairs.unit
    deepest = np.full((len(pairs.stretches), len(profiles)), -np.inf)
    for stretch in range(len(pairs.stretches)):
        before, behind = pairs.later == stretch, pairs.earlier == stretch
        if before.any() and behind.any():
            deepest[stretch] = np.minimum((-rises[:, before]).max(axis=1), rises[:, behind].max(axis=1))
    return deepest.max(axis=0), deepest.argmax(axis=0)

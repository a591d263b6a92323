"""Weights laid end to end, in blocks: a layer is measured as one vector, and is never in memory as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

ENTRIES = 2**16  # entries of a block that stays in a core's cache

Pair = tuple[np.ndarray, np.ndarray]  # a weight before and after training, of one shape
Weights = Callable[[], Iterable[Pair]]  # gives them anew for each pass over their entries, and may read them for it


def in_blocks(weights: Iterable[Pair], step: int) -> Iterator[Pair]:
    """Yield the entries of weights, laid end to end, in blocks of `step`; the last block may be shorter.

    Two weights at most are in memory: that of the last block, and the next. Raises ValueError for two different shapes.
    """
    begun: Pair | None = None  # a block that ends in the next weight
    for before, after in weights:
        if before.shape != after.shape:
            raise ValueError(f"shapes differ: {before.shape} before, {after.shape} after")
        old, new = before.reshape(-1), after.reshape(-1)
        if begun is not None:
            left = step - begun[0].size
            begun = np.concatenate([begun[0], old[:left]]), np.concatenate([begun[1], new[:left]])
            old, new = old[left:], new[left:]
            if begun[0].size < step:
                continue
            yield begun
        whole = old.size // step * step
        for start in range(0, whole, step):
            yield old[start : start + step], new[start : start + step]
        begun = (old[whole:].copy(), new[whole:].copy()) if whole < old.size else None
    if begun is not None:
        yield begun

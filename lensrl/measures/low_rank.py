"""The change D of a weight matrix W as a product of two thin matrices, where its rank allows it.

W' = W + D is stored in fp32. Rounding moves each entry of W' by up to 2^-24 of its size, so D has full rank even where
W' is W + B A with thin B and A. The rank of D is therefore the smallest r at which the best approximation of rank r
misses no more than twice this: sqrt(s_(r+1)^2 + s_(r+2)^2 + ...) <= 2^-23 || W' ||_F, over the singular values s of D.
A sum W + B A that was rounded once has at most the rank of B A (Eckart & Young 1936).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

ROUNDING = 2.0**-23  # of || W' ||_F: the part of D that may be rounding


class LowRank(NamedTuple):
    """`left` @ `right` approximates D = W' - W.

    `rank`: the rank of D beyond rounding; at least 1.
    `error`: || (W + left @ right) - W' ||_F / || D ||_F, with the sum in fp32; 0 where D is 0.
    """

    rank: int
    left: Float32[np.ndarray, "row kept"]
    right: Float32[np.ndarray, "kept column"]
    error: float

    @property
    def pays(self) -> bool:
        """Whether the two thin matrices of this rank have fewer entries than D."""
        return self.rank <= most_paying_rank((len(self.left), self.right.shape[1]))


def low_rank(before: Float32[np.ndarray, "row column"], after: Float32[np.ndarray, "row column"]) -> LowRank:
    """Return the best approximation of D = after - before with the rank of D.

    Where that rank does not pay, the approximation has the largest rank that does. Each factor takes the root of the
    singular values.
    """
    delta = after.astype(np.float64) - before
    u, s, v = np.linalg.svd(delta, full_matrices=False)
    missed_at = np.sqrt(np.cumsum(s[::-1] ** 2)[::-1])  # by the approximation of rank 0, 1, ...
    rank = max(1, int((missed_at > ROUNDING * np.linalg.norm(after.astype(np.float64))).sum()))
    kept = min(rank, most_paying_rank(delta.shape))
    root = np.sqrt(s[:kept])
    left, right = (u[:, :kept] * root).astype(np.float32), (root[:, None] * v[:kept]).astype(np.float32)
    size = float(np.linalg.norm(delta))
    missed = float(np.linalg.norm((before + left @ right).astype(np.float64) - after))
    return LowRank(rank, left, right, missed / size if size else 0.0)


def most_paying_rank(shape: tuple[int, ...]) -> int:
    """Return the largest rank at which two thin matrices have fewer entries than a matrix of this shape."""
    rows, columns = shape
    return (rows * columns - 1) // (rows + columns)

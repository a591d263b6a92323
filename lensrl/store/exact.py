"""Weight deltas that give the trained weights back bit for bit.

`after - before` in fp32 is exact when the two are within a factor of two of each other (Sterbenz), and mostly is
otherwise; where `before + delta` still differs from `after` in any bit (a tiny weight that grew, a zero that changed
sign), the position and the trained value are kept beside the delta.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from lensrl.errors import StoreError


class Delta(NamedTuple):
    """`delta` in the weights' shape; `where` (flat positions) and `value` repair what addition gets wrong."""

    delta: Float32[np.ndarray, "..."]
    where: Int64[np.ndarray, " repair"]
    value: Float32[np.ndarray, " repair"]


def subtract(before: Float32[np.ndarray, "..."], after: Float32[np.ndarray, "..."]) -> Delta:
    """The exact delta from `before` to `after`. Raises StoreError when either holds a NaN or an infinity."""
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise StoreError("weights hold a NaN or an infinity: their delta cannot be stored")
    with np.errstate(over="ignore"):
        delta = np.subtract(after, before, out=_row_major(after))
    where = np.flatnonzero(_bits(_sum(before, delta)) != _bits(after))
    delta.reshape(-1)[where] = np.nan_to_num(delta.reshape(-1)[where])  # an overflow becomes the largest finite number
    return Delta(delta, where, after.reshape(-1)[where])


def add(before: Float32[np.ndarray, "..."], change: Delta) -> Float32[np.ndarray, "..."]:
    """The trained weights: `before + delta`, repaired. The inverse of `subtract`, bit for bit."""
    after = _sum(before, change.delta)
    after.reshape(-1)[change.where] = change.value
    return after


def same_bits(a: Float32[np.ndarray, "..."], b: Float32[np.ndarray, "..."]) -> bool:
    """Equality that tells 0.0 from -0.0."""
    return a.shape == b.shape and bool(np.array_equal(_bits(a), _bits(b)))


def _sum(before: Float32[np.ndarray, "..."], delta: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    with np.errstate(over="ignore"):
        return np.add(before, delta, out=_row_major(before))


def _row_major(like: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """An array to fill, in the order of flat positions, so that `reshape(-1)` is a view of it."""
    return np.empty_like(like, order="C")


def _bits(array: Float32[np.ndarray, "..."]) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint32)

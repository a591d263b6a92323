"""Weight deltas that give the trained weights back bit for bit.

`after - before` in fp32 is exact if the two are within a factor of two of each other (the lemma of Sterbenz). It often
is exact otherwise. Where `before + delta` still differs from `after` in any bit, the position and the trained value are
kept as a repair. This happens where a tiny weight grew, or where a zero changed its sign.

All functions work entry by entry, so that they may be applied to an array or to its blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt32

from lensrl.errors import StoreError


class Delta(NamedTuple):
    """A delta in the shape of the weights. Writing `value` at the flat positions `where` repairs `before + delta`."""

    delta: Float32[np.ndarray, "..."]
    where: Int64[np.ndarray, " repair"]
    value: Float32[np.ndarray, " repair"]


class Scratch:
    """Arrays to compute in, reused from block to block: allocating fresh memory takes longer than the arithmetic."""

    def __init__(self, entries: int) -> None:
        self.delta = np.empty(entries, np.float32)
        self.total = np.empty(entries, np.float32)
        self.differ = np.empty(entries, np.bool_)


def subtract(
    before: Float32[np.ndarray, "..."], after: Float32[np.ndarray, "..."], scratch: Scratch | None = None
) -> Delta:
    """Return the exact delta from `before` to `after`.

    With `scratch`, the delta is a view of its memory, which the next call overwrites. Raises StoreError when `before`
    or `after` holds a NaN or an infinity.
    """
    old, new = flat(before), flat(after)
    scratch = scratch or Scratch(new.size)
    delta, total, differ = (array[: new.size] for array in (scratch.delta, scratch.total, scratch.differ))
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(new, old, out=delta)
        if not np.isfinite(delta, out=differ).all():  # a difference of finite numbers can overflow
            if not (np.isfinite(old).all() and np.isfinite(new).all()):
                raise StoreError("weights hold a NaN or an infinity: their delta cannot be stored")
            np.nan_to_num(delta, copy=False)  # an overflow becomes the largest finite number
        np.add(old, delta, out=total)
    where = np.flatnonzero(differ) if np.not_equal(bits(total), bits(new), out=differ).any() else np.empty(0, np.int64)
    return Delta(delta.reshape(after.shape), where, new[where])


def add(before: Float32[np.ndarray, "..."], change: Delta, *, in_place: bool = False) -> Float32[np.ndarray, "..."]:
    """Return the trained weights: `before + delta`, with the repairs written in. Inverts `subtract` bit for bit.

    With `in_place`, they take the memory of the delta, which is lost.
    """
    after = flat(change.delta) if in_place else np.empty_like(flat(before))
    with np.errstate(over="ignore"):
        np.add(flat(before), flat(change.delta), out=after)
    after[change.where] = change.value
    return after.reshape(before.shape)


def same_bits(a: Float32[np.ndarray, "..."], b: Float32[np.ndarray, "..."], scratch: Scratch | None = None) -> bool:
    """Return whether two arrays agree in shape and in every bit: 0.0 differs from -0.0."""
    differ = None if scratch is None else scratch.differ[: a.size]
    return a.shape == b.shape and not np.not_equal(bits(a), bits(b), out=differ).any()


def count_changed(before: Float32[np.ndarray, "..."], after: Float32[np.ndarray, "..."], scratch: Scratch) -> int:
    """Return the number of entries that differ in any bit."""
    return int(np.count_nonzero(np.not_equal(bits(before), bits(after), out=scratch.differ[: after.size])))


def flat(array: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, " entry"]:
    """Return the entries in row-major order: a view of a contiguous array, a copy of any other."""
    return np.ascontiguousarray(array).reshape(-1)


def bits(array: Float32[np.ndarray, "..."]) -> UInt32[np.ndarray, " entry"]:
    """Return the bits of the entries as unsigned integers, in row-major order."""
    return flat(array).view(np.uint32)

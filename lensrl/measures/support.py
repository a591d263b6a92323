"""The support of a weight's change: the entries that it changes most, and their place among the entries of the weight.

W becomes W + D. The support is the tenth of the entries with the largest |D|. Its overlap with the tenth with the
largest, or smallest, |W| is the share of the support that lies there: 0.1 by chance. Zhu et al. 2025
(arXiv 2511.08567) measure it for RL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from lensrl.measures.joined import ENTRIES, Pair, Weights, in_blocks

SUPPORT = 0.1  # share of entries that counts as the update's support, and as W's largest or smallest
LARGE = 2**20  # entries of a block that is counted in 2**16 bins


def support_overlaps(weights: Weights, size: int, *, moved: bool) -> dict:
    """Return the shares of the update's support among the largest and the smallest of all `size` entries of W.

    Entries are ranked by |W| and by |D|, D rounded to the type of the weights. Where entries are tied at the border of
    a set, as in weights of bfloat16, each of them belongs to the set with the share of them that fits into it. This is
    the mean over all orders of the tied entries.
    """
    count = round(SUPPORT * size)
    if count == 0 or not moved:
        return dict.fromkeys(("overlap_largest", "overlap_smallest"), math.nan)

    def sizes(step: int) -> Iterator[Pair]:
        return ((np.abs(new - old), np.abs(old)) for old, new in in_blocks(weights(), step))

    top, bottom = size - count, count - 1
    support, smallest, largest = _borders(lambda: sizes(LARGE), (0, top), (1, bottom), (1, top))
    # Members of two sets at once: entry by entry, in blocks.
    above = np.zeros((2, 3, 3))  # (largest or smallest, place in the support, place in the set of |W|)
    for d, w in sizes(ENTRIES):
        moved_most = 3 * _places(d, support)
        for number, places in enumerate((_places(w, largest), 2 - _places(w, smallest))):
            above[number] += np.bincount(moved_most + places, minlength=9).reshape(3, 3)
    largest_share, smallest_share = (_overlap(table, count) for table in above)
    return {"overlap_largest": largest_share, "overlap_smallest": smallest_share}


def top_overlap(one: Float[np.ndarray, " entry"], other: Float[np.ndarray, " entry"], share: float) -> float:
    """Return how many of the entries that are largest in one array are also largest in another, as a share.

        overlap = | T(one) & T(other) | / k,    T(x) the k = round(share n) entries with the largest |x|, of n

    By chance this is k / n. The Jaccard index is overlap / (2 - overlap). Tied entries count as in `support_overlaps`.
    NaN where k is 0.
    """
    count = round(share * one.size)
    if count == 0:
        return math.nan

    def sizes(step: int) -> Iterator[Pair]:
        return ((np.abs(x), np.abs(y)) for x, y in in_blocks([(one, other)], step))

    borders = _borders(lambda: sizes(LARGE), (0, one.size - count), (1, one.size - count))
    table = np.zeros((3, 3))  # entries by their place in `one`, and in `other`
    for x, y in sizes(ENTRIES):
        table += np.bincount(3 * _places(x, borders[0]) + _places(y, borders[1]), minlength=9).reshape(3, 3)
    return _overlap(table, count)


def _borders(blocks: Callable[[], Iterable[Sequence[np.ndarray]]], *ranks: tuple[int, int]) -> list[float]:
    """Return the values at ranks in ascending order, of values that are not negative.

    `blocks` gives several arrays of one type, block by block; a rank is (number of the array, rank in it). The bits of
    such numbers have the order of the numbers. Their first 16 bits are counted, then the next 16 bits of the numbers
    that share those of the value, and so on: no copy of all values is needed.
    """
    found = [0] * len(ranks)  # the bits of each value that are known
    left = [rank for _, rank in ranks]  # the rank among the numbers that share them
    known, dtype = 0, np.dtype(np.float16)
    while known == 0 or known < 8 * dtype.itemsize:
        counts = {(array, bits): np.zeros(2**16, np.int64) for (array, _), bits in zip(ranks, found, strict=True)}
        for block in blocks():
            dtype = block[0].dtype
            shift = 8 * dtype.itemsize - 16 - known
            for (array, bits), table in counts.items():
                numbers = block[array].view(f"u{dtype.itemsize}")
                digits = (numbers >> shift) & 0xFFFF
                shared = digits if known == 0 else digits[numbers >> (shift + 16) == bits]
                table += np.bincount(shared.view(f"i{dtype.itemsize}"), minlength=2**16)  # numpy 2.0 counts no uint64
        for row, (array, _) in enumerate(ranks):
            ends = counts[array, found[row]].cumsum()
            digit = int(np.searchsorted(ends, left[row], side="right"))
            left[row] -= int(ends[digit - 1]) if digit else 0
            found[row] = found[row] << 16 | digit
        known += 16
    return np.array(found, f"u{dtype.itemsize}").view(dtype).tolist()


def _places(sizes: Float[np.ndarray, " entry"], border: float) -> np.ndarray:
    """Return 0 below the border, 1 on it, 2 above it."""
    return (sizes >= border).astype(np.int8) + (sizes > border)


def _overlap(table: np.ndarray, size: int) -> float:
    """Return the overlap of two sets of `size` entries, from the entries by their places in both."""
    rows, columns = (_memberships(sums, size) for sums in (table.sum(1), table.sum(0)))
    return float(rows @ table @ columns) / size


def _memberships(counts: np.ndarray, size: int) -> np.ndarray:
    """Return the share of a set of `size` entries to which entries below, on and above its border belong."""
    return np.array([0.0, (size - counts[2]) / counts[1], 1.0])

"""The support of a weight's change: the entries that it changes most, and their place among the entries of the weight.

W becomes W + D. The support is the tenth of the entries with the largest |D|. Its overlap with the tenth with the
largest, or smallest, |W| is the share of the support that lies there: 0.1 by chance. Zhu et al. 2025
(arXiv 2511.08567) measure it for RL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float

SUPPORT = 0.1  # share of entries that counts as the update's support, and as W's largest or smallest
ENTRIES = 2**16  # entries of a block that stays in a core's cache
LARGE = 2**20  # entries of a block that is counted in 2**16 bins


def support_overlaps(old: Float[np.ndarray, " entry"], new: Float[np.ndarray, " entry"], *, moved: bool) -> dict:
    """Return the shares of the update's support among W's largest and smallest entries.

    Entries are ranked by |W| and by |D|, D rounded to the type of the weights. Where entries are tied at the border of
    a set, as in weights of bfloat16, each of them belongs to the set with the share of them that fits into it. This is
    the mean over all orders of the tied entries.
    """
    count = round(SUPPORT * old.size)
    if count == 0 or not moved:
        return dict.fromkeys(("overlap_largest", "overlap_smallest"), math.nan)
    starts = range(0, old.size, LARGE)
    (support,) = _borders(lambda: (np.abs(new[i : i + LARGE] - old[i : i + LARGE]) for i in starts), old.size - count)
    smallest, largest = _borders(lambda: (np.abs(old[i : i + LARGE]) for i in starts), count - 1, old.size - count)
    # Members of two sets at once: entry by entry, in blocks.
    above = np.zeros((2, 3, 3))  # (largest or smallest, place in the support, place in the set of |W|)
    for start in range(0, old.size, ENTRIES):
        w, d = np.abs(old[start : start + ENTRIES]), np.abs(new[start : start + ENTRIES] - old[start : start + ENTRIES])
        moved_most = 3 * _places(d, support)
        for number, places in enumerate((_places(w, largest), 2 - _places(w, smallest))):
            above[number] += np.bincount(moved_most + places, minlength=9).reshape(3, 3)
    shares = []
    for table in above:
        rows, columns = (_memberships(sums, count) for sums in (table.sum(1), table.sum(0)))
        shares.append(float(rows @ table @ columns) / count)
    return {"overlap_largest": shares[0], "overlap_smallest": shares[1]}


def top_overlap(one: Float[np.ndarray, " entry"], other: Float[np.ndarray, " entry"], share: float) -> float:
    """Return how many of the entries that are largest in one array are also largest in another, as a share.

        overlap = | T(one) & T(other) | / k,    T(x) the k = round(share n) entries with the largest |x|, of n

    By chance this is k / n. The Jaccard index is overlap / (2 - overlap). Tied entries count as in `support_overlaps`.
    NaN where k is 0.
    """
    count = round(share * one.size)
    if count == 0:
        return math.nan
    borders = [
        _borders(lambda: (np.abs(x[i : i + LARGE]) for i in range(0, x.size, LARGE)), x.size - count)[0]  # noqa: B023
        for x in (one, other)
    ]
    table = np.zeros((3, 3))  # entries by their place in `one`, and in `other`
    for start in range(0, one.size, ENTRIES):
        places = [_places(np.abs(x[start : start + ENTRIES]), b) for x, b in zip((one, other), borders, strict=True)]
        table += np.bincount(3 * places[0] + places[1], minlength=9).reshape(3, 3)
    rows, columns = (_memberships(sums, count) for sums in (table.sum(1), table.sum(0)))
    return float(rows @ table @ columns) / count


def _borders(blocks: Callable[[], Iterable[Float[np.ndarray, " entry"]]], *ranks: int) -> list[float]:
    """Return the values at ranks in ascending order, of values that are not negative, in blocks of one type.

    The bits of such numbers have the order of the numbers. Their first 16 bits are counted, then the next 16 bits of
    the numbers that share those of the value, and so on: no copy of all values is needed.
    """
    dtype = next(iter(blocks())).dtype
    bits = 8 * dtype.itemsize
    found = [0] * len(ranks)  # the bits of each value that are known
    left = [*ranks]  # the rank among the numbers that share them
    for shift in range(bits - 16, -1, -16):
        counts = {known: np.zeros(2**16, np.int64) for known in found}
        for block in blocks():
            numbers = block.view(f"u{dtype.itemsize}")
            digits = (numbers >> shift) & 0xFFFF
            for known, table in counts.items():
                shared = digits if shift == bits - 16 else digits[numbers >> (shift + 16) == known]
                table += np.bincount(shared.view(f"i{dtype.itemsize}"), minlength=2**16)  # numpy 2.0 counts no uint64
        for row, known in enumerate(found):
            ends = counts[known].cumsum()
            digit = int(np.searchsorted(ends, left[row], side="right"))
            left[row] -= int(ends[digit - 1]) if digit else 0
            found[row] = known << 16 | digit
    return np.array(found, f"u{dtype.itemsize}").view(dtype).tolist()


def _places(sizes: Float[np.ndarray, " entry"], border: float) -> np.ndarray:
    """Return 0 below the border, 1 on it, 2 above it."""
    return (sizes >= border).astype(np.int8) + (sizes > border)


def _memberships(counts: np.ndarray, size: int) -> np.ndarray:
    """Return the share of a set of `size` entries to which entries below, on and above its border belong."""
    return np.array([0.0, (size - counts[2]) / counts[1], 1.0])

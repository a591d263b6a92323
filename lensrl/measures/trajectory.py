"""How straight the way is that weights take in training, beside a random walk with steps of the same size.

Let d_i be the deltas (weights minus base) at the snapshots i = 1 .. n, taken after t_i steps, with d_0 = 0 at t_0 = 0.
All that follows needs their inner products alone, the Gram matrix G_ij = <d_i, d_j>, which adds up over parameters:
no more than the deltas of one parameter have to be in memory at once.

Linearity. Every entry is fitted by a line through the base, d(t) = t v. Least squares over the snapshots gives
v = sum_i t_i d_i / sum_i t_i^2, and what is left over is sum_i |d_i|^2 - |sum_i t_i d_i|^2 / sum_i t_i^2. Pooled over
entries, with the sum of squares counted from the base,

    linearity = 1 - sum_i |d_i - t_i v|^2 / sum_i |d_i|^2 = t'G t / (t't tr G)

and it is 1 exactly when every snapshot lies on the line from the base at its share of the steps.

Directness = |d_n| / sum_k |d_k - d_(k-1)|: the distance between the ends over the length of the way (at the snapshots'
resolution: what happens between two of them is taken for straight, so that more snapshots can only lower it).

The null of both is a walk of independent increments without preferred direction, whose lengths s_k = |d_k - d_(k-1)|
are those observed. Then

    E[G_ij] = sum_(k <= min(i, j)) s_k^2

and in high dimension, where independent directions are orthogonal, G is its mean up to O(1 / sqrt(dimension)): the
linearity of the mean is the mean linearity. It is far from 0: 4/5 for many equal steps evenly kept. A linearity says
something by how much of the way from its null to 1 it goes. The null of directness is sqrt(sum_k s_k^2) / sum_k s_k,
1 / sqrt(n) for n equal steps.

That weights move almost linearly in the number of RL steps is a finding of Wang et al. 2026 (arXiv 2601.04537); how
their R^2 pools entries may differ from this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

BLOCK = 1 << 20  # entries of each snapshot in float64 at once

Gram = Float[np.ndarray, "snapshot snapshot"]


def gram(deltas: Sequence[Float[np.ndarray, "..."]]) -> Float64[np.ndarray, "snapshot snapshot"]:
    """G_ij = <d_i, d_j>, of one parameter's deltas, one per snapshot; sum it over parameters. Float64 throughout.

    Raises ValueError for deltas of different shapes, or values that are not finite.
    """
    if len({delta.shape for delta in deltas}) > 1:
        raise ValueError(f"deltas of one parameter have shapes {[delta.shape for delta in deltas]}")
    entries = [delta.reshape(-1) for delta in deltas]
    total = np.zeros((len(deltas), len(deltas)))
    for start in range(0, entries[0].size if entries else 0, BLOCK):
        block = np.stack([delta[start : start + BLOCK] for delta in entries]).astype(np.float64)
        total += block @ block.T
    if not np.isfinite(total).all():
        raise ValueError("a delta holds a NaN or an infinity")
    return total


def linearity(steps: Sequence[int], gram: Gram) -> float:
    """R^2 of a straight line through the base, pooled over entries: t'G t / (t't tr G), at most 1.

    `steps` are those after which the snapshots were taken. NaN where nothing moved. Raises ValueError for fewer than 2
    snapshots (one always lies on its line), or steps that do not increase from 1 on.
    """
    t = _checked(steps, gram)
    squares = np.trace(gram)
    return float(t @ gram @ t / (t @ t * squares)) if squares > 0 else float("nan")


def linearity_null(steps: Sequence[int], gram: Gram) -> float:
    """The linearity of a random walk with the observed increment lengths, in high dimension. Raises as `linearity`."""
    return linearity(steps, random_walk_gram(gram))


def directness(gram: Gram) -> float:
    """|d_n| / sum_k |d_k - d_(k-1)|, in [0, 1]. NaN where nothing moved."""
    way = increments(gram).sum()
    return float(np.sqrt(gram[-1, -1]) / way) if way > 0 else float("nan")


def directness_null(gram: Gram) -> float:
    """The directness of a random walk with the observed increment lengths s: sqrt(sum s^2) / sum s."""
    return directness(random_walk_gram(gram))


def increments(gram: Gram) -> Float64[np.ndarray, " snapshot"]:
    """s_k = |d_k - d_(k-1)|, the first from the base: s_k^2 = G_kk - 2 G_k,k-1 + G_k-1,k-1."""
    padded = np.pad(np.asarray(gram, np.float64), ((1, 0), (1, 0)))  # the base, d_0 = 0
    own, next_ = np.diag(padded), np.diag(padded, 1)
    return np.sqrt(np.maximum(own[1:] - 2 * next_ + own[:-1], 0))  # rounding can leave less than 0 of nothing


def random_walk_gram(gram: Gram) -> Float64[np.ndarray, "snapshot snapshot"]:
    """E[G] of a walk whose increments are as long as those observed, and independent: sum_(k <= min(i, j)) s_k^2."""
    squares = np.cumsum(increments(gram) ** 2)
    return np.minimum.outer(squares, squares)


def _checked(steps: Sequence[int], gram: Gram) -> Float64[np.ndarray, " snapshot"]:
    t = np.asarray(steps, np.float64)
    if gram.shape != (len(t), len(t)):
        raise ValueError(f"a Gram matrix of shape {gram.shape} for {len(t)} snapshots")
    if len(t) < 2:
        raise ValueError(f"{len(t)} snapshots: a line through the base needs at least 2 to be tested")
    if (np.diff(t, prepend=0) <= 0).any():
        raise ValueError(f"snapshots after steps {list(steps)}: they must increase from 1 on")
    return t

"""Straightness of the weights' path in training, beside a random walk with steps of the same size.

Let d_i be the deltas (weights minus base) at the snapshots i = 1 .. n, taken after t_i steps, with d_0 = 0 at t_0 = 0.
Both measures need only the inner products of the deltas, the Gram matrix G_ij = <d_i, d_j>. It adds up over
parameters, so only the deltas of one parameter have to be in memory at once.

Linearity. Fit every entry by a line through the base, d(t) = t v. Least squares over the snapshots gives
v = sum_i t_i d_i / sum_i t_i^2, and leaves sum_i |d_i|^2 - |sum_i t_i d_i|^2 / sum_i t_i^2. Pooled over entries, with
the sum of squares counted from the base,

    linearity = 1 - sum_i |d_i - t_i v|^2 / sum_i |d_i|^2 = t'G t / (t't tr G)

It is 1 exactly if every snapshot lies on a line from the base, at a distance proportional to its steps.

Directness. The distance between the ends over the length of the path:

    directness = |d_n| / sum_k |d_k - d_(k-1)|

The path between two snapshots counts as straight, so more snapshots can only lower the directness.

Null of both: a walk with independent increments without preferred direction, of the observed lengths
s_k = |d_k - d_(k-1)|. Then

    E[G_ij] = sum_(k <= min(i, j)) s_k^2

In high dimension independent directions are orthogonal, and G is its mean up to O(1 / sqrt(dimension)). So the
linearity of the mean G is the mean linearity. It is far from 0: 4/5 for many equal steps with evenly spaced snapshots.
Read a linearity by the share of the way from its null to 1 that it covers. The null of directness is
sqrt(sum_k s_k^2) / sum_k s_k, which is 1 / sqrt(n) for n equal steps.

Source: Wang et al. 2026 (arXiv 2601.04537) find that weights move almost linearly in the number of RL steps. Their R^2
may pool entries differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

BLOCK = 1 << 20  # entries of each snapshot that are converted to float64 at once

Gram = Float[np.ndarray, "snapshot snapshot"]


def gram(deltas: Sequence[Float[np.ndarray, "..."]]) -> Float64[np.ndarray, "snapshot snapshot"]:
    """Compute G_ij = <d_i, d_j> of the deltas of one parameter, one delta per snapshot, in float64.

    Sum the result over parameters. Raises ValueError for deltas of different shapes, or values that are not finite.
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
    """Compute R^2 of a straight line through the base, pooled over entries: t'G t / (t't tr G), at most 1.

    `steps` are the numbers of training steps at the snapshots. The result is NaN if nothing moved. Raises ValueError
    for fewer than 2 snapshots (one always lies on its line), and for steps that do not increase from 1 on.
    """
    t = _checked(steps, gram)
    squares = np.trace(gram)
    return float(t @ gram @ t / (t @ t * squares)) if squares > 0 else float("nan")


def linearity_null(steps: Sequence[int], gram: Gram) -> float:
    """Compute the linearity of a random walk with the observed increment lengths, in high dimension.

    Raises ValueError as `linearity`.
    """
    return linearity(steps, random_walk_gram(gram))


def directness(gram: Gram) -> float:
    """Compute |d_n| / sum_k |d_k - d_(k-1)|, in [0, 1]. NaN if nothing moved."""
    way = increments(gram).sum()
    return float(np.sqrt(gram[-1, -1]) / way) if way > 0 else float("nan")


def directness_null(gram: Gram) -> float:
    """Compute the directness of a random walk with the observed increment lengths s: sqrt(sum s^2) / sum s."""
    return directness(random_walk_gram(gram))


def increments(gram: Gram) -> Float64[np.ndarray, " snapshot"]:
    """Return s_k = |d_k - d_(k-1)|, the first from the base: s_k^2 = G_kk - 2 G_k,k-1 + G_k-1,k-1."""
    padded = np.pad(np.asarray(gram, np.float64), ((1, 0), (1, 0)))  # the base, d_0 = 0
    own, next_ = np.diag(padded), np.diag(padded, 1)
    return np.sqrt(np.maximum(own[1:] - 2 * next_ + own[:-1], 0))  # rounding can make 0 negative


def random_walk_gram(gram: Gram) -> Float64[np.ndarray, "snapshot snapshot"]:
    """Return E[G] of a walk with independent increments of the observed lengths: sum_(k <= min(i, j)) s_k^2."""
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

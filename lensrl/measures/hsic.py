"""HSIC of two representations of the same tokens, and its values without one sequence at a time.

Let K = X X' and L = Y Y' (token by token). The unbiased estimate of HSIC is a U-statistic, a mean over distinct units
a, b, c, d (Song et al. 2012, eq. 5):

    HSIC = mean of k_ab l_ab + mean of k_ab l_cd - 2 mean of k_ab l_ac

By token, the units are tokens. This estimate is unbiased where tokens are independent, and tokens of one text are not.
By sequence, the units are sequences: k_ab l_ab is the mean over the tokens i of a and j of b of k_ij l_ij, k_ab l_ac
the mean over the tokens of a, b and c of k_ij l_iq, and so on. No two tokens of one sequence meet, and every sequence
counts the same. The estimate is unbiased where sequences are independent, whatever the tokens within them do. It needs
four sequences.

All terms follow from three tables: the sums over j of k_ij l_ij, by token i; the sums over each sequence of k_ij, by
token i; and the same of l_ij. Without a sequence, its part of the tables is taken away. So the values without each
sequence, for a jackknife, cost no further product of matrices.

The tables come from the smaller side: from K and L where there are at most twice as many tokens as features (for one
value without its jackknife, at most as many), else from X'Y. Features are centred, which changes nothing but the
rounding.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from lensrl.measures.algebra import LAPACK, Algebra

Pairs = Literal["sequence", "token"]
LEAST = 4  # units in the U-statistic
SIDE = 2  # tokens per feature up to which token space is the smaller side
ROUNDING = 1e3 * np.finfo(np.float64).eps  # rounding error of sums over tokens, in units of their largest term


class Sequences:
    """The sequences of tokens that are ordered by sequence."""

    def __init__(self, sequence: Int[np.ndarray, " token"]) -> None:
        """Take the name of each token's sequence."""
        self.order = np.argsort(sequence, kind="stable")
        _, self.of, self.sizes = np.unique(sequence[self.order], return_inverse=True, return_counts=True)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        self.weight = 1 / self.sizes[self.of]  # a token's share of its sequence

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def slices(self) -> list[slice]:
        """The tokens of each sequence."""
        return [slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True)]

    def sums(self, values: np.ndarray, axis: int = 0) -> np.ndarray:
        """Sum over the tokens of each sequence."""
        return np.add.reduceat(values, self.starts, axis=axis)


class Features:
    """One representation of the tokens: centred, in float64, ordered by sequence."""

    def __init__(self, x: np.ndarray, sequences: Sequences, algebra: Algebra = LAPACK) -> None:
        x = np.asarray(x, np.float64)[sequences.order]
        self.x = x - x.mean(0)
        self.sequences = sequences
        self.algebra = algebra

    @cached_property
    def gram(self) -> Float64[np.ndarray, "token token"]:
        """K = X X'."""
        return self.algebra.gram(self.x.T)

    @cached_property
    def blocks(self) -> list[Float64[np.ndarray, "_ _"]]:
        """The blocks of K on its diagonal, one of each sequence."""
        return [self.x[tokens] @ self.x[tokens].T for tokens in self.sequences.slices]

    @cached_property
    def squares(self) -> Float64[np.ndarray, " token"]:
        """The diagonal of K."""
        return np.einsum("tp,tp->t", self.x, self.x)

    @cached_property
    def reach(self) -> Float64[np.ndarray, "token sequence"]:
        """The sum over the tokens j of each sequence of k_ij, by token i."""
        return self.x @ self.sequences.sums(self.x).T


class Hsic(NamedTuple):
    """HSIC of all sequences, and without each of them. NaN where fewer than four units are left."""

    whole: float
    without: Float64[np.ndarray, " sequence"]


def hsic(a: Features, b: Features, pairs: Pairs) -> Hsic:
    """Estimate HSIC without bias, by sequence or by token, and without each sequence."""
    sequences = a.sequences
    weight, left_out = _left_out(a, b, pairs)
    met = weight * (_products(a, b, weight) - weight * left_out)
    # What a sequence takes along: its meetings with others from either side, and by token those within it once.
    lost = 2 * sequences.sums(met)
    if pairs == "token":
        lost -= sequences.sums(_within(a, b) - left_out)
    return _with_ends(a, b, pairs, Hsic(met.sum(), met.sum() - lost))


def hsic_value(a: Features, b: Features, pairs: Pairs) -> float:
    """Estimate HSIC without bias, by sequence or by token. Takes fewer products than `hsic`."""
    weight, left_out = _left_out(a, b, pairs)
    if len(a.x) <= min(a.x.shape[1], b.x.shape[1]):
        total = weight @ (a.gram * b.gram) @ weight
    else:
        cross = a.algebra.product(a.x.T, weight[:, None] * b.x)
        total = np.vdot(cross, cross)
    first = float(total - weight**2 @ left_out)
    return _with_ends(a, b, pairs, Hsic(first, np.full(len(a.sequences), np.nan))).whole


def _left_out(a: Features, b: Features, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of each token i, and its sum of k_ij l_ij over the tokens j that do not count with it."""
    if pairs == "sequence":
        return a.sequences.weight, _within(a, b)
    return np.ones(len(a.x)), a.squares * b.squares


def _with_ends(a: Features, b: Features, pairs: Pairs, first: Hsic) -> Hsic:
    """Add the second and the third term to the first, all three sums over distinct units."""
    ends = _ends_by_sequence if pairs == "sequence" else _ends_by_token
    return ends(a, b, first)


def _ends_by_sequence(a: Features, b: Features, first: Hsic) -> Hsic:
    sequences, weight, n = a.sequences, a.sequences.weight, len(a.sequences)
    own = sequences.of[:, None] == np.arange(n)
    p, q = (np.where(own, 0.0, side.reach / sequences.sizes) for side in (a, b))  # means of k_ij and l_ij over j
    # Third term: the sum over a, b and c of the means of k_ij l_iq.
    row_p, row_q = p.sum(1), q.sum(1)
    forks = weight * (row_p * row_q - (p * q).sum(1))
    lost = weight[:, None] * (row_p[:, None] * q + row_q[:, None] * p - 2 * p * q)
    third = Hsic(forks.sum(), forks.sum() - sequences.sums(forks) - lost.sum(0))
    # Second term: the sum over four sequences of k_ab l_cd.
    k, l = (sequences.sums(weight[:, None] * side) for side in (p, q))  # noqa: E741
    row_k, row_l = k.sum(1), l.sum(1)
    product, rows = k * l, row_k * row_l
    second = Hsic(
        row_k.sum() * row_l.sum() - 4 * rows.sum() + 2 * product.sum(),
        (row_k.sum() - 2 * row_k) * (row_l.sum() - 2 * row_l)
        - 4 * (rows.sum() - rows - k @ row_l - l @ row_k + product.sum(1))
        + 2 * (product.sum() - 2 * product.sum(1)),
    )
    return _u_statistic(first, second, third, Hsic(n, np.full(n, n - 1.0)))


def _ends_by_token(a: Features, b: Features, first: Hsic) -> Hsic:
    sequences, n = a.sequences, len(a.x)
    own = sequences.of[:, None] == np.arange(len(sequences))
    # The sums of the rows of K and L without their diagonals: over all tokens, and without each sequence.
    k, l = (side.reach.sum(1) - side.squares for side in (a, b))  # noqa: E741
    k_left, l_left = (np.where(own, 0.0, rows[:, None] - side.reach) for rows, side in ((k, a), (l, b)))
    forks = Hsic(k @ l, (k_left * l_left).sum(0))
    ends = Hsic(k.sum() * l.sum(), k_left.sum(0) * l_left.sum(0))
    # An index may occur twice in these sums: take away the terms where it does.
    second = Hsic(ends.whole - 4 * forks.whole + 2 * first.whole, ends.without - 4 * forks.without + 2 * first.without)
    third = Hsic(forks.whole - first.whole, forks.without - first.without)
    return _u_statistic(first, second, third, Hsic(n, n - sequences.sizes.astype(np.float64)))


def _u_statistic(first: Hsic, second: Hsic, third: Hsic, units: Hsic) -> Hsic:
    """Turn the sums over 2, 4 and 3 distinct units into means, and combine them."""
    values = []
    for two, four, three, count in zip(first, second, third, units, strict=True):
        n = np.asarray(count, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = (two + (four / ((n - 2) * (n - 3)) - 2 * three / (n - 2))) / (n * (n - 1))
        values.append(np.where(n < LEAST, np.nan, value))
    return Hsic(float(values[0]), values[1])


def _products(a: Features, b: Features, weight: Float64[np.ndarray, " token"]) -> Float64[np.ndarray, " token"]:
    """Return the sum over j of w_j k_ij l_ij, by token i."""
    if len(a.x) <= SIDE * min(a.x.shape[1], b.x.shape[1]):
        return np.concatenate([(a.gram[rows] * b.gram[rows]) @ weight for rows in a.sequences.slices])
    algebra = a.algebra
    if a is not b:
        cross = algebra.product(a.x.T, weight[:, None] * b.x)
        return np.einsum("tq,tq->t", algebra.product(a.x, cross), b.x)
    # x'Cx for a symmetric C = X'WX: half of C, with what is below its diagonal taken twice, gives the same.
    scaled = np.sqrt(weight)[:, None] * a.x
    half = algebra.gram(scaled)
    half = 2 * np.tril(half, -1) + np.diag(np.diag(half))
    return np.einsum("qt,qt->t", algebra.product(half.T, a.x.T, upper=True), a.x.T)


def _within(a: Features, b: Features) -> Float64[np.ndarray, " token"]:
    """Return the sum over the tokens j of i's own sequence of k_ij l_ij, by token i."""
    return np.concatenate([np.einsum("ij,ij->i", *pair) for pair in zip(a.blocks, b.blocks, strict=True)])

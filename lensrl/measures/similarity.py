"""Similarity of the representations that two models have of the same tokens: CKA, Procrustes, relative L2, cosine.

Linear CKA (Kornblith et al. 2019, arXiv 1905.00414) is the normalised Hilbert-Schmidt independence criterion (HSIC) of
two sets of representations X (token, feature) and Y, with K = X X' and L = Y Y':

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

CKA does not change under rotation or scaling of either space, nor under addition of a constant. HSIC is estimated
without bias (Song et al. 2012, eq. 5; K~ and L~ have their diagonals set to 0, n tokens):

    HSIC = [tr(K~ L~) + (1'K~1)(1'L~1) / ((n-1)(n-2)) - 2 (1'K~L~1) / (n-2)] / (n (n-3))

The plain estimator tends to 1 for many features and few tokens, whatever the representations are. `cka_interval` and
`cka_map` leave out all pairs of tokens within a sequence as well (`lensrl.measures.hsic`). With an intra-sequence
correlation of 0.2, CKA over all tokens is 0.04 to 0.13 where the truth is 0; without these pairs it is 0 on average.
`linear_cka` and `StreamingCka` take all pairs of tokens, as other tools do.

Control: a CKA near 1 does not mean that nothing changed. CKA is blind to a common rotation of all features, and
directions of large variance dominate it. Relative L2 and cosine compare the same coordinates, and see such changes.

The functions take arrays of activations. They do not run models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.special import stdtrit

from lensrl.measures.algebra import LAPACK, Algebra
from lensrl.measures.contribution import CONFIDENCE, Interval
from lensrl.measures.hsic import ROUNDING, Features, Hsic, Pairs, Sequences, hsic, hsic_value

LEAST_TOKENS = 4  # the unbiased estimator divides by n - 3

Representation = Float[np.ndarray, "_token _feature"]


class _HsicSums(NamedTuple):
    """The sums over tokens that HSIC(X, Y) needs. k and l are the squared lengths of a token's x and y."""

    n: int
    cross: Float64[np.ndarray, "p q"]  # X'Y
    x: Float64[np.ndarray, " p"]
    y: Float64[np.ndarray, " q"]
    xl: Float64[np.ndarray, " p"]  # X'l
    yk: Float64[np.ndarray, " q"]  # Y'k
    k: float
    l: float  # noqa: E741
    kl: float

    @classmethod
    def of(cls, x: Float64[np.ndarray, "token p"], y: Float64[np.ndarray, "token q"]) -> _HsicSums:
        """Compute the sums of all tokens."""
        k, l = np.einsum("tp,tp->t", x, x), np.einsum("tq,tq->t", y, y)  # noqa: E741
        return cls(
            n=len(x), cross=x.T @ y, x=x.sum(0), y=y.sum(0), xl=l @ x, yk=k @ y,
            k=float(k.sum()), l=float(l.sum()), kl=float(k @ l),
        )  # fmt: skip

    def plus(self, other: _HsicSums, sign: int = 1) -> _HsicSums:
        """Add the sums of other tokens, or take them away with `sign` -1."""
        sums = (mine + sign * theirs for mine, theirs in zip(self, other, strict=True))
        return _HsicSums(*sums)  # pyright: ignore[reportArgumentType]

    def hsic(self, *, debiased: bool) -> float:
        """Estimate HSIC(X, Y): debiased (Song et al. 2012, eq. 5), or plain."""
        if not debiased:  # with both sides centred, || X'Y ||^2 / (n - 1)^2
            centred = self.cross - np.outer(self.x, self.y) / self.n
            return float(np.vdot(centred, centred)) / (self.n - 1) ** 2
        trace = float(np.vdot(self.cross, self.cross)) - self.kl
        ones_k, ones_l = float(self.x @ self.x) - self.k, float(self.y @ self.y) - self.l
        ones_kl = float(self.x @ self.cross @ self.y - self.x @ self.xl - self.y @ self.yk) + self.kl
        n = self.n
        return (trace + ones_k * ones_l / ((n - 1) * (n - 2)) - 2 * ones_kl / (n - 2)) / (n * (n - 3))

    def own_hsic(self, *, debiased: bool) -> float:
        """Return HSIC(X, X), a factor of CKA's denominator, for sums of X with itself.

        Raises ValueError for fewer than 4 tokens, for numbers too large for float64, and where HSIC is only rounding.
        """
        if self.n < LEAST_TOKENS:
            raise ValueError(f"CKA needs {LEAST_TOKENS} tokens, not {self.n}")
        self_hsic = self.hsic(debiased=debiased)
        if not math.isfinite(self_hsic):
            raise ValueError("a representation is too large for float64: CKA takes its fourth power")
        if self_hsic <= max(ROUNDING * (self.k / self.n) ** 2, np.finfo(np.float64).tiny):
            raise ValueError("features do not vary over tokens: CKA is not defined")
        return self_hsic


class StreamingCka:
    """Linear CKA over batches of tokens: `add` each batch, then `value()`.

    >>> cka = StreamingCka()
    >>> for x, y in batches:
    ...     cka.add(x, y)
    >>> cka.value()

    Features are centred on the means of the first batch. This changes nothing but the rounding.
    """

    def __init__(self, *, debiased: bool = True) -> None:
        self._debiased = debiased
        self._means: tuple[np.ndarray, np.ndarray] | None = None
        self._sums: tuple[_HsicSums, _HsicSums, _HsicSums] | None = None  # XY, XX, YY

    def add(self, x: Representation, y: Representation) -> None:
        """Add a batch of tokens. Raises ValueError for a NaN, an infinity, or different numbers of tokens."""
        x, y = _checked(x, y)
        if self._means is None:
            self._means = x.mean(0), y.mean(0)
        x, y = x - self._means[0], y - self._means[1]
        new = _HsicSums.of(x, y), _HsicSums.of(x, x), _HsicSums.of(y, y)
        if self._sums is None:
            self._sums = new
        else:
            xy, xx, yy = (old.plus(more) for old, more in zip(self._sums, new, strict=True))
            self._sums = xy, xx, yy

    def value(self) -> float:
        """Return the CKA of all tokens so far.

        Raises ValueError for fewer than 4 tokens, or features that do not vary.
        """
        if self._sums is None:
            raise ValueError("CKA of no tokens")
        return _cka(*self._sums, debiased=self._debiased)


def linear_cka(x: Representation, y: Representation, *, debiased: bool = True) -> float:
    """Compute linear CKA of two representations of the same tokens: 1 if they are equal up to rotation and scale.

    Every two tokens count, as in other tools. Where tokens come from texts, use `cka_interval`: tokens of one text are
    alike, and this estimate takes their likeness for similarity.

    The debiased estimate is 0 on average for unrelated representations of independent tokens, and may be slightly
    negative. Sums are in float64. Raises ValueError for a NaN or an infinity, fewer than 4 tokens, or features that do
    not vary.
    """
    streaming = StreamingCka(debiased=debiased)
    streaming.add(x, y)
    return streaming.value()


def cka_interval(
    x: Representation, y: Representation, sequence: Int[np.ndarray, " token"], *, pairs: Pairs = "sequence",
    algebra: Algebra = LAPACK,
) -> Interval:  # fmt: skip
    """Compute debiased linear CKA with a 95 % interval over sequences: tokens of one sequence are not independent.

    `sequence` names the sequence of each token. `pairs="sequence"` compares tokens of different sequences alone, and
    `"token"` all tokens, as `linear_cka` and other tools do. The interval is a delete-one-sequence jackknife with
    Student's t. A bootstrap would draw the same token twice, and the unbiased estimator excludes the pair of a token
    with itself. `algebra` has the products of matrices.

    NaN, by sequence: the value for fewer than 4 sequences, and where an HSIC of X or Y with itself, which is above 0,
    is estimated below 0; the ends where one of both holds without some sequence. Raises ValueError for fewer than 2
    sequences, and as `linear_cka`.
    """
    x, y = _checked(x, y)
    sequences = Sequences(sequence)
    if len(sequences) < 2:
        raise ValueError("an interval over sequences needs two of them")
    a, b = Features(x, sequences, algebra), Features(y, sequences, algebra)
    xy, xx, yy = hsic(a, b, pairs), _own_hsic(a, pairs), _own_hsic(b, pairs)
    value, left_out = (_ratio(*parts) for parts in zip(xy, xx, yy, strict=True))
    # The jackknife's standard error, with Student's t for few sequences.
    c = len(sequences)
    error = math.sqrt((c - 1) / c * ((left_out - left_out.mean()) ** 2).sum())
    reach = float(stdtrit(c - 1, (1 + CONFIDENCE) / 2)) * error
    return Interval(float(value), float(value) - reach, float(value) + reach)


def cka_map(
    xs: Iterable[Representation],
    ys: Sequence[Representation],
    sequence: Int[np.ndarray, " token"],
    *,
    pairs: Pairs = "sequence",
    algebra: Algebra = LAPACK,
) -> Float64[np.ndarray, "x y"]:
    """Compute debiased linear CKA of every layer of one model with every layer of another: (layer of xs, layer of ys).

    `sequence`, `pairs` and `algebra` are those of `cka_interval`, which also says when a value is NaN. Of `xs`, one
    layer at a time is held. Raises ValueError as `linear_cka`.
    """
    sequences, rest = Sequences(sequence), iter(xs)
    first = next(rest)
    other = [Features(_checked(first, layer)[1], sequences, algebra) for layer in ys]
    of_ys = np.array([_own_hsic(layer, pairs, jackknife=False).whole for layer in other])
    rows = []
    for x in chain([first], rest):
        one = Features(_checked(ys[0], x)[1], sequences, algebra)
        cross = np.array([hsic_value(one, layer, pairs) for layer in other])
        rows.append(_ratio(cross, _own_hsic(one, pairs, jackknife=False).whole, of_ys))
    return np.array(rows)


def procrustes_distance(x: Representation, y: Representation) -> float:
    """Compute the orthogonal Procrustes distance of X and Y, both centred and scaled to Frobenius norm 1.

        d = min over orthogonal R of || X - Y R ||_F = sqrt(2 - 2 || X'Y ||_*)

    (Schoenemann 1966; nuclear norm). It is 0 for representations that are equal up to rotation and scale, and at most
    sqrt(2). Raises ValueError for features that do not vary.
    """
    x, y = _checked(x, y)
    factors = []
    for features in (x, y):
        centred = _centred(features)
        norm = np.linalg.norm(centred)
        if norm <= ROUNDING * np.linalg.norm(features):
            raise ValueError("features do not vary over tokens: there is no distance")
        factors.append(_factor(centred / norm))
    nuclear = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    return math.sqrt(max(0.0, 2 - 2 * float(nuclear)))


def _factor(x: Float64[np.ndarray, "token feature"]) -> Float64[np.ndarray, "token _"]:
    """Return X, or a matrix with the same X X' and no more columns than rows: the other features are 0 there."""
    return np.asarray(np.linalg.qr(x.T, mode="r")).T if len(x) < x.shape[1] else x


def relative_l2(x: Representation, y: Representation) -> float:
    """Compute || Y - X ||_F / || X ||_F, the distance of Y from X in the same coordinates.

    Raises ValueError if X is all zeros.
    """
    x, y = _checked(x, y)
    size = np.linalg.norm(x)
    if size == 0:
        raise ValueError("x is all zeros: nothing is relative to it")
    return float(np.linalg.norm(y - x) / size)


def mean_cosine(x: Representation, y: Representation) -> float:
    """Compute the mean over tokens of the cosine of x and y. Raises ValueError if a token is all zeros."""
    x, y = _checked(x, y)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    if (lengths == 0).any():
        raise ValueError("a token is represented by zeros: it has no direction")
    return float((np.einsum("tf,tf->t", x, y) / lengths).mean())


def _cka(xy: _HsicSums, xx: _HsicSums, yy: _HsicSums, *, debiased: bool) -> float:
    own = xx.own_hsic(debiased=debiased), yy.own_hsic(debiased=debiased)
    return xy.hsic(debiased=debiased) / math.sqrt(own[0]) / math.sqrt(own[1])  # the product of the two may underflow


def _own_hsic(features: Features, pairs: Pairs, *, jackknife: bool = True) -> Hsic:
    """Return HSIC(X, X), with and without each sequence. Raises ValueError as `linear_cka`."""
    if len(features.x) < LEAST_TOKENS:
        raise ValueError(f"CKA needs {LEAST_TOKENS} tokens, not {len(features.x)}")
    found = hsic(features, features, pairs) if jackknife else Hsic(hsic_value(features, features, pairs), np.empty(0))
    size = float(features.squares.mean() ** 2)
    if not math.isfinite(size) or math.isinf(found.whole):
        raise ValueError("a representation is too large for float64: CKA takes its fourth power")
    if abs(found.whole) <= max(ROUNDING * size, np.finfo(np.float64).tiny):
        raise ValueError("features do not vary over tokens: CKA is not defined")
    return found


def _ratio(xy: float | np.ndarray, xx: float | np.ndarray, yy: float | np.ndarray) -> np.ndarray:
    """Divide HSIC(X, Y) by the root of the other two. NaN where one of these is not above 0."""
    xx, yy = (np.where(np.asarray(own) > 0, own, np.nan) for own in (xx, yy))
    return np.asarray(xy / np.sqrt(xx) / np.sqrt(yy))  # the product of the two may underflow


def _centred(x: Representation) -> Float64[np.ndarray, "token feature"]:
    x = np.asarray(x, np.float64)
    return x - x.mean(0)


def _checked(x: Representation, y: Representation) -> tuple[np.ndarray, np.ndarray]:
    x, y = _same_tokens(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a representation holds a NaN or an infinity")
    return x, y


def _same_tokens(x: Representation, y: Representation) -> tuple[np.ndarray, np.ndarray]:
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} tokens and y {len(y)}: they must be the same tokens")
    return x, y

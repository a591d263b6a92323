"""How alike two models represent the same tokens.

Linear CKA (Kornblith et al. 2019, arXiv 1905.00414) is the normalised Hilbert-Schmidt independence criterion of two
sets of representations X (token, feature) and Y, with K = X X' and L = Y Y':

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

It does not change under rotation or scaling of either space, nor when a constant is added. HSIC is estimated without
bias (Song et al. 2012, eq. 5; K~ and L~ have their diagonals set to 0, n tokens):

    HSIC = [tr(K~ L~) + (1'K~1)(1'L~1) / ((n-1)(n-2)) - 2 (1'K~L~1) / (n-2)] / (n (n-3))

since the plain estimator tends to 1 when features are many and tokens few, whatever the representations. All terms are
sums over tokens of products of features, so that no token by token matrix is needed, and tokens can come in batches.

A CKA near 1 does not say that nothing changed: it is blind to what rotates all features alike, and directions of large
variance weigh most. Relative L2 and cosine compare the same coordinates, and see what CKA is blind to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.stats import t as student

from lensrl.measures.contribution import CONFIDENCE, Interval

LEAST_TOKENS = 4  # the unbiased estimator divides by n - 3
ROUNDING = 1e3 * np.finfo(np.float64).eps  # what sums over tokens may be off by, in units of their largest term

Representation = Float[np.ndarray, "_token _feature"]


class _Sums(NamedTuple):
    """What HSIC(X, Y) is made of: sums over tokens; k and l are the squared lengths of a token's x and y."""

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
    def of(cls, x: Float64[np.ndarray, "token p"], y: Float64[np.ndarray, "token q"]) -> _Sums:
        k, l = np.einsum("tp,tp->t", x, x), np.einsum("tq,tq->t", y, y)  # noqa: E741
        return cls(len(x), x.T @ y, x.sum(0), y.sum(0), l @ x, k @ y, float(k.sum()), float(l.sum()), float(k @ l))

    def plus(self, other: _Sums, sign: int = 1) -> _Sums:
        sums = (mine + sign * theirs for mine, theirs in zip(self, other, strict=True))
        return _Sums(*sums)  # pyright: ignore[reportArgumentType]

    def hsic(self, *, debiased: bool) -> float:
        if not debiased:  # with both sides centred, || X'Y ||^2 / (n - 1)^2
            centred = self.cross - np.outer(self.x, self.y) / self.n
            return float(np.vdot(centred, centred)) / (self.n - 1) ** 2
        trace = float(np.vdot(self.cross, self.cross)) - self.kl
        ones_k, ones_l = float(self.x @ self.x) - self.k, float(self.y @ self.y) - self.l
        ones_kl = float(self.x @ self.cross @ self.y - self.x @ self.xl - self.y @ self.yk) + self.kl
        n = self.n
        return (trace + ones_k * ones_l / ((n - 1) * (n - 2)) - 2 * ones_kl / (n - 2)) / (n * (n - 3))

    def own(self, *, debiased: bool) -> float:
        """HSIC(X, X), by which CKA divides. Raises ValueError where it is rounding and nothing else."""
        if self.n < LEAST_TOKENS:
            raise ValueError(f"CKA needs {LEAST_TOKENS} tokens, not {self.n}")
        own = self.hsic(debiased=debiased)
        if not math.isfinite(own):
            raise ValueError("a representation is too large for float64: CKA takes its fourth power")
        if own <= max(ROUNDING * (self.k / self.n) ** 2, np.finfo(np.float64).tiny):
            raise ValueError("features do not vary over tokens: CKA is not defined")
        return own


class StreamingCka:
    """Linear CKA over batches of tokens: `add` each, then `value()`.

    >>> cka = StreamingCka()
    >>> for x, y in batches:
    ...     cka.add(x, y)
    >>> cka.value()

    Features are measured from the means of the first batch, which changes nothing but the rounding.
    """

    def __init__(self, *, debiased: bool = True) -> None:
        self._debiased = debiased
        self._means: tuple[np.ndarray, np.ndarray] | None = None
        self._sums: tuple[_Sums, _Sums, _Sums] | None = None  # XY, XX, YY

    def add(self, x: Representation, y: Representation) -> None:
        """More tokens. Raises ValueError for a NaN, an infinity, or a different number of tokens."""
        x, y = _checked(x, y)
        if self._means is None:
            self._means = x.mean(0), y.mean(0)
        x, y = x - self._means[0], y - self._means[1]
        new = _Sums.of(x, y), _Sums.of(x, x), _Sums.of(y, y)
        if self._sums is None:
            self._sums = new
        else:
            xy, xx, yy = (old.plus(more) for old, more in zip(self._sums, new, strict=True))
            self._sums = xy, xx, yy

    def value(self) -> float:
        """CKA of all tokens so far. Raises ValueError for too few tokens, or features that do not vary."""
        if self._sums is None:
            raise ValueError("CKA of no tokens")
        return _cka(*self._sums, debiased=self._debiased)


def linear_cka(x: Representation, y: Representation, *, debiased: bool = True) -> float:
    """Linear CKA of two representations of the same tokens: 1 when they are alike up to rotation and scale.

    Debiased, it is 0 on average for unrelated ones and may be a little negative. Float64 throughout. Raises
    ValueError for a NaN or an infinity, fewer than 4 tokens, or features that do not vary.
    """
    streaming = StreamingCka(debiased=debiased)
    streaming.add(x, y)
    return streaming.value()


def cka_interval(x: Representation, y: Representation, sequence: Int[np.ndarray, " token"]) -> Interval:
    """Debiased linear CKA with a 95 % interval over sequences, whose tokens belong together.

    Delete-one-sequence jackknife with Student's t. A bootstrap would draw the same token twice, and the pair of a token
    with itself is what the unbiased estimator leaves out. Raises ValueError for fewer than 2 sequences.
    """
    x, y = _checked(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    names = np.unique(sequence)
    if len(names) < 2:
        raise ValueError("an interval over sequences needs two of them")
    whole = _Sums.of(x, y), _Sums.of(x, x), _Sums.of(y, y)
    value = _cka(*whole, debiased=True)
    left_out = np.empty(len(names))
    for i, name in enumerate(names):
        a, b = x[sequence == name], y[sequence == name]
        part = _Sums.of(a, b), _Sums.of(a, a), _Sums.of(b, b)
        xy, xx, yy = (all_.plus(one, -1) for all_, one in zip(whole, part, strict=True))
        left_out[i] = _cka(xy, xx, yy, debiased=True)
    c = len(names)
    error = math.sqrt((c - 1) / c * ((left_out - left_out.mean()) ** 2).sum())
    reach = float(student.ppf((1 + CONFIDENCE) / 2, c - 1)) * error
    return Interval(value, value - reach, value + reach)


def cka_map(xs: Sequence[Representation], ys: Sequence[Representation]) -> Float64[np.ndarray, "x y"]:
    """Debiased linear CKA of every layer of one model with every layer of another."""
    own_x, own_y = ([_own_hsic(layer) for layer in layers] for layers in (xs, ys))
    table = np.empty((len(xs), len(ys)))
    for i, x in enumerate(xs):
        x = _centred(x)
        for j, y in enumerate(ys):
            xy = _Sums.of(x, _centred(_same_tokens(x, y)[1]))
            table[i, j] = xy.hsic(debiased=True) / math.sqrt(own_x[i]) / math.sqrt(own_y[j])
    return table


def procrustes_distance(x: Representation, y: Representation) -> float:
    """What no rotation of Y can bring nearer to X, both centred and of Frobenius norm 1: 0 for alike, sqrt(2) at most.

    d = min over orthogonal R of || X - Y R ||_F = sqrt(2 - 2 || X'Y ||_*)   (Schoenemann 1966; nuclear norm).

    Raises ValueError for features that do not vary.
    """
    x, y = _checked(x, y)
    norms = []
    for features in (x, y):
        norms.append(np.linalg.norm(_centred(features)))
        if norms[-1] <= ROUNDING * np.linalg.norm(features):
            raise ValueError("features do not vary over tokens: there is no distance")
    nuclear = np.linalg.svd(_centred(x).T @ _centred(y), compute_uv=False).sum() / norms[0] / norms[1]
    return math.sqrt(max(0.0, 2 - 2 * float(nuclear)))


def relative_l2(x: Representation, y: Representation) -> float:
    """|| Y - X ||_F / || X ||_F: how far Y went from X, in the same coordinates. Raises ValueError when X is zeros."""
    x, y = _checked(x, y)
    size = np.linalg.norm(x)
    if size == 0:
        raise ValueError("x is all zeros: nothing is relative to it")
    return float(np.linalg.norm(y - x) / size)


def mean_cosine(x: Representation, y: Representation) -> float:
    """The mean over tokens of the cosine of x and y. Raises ValueError when a token is all zeros."""
    x, y = _checked(x, y)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    if (lengths == 0).any():
        raise ValueError("a token is represented by zeros: it has no direction")
    return float((np.einsum("tf,tf->t", x, y) / lengths).mean())


def _cka(xy: _Sums, xx: _Sums, yy: _Sums, *, debiased: bool) -> float:
    own = xx.own(debiased=debiased), yy.own(debiased=debiased)
    return xy.hsic(debiased=debiased) / math.sqrt(own[0]) / math.sqrt(own[1])  # their product may underflow


def _own_hsic(x: Representation) -> float:
    x = _centred(_checked(x, x)[0])
    return _Sums.of(x, x).own(debiased=True)


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

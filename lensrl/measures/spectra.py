"""Singular values and leading singular spaces of large matrices, from Gram matrices, with a bound of the error.

Let A be a matrix with at least as many rows as columns (m x n; a wide one is transposed), and G = A'A. The eigenvalues
of G are the squares s_i^2 of the singular values of A, and its eigenvectors are the right singular vectors. G is a sum
over blocks of rows, so A is never copied as a whole, and an eigenvalue problem of size n replaces an SVD of A.

Squaring loses small singular values. In float64, the eigenvalues of G are known up to about

    e = 8 eps (s_1^2 + || A ||_F^2 / sqrt(n)),        eps = 2^-52

so s_i is known up to min(e / (2 s_i), sqrt(e)), and the space of the k leading vectors up to an angle, in radians, of
e / (s_k^2 - s_(k+1)^2). The tests compare both with LAPACK's SVD. Where these errors are too large for a measure, it
takes `exact=True`: the SVD itself, of A or of the triangular factor of A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from lensrl.measures.algebra import LAPACK, Algebra, Eigen

BLOCK = 2**20  # entries of a block of rows, about: 8 MB of float64
EIGENVALUE = 8 * np.finfo(np.float64).eps  # error of the eigenvalues of a Gram matrix, see above
SQUARES = 1e-200, 1e200  # sums of squares outside this range may have underflowed or overflowed


class SingularValues(NamedTuple):
    """The singular values in descending order, and the largest error of each."""

    values: Float64[np.ndarray, " value"]
    error: Float64[np.ndarray, " value"]


class Spaces(NamedTuple):
    """Bases of the spaces of the leading left and right singular vectors, and the largest error of an angle to them."""

    left: Float64[np.ndarray, "row k"]
    right: Float64[np.ndarray, "column k"]
    error: float  # in radians


class Matrix:
    """A matrix, or the difference of two, read in blocks of rows."""

    def __init__(
        self,
        values: Float[np.ndarray, "row column"],
        minus: Float[np.ndarray, "row column"] | None = None,
        *,
        algebra: Algebra = LAPACK,
    ) -> None:
        """Take `values`, or `values - minus`. `algebra` has the Gram matrix and its eigenvalues; an SVD is LAPACK's."""
        self._algebra = algebra
        self._wide = values.shape[0] < values.shape[1]
        self._terms = [term.T if self._wide else term for term in (values, minus) if term is not None]
        self._side = self._terms[0].shape[1]

    def rows(self, step: int) -> Iterator[Float64[np.ndarray, "row column"]]:
        """Yield the rows of the tall matrix in blocks of `step` rows."""
        first, *others = self._terms
        for start in range(0, len(first), step):
            block = np.asarray(first[start : start + step], np.float64)
            for other in others:
                block = block - other[start : start + step]
            yield block

    @cached_property
    def _gram(self) -> Float64[np.ndarray, "column column"]:
        total = np.zeros((self._side, self._side))
        for block in self.rows(max(1, BLOCK // self._side)):
            total += self._algebra.gram(block)
        return total

    @cached_property
    def _triangle(self) -> Float64[np.ndarray, "_ column"]:
        """A matrix with the singular values and right singular vectors of this one, and few rows."""
        step = 4 * self._side
        if len(self._terms[0]) <= step:
            return next(self.rows(step))
        triangle = np.empty((0, self._side))
        for block in self.rows(step):
            triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
        return triangle

    @cached_property
    def _error(self) -> float:
        """The error of the eigenvalues; infinite where squares are outside the range of float64."""
        total = float(np.trace(self._gram))  # the sum of all squares
        if not SQUARES[0] < total < SQUARES[1]:
            return math.inf
        return EIGENVALUE * (float(self._eigenvalues[0]) + total / math.sqrt(self._side))

    @cached_property
    def _eigen(self) -> Eigen:
        return self._algebra.eigen(self._gram)

    @cached_property
    def _eigenvalues(self) -> Float64[np.ndarray, " value"]:
        return self._eigen.values.clip(min=0)

    def singular_values(self, *, exact: bool = False) -> SingularValues:
        """Return all singular values: from the Gram matrix, or with `exact` from an SVD."""
        if exact:
            values = np.linalg.svd(self._triangle, compute_uv=False)
            return SingularValues(values, np.zeros_like(values))
        values, error = np.sqrt(self._eigenvalues), self._error
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.minimum(error / (2 * values), math.sqrt(error))
        return SingularValues(values, np.nan_to_num(each, nan=math.inf, posinf=math.inf))

    def leading(self, k: int, *, exact: bool = False) -> Spaces:
        """Return the spaces of the k leading singular vectors: from the Gram matrix, or with `exact` from an SVD.

        k is at most the number of singular values minus 1.
        """
        error = 0.0
        if exact:
            vectors = np.linalg.svd(self._triangle, full_matrices=False)[2][:k].T
        else:
            gap = float(self._eigenvalues[k - 1] - self._eigenvalues[k])
            error = self._error / gap if gap > 0 else math.inf
            if not math.isfinite(error):
                return Spaces(np.empty((0, k)), np.empty((0, k)), math.inf)
            vectors = self._eigen.leading(k)
        turned = np.concatenate([block @ vectors for block in self.rows(max(1, BLOCK // self._side))])
        # A u_i = s_i v_i, up to rounding: a QR makes the columns orthonormal again.
        images = np.linalg.qr(turned).Q
        return Spaces(vectors, images, error) if self._wide else Spaces(images, vectors, error)

"""The linear algebra that takes most of the time of spectra and CKA: three functions, by NumPy and LAPACK.

Measures take another `Algebra` in their place: `lensrl.compare.device` has that of torch. Arrays come and go in
float64. An `Algebra` may round differently, within the errors of float64 that the measures state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64
from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal, get_lapack_funcs
from scipy.linalg.blas import dtrmm  # pyright: ignore[reportAttributeAccessIssue]

_SYTRD, _ORMQR = get_lapack_funcs(("sytrd", "ormqr"), dtype=np.float64)


class Eigen(NamedTuple):
    """The eigenvalues of a symmetric matrix in descending order, and a basis of its k leading eigenvectors by k."""

    values: Float64[np.ndarray, " value"]
    leading: Callable[[int], Float64[np.ndarray, "side k"]]


@runtime_checkable
class Algebra(Protocol):
    """What measures leave to a library, all in float64."""

    def gram(self, a: Float64[np.ndarray, "row column"]) -> Float64[np.ndarray, "column column"]:
        """Return A'A."""
        ...

    def product(
        self, a: Float64[np.ndarray, "row among"], b: Float64[np.ndarray, "among column"], *, upper: bool = False
    ) -> Float64[np.ndarray, "row column"]:
        """Return A B. With `upper`, A is square and 0 below its diagonal."""
        ...

    def eigen(self, symmetric: Float64[np.ndarray, "side side"]) -> Eigen:
        """Return eigenvalues and eigenvectors."""
        ...


class Lapack:
    """NumPy and LAPACK, on the CPU."""

    def gram(self, a: Float64[np.ndarray, "row column"]) -> Float64[np.ndarray, "column column"]:
        """Return A'A: NumPy sees the two are one, and computes one half."""
        return a.T @ a

    def product(
        self, a: Float64[np.ndarray, "row among"], b: Float64[np.ndarray, "among column"], *, upper: bool = False
    ) -> Float64[np.ndarray, "row column"]:
        """Return A B."""
        return dtrmm(1.0, a, b) if upper else a @ b

    def eigen(self, symmetric: Float64[np.ndarray, "side side"]) -> Eigen:
        """Reduce to Q T Q' with a tridiagonal T: values and vectors share this step, which takes most of the time."""
        side = len(symmetric)
        reflectors, diagonal, beside, factors, _ = _SYTRD(symmetric, lower=1, lwork=64 * side)
        values = np.asarray(eigvalsh_tridiagonal(diagonal, beside, lapack_driver="sterf"))[::-1]

        def leading(k: int) -> Float64[np.ndarray, "side k"]:
            among = side - k, side - 1
            vectors = eigh_tridiagonal(diagonal, beside, select="i", select_range=among, check_finite=False)[1]
            # Q leaves the first row alone; below it, Q is the product of the reflectors, as after a QR.
            below = _ORMQR("L", "N", reflectors[1:, :-1], factors, vectors[1:], 64 * k)[0]
            return np.concatenate([vectors[:1], below])

        return Eigen(values, leading)


LAPACK = Lapack()

"""Spectra and CKA through torch: the products and eigenvalues of `lensrl.measures.algebra` on a GPU, or on the CPU.

Everything is in float64, as with NumPy. Blocks of a matrix go to the device one by one; Gram matrices, eigenvalues and
leading vectors come back. Full SVDs, which matrices without full rank need, and the Procrustes distance stay with
LAPACK. On the CPU, tests hold torch to the same errors as NumPy. **Not run to its end on a GPU yet**: there, threads
loaded torch's linear algebra at the same time, which it refuses. Since then it is loaded before they start.

On the CPU, NumPy is faster, and stays the default: of a matrix of 3,072 x 1,024, on one thread, torch takes 2.7 times
its processor time (`python -m tests.benchmarks.analyses --only torch`). torch multiplies both halves of a symmetric
product, and finds all eigenvectors where a few are wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float64

from lensrl.errors import LensrlError, did_you_mean
from lensrl.measures.algebra import LAPACK, Algebra, Eigen

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]


def algebra_on(device: Device | None) -> Algebra:
    """Return NumPy's algebra for None, else torch's on this device.

    Raises LensrlError for an unknown device, and for `cuda` where torch finds no GPU.
    """
    if device is None:
        return LAPACK
    if device not in get_args(Device):
        raise LensrlError(f"device={device!r}: there is no such{did_you_mean(device, get_args(Device))}")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise LensrlError("device cuda: torch finds no GPU here; leave it out to compute with NumPy on the CPU")
    # The first call loads a library, and torch raises where two threads make it at the same time.
    torch.linalg.eigvalsh(torch.ones(1, 1, device=device))
    return Torch(device)


class Torch:
    """torch on one device. It implements `lensrl.measures.algebra.Algebra`."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def _sent(self, a: Float64[np.ndarray, "row column"]) -> torch.Tensor:
        import torch

        return torch.tensor(a, device=self._device)

    def gram(self, a: Float64[np.ndarray, "row column"]) -> Float64[np.ndarray, "column column"]:
        """Return A'A."""
        sent = self._sent(a)
        return (sent.T @ sent).cpu().numpy()

    def product(
        self, a: Float64[np.ndarray, "row among"], b: Float64[np.ndarray, "among column"], *, upper: bool = False
    ) -> Float64[np.ndarray, "row column"]:
        """Return A B. The zeros of an upper triangle are multiplied, too."""
        return (self._sent(a) @ self._sent(b)).cpu().numpy()

    def eigen(self, symmetric: Float64[np.ndarray, "side side"]) -> Eigen:
        """Return eigenvalues, and eigenvectors where they are asked for."""
        import torch

        sent = self._sent(symmetric)

        def leading(k: int) -> Float64[np.ndarray, "side k"]:
            return torch.linalg.eigh(sent).eigenvectors[:, -k:].cpu().numpy()

        return Eigen(torch.linalg.eigvalsh(sent).flip(0).cpu().numpy(), leading)

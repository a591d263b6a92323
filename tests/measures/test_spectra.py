"""Gram matrices against LAPACK's SVD: matrices of every kind, within the errors that the module states."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from lensrl.measures.spectra import Matrix
from lensrl.measures.weights import ANGLE, TOLERANCE, DeltaMetrics, delta_metrics, spectral_metrics

SIDE = 96


def gaussian(rows: int = 3 * SIDE, columns: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def with_spectrum(s: np.ndarray, rows: int = 3 * SIDE, seed: int = 0) -> np.ndarray:
    left, right = (np.linalg.qr(gaussian(size, len(s), seed + i))[0] for i, size in enumerate((rows, len(s))))
    return (left * s) @ right.T


# Many spectra: flat, steep, without full rank, with a far outlier, of zeros, tiny, huge, square and wide.
KINDS: dict[str, Callable[[], np.ndarray]] = {
    "tall": gaussian,
    "square": lambda: gaussian(SIDE),
    "wide": lambda: gaussian(SIDE, 5 * SIDE),
    "very tall": lambda: gaussian(40 * SIDE),
    "means": lambda: gaussian() + 30.0,
    "outlier": lambda: with_spectrum(np.append(1e4, np.linspace(2, 1, SIDE - 1))),
    "ties": lambda: with_spectrum(np.repeat([4.0, 2.0, 1.0], SIDE // 3)),
    "slope": lambda: with_spectrum(np.logspace(0, -5, SIDE)),
    "steep": lambda: with_spectrum(np.logspace(0, -14, SIDE)),
    "rank 3": lambda: gaussian(3 * SIDE, 3) @ gaussian(3, SIDE),
    "very tall, rank 3": lambda: gaussian(40 * SIDE, 3) @ gaussian(3, SIDE),
    "one row": lambda: np.pad(gaussian(1), ((4, 3 * SIDE), (0, 0))),
    "tiny": lambda: 1e-200 * gaussian(),
    "huge": lambda: 1e150 * gaussian(),
    "zero": lambda: np.zeros((3 * SIDE, SIDE)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_singular_values_are_lapacks_within_the_stated_error(kind: str) -> None:
    a = KINDS[kind]()
    expected, lapack = np.linalg.svd(a, compute_uv=False), 1e-14 * np.abs(a).max() * math.sqrt(a.size)
    found, error = Matrix(a).singular_values()
    if np.isfinite(error).all():
        assert (np.abs(found - expected) <= error + lapack).all()
        assert (error[expected > 1e-4 * expected[0]] < 1e-9 * expected[0]).all()  # the bound is of use
    else:
        assert kind in ("tiny", "huge", "zero")
    exact, none = Matrix(a).singular_values(exact=True)
    np.testing.assert_allclose(exact, expected, rtol=0, atol=lapack)
    assert not none.any()


@pytest.mark.parametrize("kind", KINDS)
def test_leading_spaces_are_lapacks_within_the_stated_error(kind: str) -> None:
    a, k = KINDS[kind](), 3
    u, s, v = np.linalg.svd(a, full_matrices=False)
    for exact in (False, True):
        left, right, error = Matrix(a).leading(k, exact=exact)
        if not math.isfinite(error) or s[k - 1] - s[k] <= 1e-9 * s[0]:
            continue  # no space, or one that rounding chooses
        lapack = 1e-14 * float(s[0] / (s[k - 1] - s[k])) + 1e-14
        for basis, expected in ((left, u[:, :k]), (right, v[:k].T)):
            assert basis.shape == expected.shape
            np.testing.assert_allclose(basis.T @ basis, np.eye(k), atol=1e-12)
            assert subspace_angles(basis, expected).max() <= error + lapack


@pytest.mark.parametrize("shape", [(500, 64), (64, 500), (64, 64)])
def test_a_difference_is_read_in_blocks(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensrl.measures.spectra.BLOCK", 64 * 7)
    a, b = gaussian(*shape).astype(np.float32), gaussian(*shape, seed=1).astype(np.float32)
    difference = a.astype(np.float64) - b
    expected = np.linalg.svd(difference, compute_uv=False)
    np.testing.assert_allclose(Matrix(a, b).singular_values().values, expected, rtol=1e-9)
    np.testing.assert_allclose(Matrix(a, b).singular_values(exact=True).values, expected, rtol=1e-12)


def by_three_svds(before: np.ndarray, after: np.ndarray, k: int) -> np.ndarray:
    """The measures of the spectrum from full SVDs in float64."""
    (u, s, v), (u2, s2, v2) = (np.linalg.svd(matrix, full_matrices=False) for matrix in (before, after))
    s, s2, d = s / s[0], s2 / s[0], np.linalg.svd(after - before, compute_uv=False)
    p = d[d > 0] / d.sum()
    angles = subspace_angles(u[:, :k], u2[:, :k]).max(), subspace_angles(v[:k].T, v2[:k].T).max()
    return np.array([
        d[0], ((d / d[0]) ** 2).sum(), math.exp(-(p * np.log(p)).sum()),
        np.linalg.norm(s2 - s) / np.linalg.norm(s), *map(math.degrees, angles),
    ])  # fmt: skip


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise": lambda w: 1e-3 * np.abs(w).max() * gaussian(*w.shape, seed=5),
    "faint noise": lambda w: 1e-7 * np.abs(w).max() * gaussian(*w.shape, seed=5),
    "rank 1": lambda w: 1e-3 * np.abs(w).max() * np.outer(gaussian(len(w), 1, 6), gaussian(1, w.shape[1], 7)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("zero", "huge")])
def test_measures_are_those_of_three_svds(kind: str, change: str) -> None:
    before = KINDS[kind]()
    after = before + CHANGES[change](before)
    found = spectral_metrics(before, after)
    expected = by_three_svds(before, after, 16)
    np.testing.assert_allclose(found[:3], expected[:3], rtol=TOLERANCE)
    # Where W has not 16 directions, or a shift is lost in rounding, LAPACK itself gives any number.
    s = np.linalg.svd(before, compute_uv=False)
    known = 1e-14 * math.sqrt(len(s)) / float(np.linalg.norm(s / s[0]))
    np.testing.assert_allclose(found.spectral_shift, expected[3], rtol=TOLERANCE, atol=known)
    if s[15] - s[16] > 1e-9 * s[0]:
        degrees = math.degrees(ANGLE + 1e-14 * s[0] / (s[15] - s[16]))
        np.testing.assert_allclose(found[4:6], expected[4:], rtol=TOLERANCE, atol=degrees)


def test_what_squares_would_lose_is_named() -> None:
    w = KINDS["tall"]()
    noise, thin = w + 1e-3 * gaussian(seed=1), w + 1e-3 * gaussian(3 * SIDE, 2, 1) @ gaussian(2, SIDE, 2)
    assert spectral_metrics(w, noise).by_svd == ()
    assert spectral_metrics(w, thin).by_svd == ("effective_rank",)
    assert spectral_metrics(KINDS["rank 3"](), noise).by_svd == ("angle",)
    assert spectral_metrics(np.zeros_like(w), w).by_svd == ("spectral_shift", "angle")
    assert spectral_metrics(w[0], w[1]).by_svd == ()


def test_a_matrix_and_its_transpose_have_the_same_measures() -> None:
    before, after = gaussian(), gaussian() + 1e-3 * gaussian(seed=1)
    one, other = delta_metrics(before, after), delta_metrics(before.T, after.T)
    swapped = DeltaMetrics(**(other._asdict() | {"left_angle": other.right_angle, "right_angle": other.left_angle}))
    np.testing.assert_allclose(one, swapped, rtol=1e-9)

"""Spectra and CKA through torch on the CPU: within the errors that the measures state, and against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import subspace_angles

from lensrl import LensrlError, Study, compare_activations, compare_layers, compare_weights
from lensrl.compare.device import Device, Torch, algebra_on
from lensrl.compare.side_by_side import side_by_side
from lensrl.measures.algebra import LAPACK, Algebra, Eigen
from lensrl.measures.hsic import Pairs
from lensrl.measures.similarity import cka_interval, cka_map
from lensrl.measures.spectra import Matrix
from lensrl.measures.weights import ANGLE, TOLERANCE, spectral_metrics
from tests.cli.typed import lensrl
from tests.measures.test_hsic import sample
from tests.measures.test_spectra import KINDS, gaussian

ON_CPU = Torch("cpu")


def embedding() -> np.ndarray:
    """Many rows, most of them short and a few long, around a common mean."""
    return 0.1 + gaussian(4000, 64) / np.arange(1, 4001)[:, None] ** 0.5


MATRICES: dict[str, Callable[[], np.ndarray]] = KINDS | {
    "embedding": embedding,
    "wide embedding": lambda: embedding().T,
}


@pytest.mark.parametrize("kind", MATRICES)
def test_spectra_are_lapacks_within_the_error_that_the_module_states(kind: str) -> None:
    a, k = MATRICES[kind](), 3
    u, s, v = np.linalg.svd(a, full_matrices=False)
    lapack = 1e-14 * np.abs(a).max() * np.sqrt(a.size)  # the error of the SVD itself
    found, error = Matrix(a, algebra=ON_CPU).singular_values()
    assert np.isfinite(error).all() == (kind not in ("tiny", "huge", "zero"))
    if np.isfinite(error).all():
        assert (np.abs(found - s) <= error + lapack).all()
    left, right, angle = Matrix(a, algebra=ON_CPU).leading(k)
    if np.isfinite(angle) and s[k - 1] - s[k] > 1e-9 * s[0]:
        known = angle + 1e-14 * float(s[0] / (s[k - 1] - s[k])) + 1e-14
        for basis, expected in ((left, u[:, :k]), (right, v[:k].T)):
            assert basis.shape == expected.shape
            np.testing.assert_allclose(basis.T @ basis, np.eye(k), atol=1e-12)
            assert subspace_angles(basis, expected).max() <= known


@pytest.mark.parametrize("kind", [kind for kind in MATRICES if kind not in ("zero", "huge", "tiny")])
def test_measures_of_a_change_are_numpys_within_the_tolerance_of_gram_matrices(kind: str) -> None:
    """Each side may differ from an SVD by `TOLERANCE` of a measure, or by `ANGLE`: the two by twice as much."""
    before = MATRICES[kind]()
    after = before + 1e-3 * np.abs(before).max() * gaussian(*before.shape, seed=5)
    found, expected = spectral_metrics(before, after, ON_CPU), spectral_metrics(before, after)
    np.testing.assert_allclose(found[:4], expected[:4], rtol=2 * TOLERANCE)
    s = np.linalg.svd(before, compute_uv=False)
    if s[15] - s[16] > 1e-9 * s[0]:  # else rounding chooses the 16 directions
        angle = float(np.degrees(2 * ANGLE + 1e-14 * s[0] / (s[15] - s[16])))
        np.testing.assert_allclose(found[4:6], expected[4:6], rtol=2 * TOLERANCE, atol=angle)


@pytest.mark.parametrize("pairs", ["sequence", "token"])
@pytest.mark.parametrize(("p", "q"), [(7, 9), (40, 60), (3, 2), (2, 40)])  # token space, feature space
def test_cka_is_numpys_up_to_rounding(p: int, q: int, pairs: Pairs) -> None:
    """HSIC is a sum over pairs of tokens in float64: 1e-10 is far above its rounding, and far below what is shown."""
    x, y, sequence = sample(p, q)
    y[:, 0] += 4 * x[:, 0]

    def by(algebra: Algebra) -> tuple[np.ndarray, np.ndarray]:
        one = cka_interval(x, y, sequence, pairs=pairs, algebra=algebra)
        return np.array(one), cka_map([x, y], [y], sequence, pairs=pairs, algebra=algebra)

    for found, expected in zip(by(ON_CPU), by(LAPACK), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert np.isfinite(by(ON_CPU)[1]).all()


class Counted(Torch):
    """torch that notes its calls: a measure that went past it would agree with NumPy, too."""

    calls: ClassVar[set[str]] = set()

    def gram(self, a: np.ndarray) -> np.ndarray:
        Counted.calls.add("gram")
        return super().gram(a)

    def product(self, a: np.ndarray, b: np.ndarray, *, upper: bool = False) -> np.ndarray:
        Counted.calls.add("product")
        return super().product(a, b, upper=upper)

    def eigen(self, symmetric: np.ndarray) -> Eigen:
        Counted.calls.add("eigen")
        return super().eigen(symmetric)


def test_every_verb_and_function_computes_on_the_device(small_study: Study, tmp_path: Path) -> None:
    folder = small_study.path
    jobs: dict[str, tuple[Callable[[Device | None], object], set[str]]] = {
        "weights": (lambda device: compare_weights(small_study, device=device), {"gram", "eigen"}),
        "cka": (lambda device: compare_activations(small_study, device=device), {"gram"}),
        "map": (lambda device: compare_layers(small_study, device=device), {"gram"}),
    }
    for name, (job, expected) in jobs.items():
        Counted.calls.clear()
        with patch("lensrl.compare.device.Torch", Counted):
            found = job("cpu")
        assert expected == Counted.calls, name
        known = job(None)
        if isinstance(found, pd.DataFrame) and isinstance(known, pd.DataFrame):
            assert found.attrs == known.attrs
            pd.testing.assert_frame_equal(found, known, rtol=2 * TOLERANCE, atol=1e-9)
        else:
            np.testing.assert_allclose(np.asarray(found), np.asarray(known), rtol=0, atol=1e-10)
    for words in (["deltas", folder], ["cka", folder], ["cka", folder, "--map", "--figure", tmp_path / "map.svg"]):
        Counted.calls.clear()
        with patch("lensrl.compare.device.Torch", Counted):
            done = lensrl(*words, "--device", "cpu")
        assert (done.returncode, Counted.calls != set()) == (0, True), done.stderr
        assert done.stdout == lensrl(*words).stdout


def test_two_models_are_compared_on_the_device() -> None:
    for verb in ("deltas", "cka"):
        done = lensrl(verb, "tiny:qwen3", "tiny:qwen3", "--device", "cpu")
        assert done.returncode == 0, done.stderr


def test_without_a_gpu_cuda_is_refused_in_one_line(small_study: Study) -> None:
    with patch("torch.cuda.is_available", return_value=False):
        for verb in ("deltas", "cka"):
            for words in ([small_study.path], ["tiny:qwen3", "tiny:qwen3"]):
                done = lensrl(verb, *words, "--device", "cuda")
                assert (done.returncode, done.stderr.count("\n")) == (2, 1)
                assert "device cuda: torch finds no GPU here" in done.stderr
    assert lensrl("deltas", small_study.path, "--device", "tpu").returncode == 2
    for words in (["--by", "head"], ["--overlap"]):
        done = lensrl("deltas", small_study.path, *words, "--device", "cpu")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    with pytest.raises(LensrlError, match="device='gpu'"):
        algebra_on("gpu")  # pyright: ignore[reportArgumentType]


def test_parts_side_by_side_have_one_thread_of_torch_each() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert side_by_side(lambda _: torch.get_num_threads(), range(4)) == [1] * 4
        assert torch.get_num_threads() == 3
        assert ThreadPoolExecutor(1).submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(threads)

"""The same quantities from other libraries and from brute force: CKA beside torch-cka, weight deltas beside modeldelta.

torch-cka (PyTorch-Model-Compare) estimates HSIC without bias from token by token matrices (Nguyen et al. 2021, arXiv
2010.15327, eq. 3, which is Song et al. 2012, eq. 5), as lensrl does, in float32. Both define, for all tokens at once,

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

In batches they differ: torch-cka takes the mean of HSIC over batches, then divides, and no pair of tokens from
different batches counts; `StreamingCka` gives the number of all tokens.

modeldelta compares two checkpoints tensor by tensor, in float32. For W before, D the change, s its singular values:

    quantity          lensrl                             modeldelta
    frobenius         ||D||                              frob_norm: the same
    relative          ||D|| / ||W||                      frob_norm_relative: ||D|| / (||W|| + 1e-12)
    weight_cosine     <W, W'> / (||W|| ||W'||)           cosine_sim: the same, cut to [-1, 1]
    spectral          s_1                                the first of top_singular_values
    stable_rank       ||D||^2 / s_1^2                    not given; the same from frob_norm and s_1
    effective_rank    exp(-sum p log p), p = s / sum(s)  effective_rank: the same, without p below 1e-12
    changed_share     share of entries with D != 0       sparsity: share with |D| < 1e-5 by default

Only modeldelta has concentration_top_k and spectral_alpha; only lensrl has what compares W's spectrum, singular spaces
and largest entries with those of W', and changed_share_bf16. Above 8,192 rows and columns modeldelta's singular values
are those of a random sketch, and no longer the same quantity.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from modeldelta.core.weight_diff import compare_models
from modeldelta.utils.model_loader import get_tensor_map
from safetensors.numpy import load_file, save_file

import lensrl
from lensrl.measures.similarity import StreamingCka, cka_map, linear_cka
from lensrl.measures.weights import DeltaMetrics, delta_metrics
from tests.benchmarks.cka import token_space_cka, torch_cka, two_models

NEAR = 1e-5  # what float32 leaves
TINY = Path(lensrl.__file__).parent / "models" / "tiny" / "qwen3"


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC in token space, float64 (Song et al. 2012, eq. 5)."""
    n = len(x)
    k, l = x.astype(np.float64) @ x.T, y.astype(np.float64) @ y.T  # noqa: E741
    for gram in (k, l):
        np.fill_diagonal(gram, 0)
    ends = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * k.sum(0) @ l.sum(1) / (n - 2)
    return float(((k * l).sum() + ends) / (n * (n - 3)))


def brute_force_cka(x: np.ndarray, y: np.ndarray, batch: int | None = None) -> float:
    """CKA of the mean HSIC over batches; over all tokens when `batch` is not given."""
    parts = [slice(start, start + (batch or len(x))) for start in range(0, len(x), batch or len(x))]
    xy, xx, yy = (np.mean([unbiased_hsic(a[p], b[p]) for p in parts]) for a, b in ((x, y), (x, x), (y, y)))
    return float(xy / np.sqrt(xx * yy))


def test_cka_is_the_average_over_distinct_tokens() -> None:
    """HSIC = E[k_12 l_12] + E[k_12] E[l_34] - 2 E[k_12 l_13], each term over tokens that are all different."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 4))
    k, l = x @ x.T, y @ y.T  # noqa: E741

    def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
        terms = [k[a, b] * (l[a, b] + l[c, d] - 2 * l[a, c]) for a, b, c, d in permutations(range(7), 4)]
        return float(np.mean(terms))

    assert linear_cka(x, y) == pytest.approx(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)), abs=1e-12)


@pytest.mark.parametrize(("tokens", "features"), [(512, 128), (300, 768), (1536, 64)])
def test_cka_of_every_pair_of_layers_is_torch_ckas(tokens: int, features: int) -> None:
    xs, ys = two_models(3, tokens, features)
    ours, theirs = cka_map(xs, ys, np.arange(tokens), pairs="token"), torch_cka(xs, ys)
    brute = np.array([[brute_force_cka(x, y) for y in ys] for x in xs])
    assert np.ptp(ours) > 0.05  # the layers differ
    np.testing.assert_allclose(ours, brute, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=NEAR)
    for x, y, value in zip(xs, ys, np.diag(ours), strict=True):
        assert linear_cka(x, y) == pytest.approx(value, abs=1e-12)
        assert token_space_cka(x, y) == pytest.approx(value, abs=NEAR)  # the peer of the benchmark


def test_batches_of_torch_cka_are_another_estimator() -> None:
    (x,), (y,) = two_models(1, 1024, 128)
    streaming = StreamingCka()
    for start in range(0, 1024, 64):
        streaming.add(x[start : start + 64], y[start : start + 64])
    theirs = torch_cka([x], [y], batch=64)[0, 0]
    assert theirs == pytest.approx(brute_force_cka(x, y, batch=64), abs=NEAR)
    assert streaming.value() == pytest.approx(brute_force_cka(x, y), abs=1e-10)
    assert NEAR < abs(streaming.value() - theirs) < 0.02  # both estimate the same, from other pairs of tokens


def test_means_of_features_cost_float32_its_digits_and_not_ours() -> None:
    """CKA does not depend on them, but token space sums their squares over all pairs and takes them away again."""
    (x,), (y,) = two_models(1, 1024, 128)
    means = np.random.default_rng(1).normal(size=(2, 128)).astype(np.float32)
    with_means = x + means[0], y + means[1]
    assert linear_cka(*with_means) == pytest.approx(brute_force_cka(*with_means), abs=1e-10)
    assert linear_cka(*with_means) == pytest.approx(linear_cka(x, y), abs=1e-6)  # adding them rounded float32
    assert abs(torch_cka([with_means[0]], [with_means[1]])[0, 0] - linear_cka(x, y)) > NEAR


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The embedded model, and the same after a made-up training: low rank and noise, on all, some or no entries."""
    before, after = (tmp_path_factory.mktemp(name) for name in ("before", "after"))
    rng = np.random.default_rng(0)
    weights = {
        name: w for name, w in load_file(TINY / "model.safetensors").items() if ".layers." not in name or ".3." in name
    }
    trained = {}
    for number, (name, w) in enumerate(sorted(weights.items())):
        change = 1e-4 * rng.normal(size=w.shape)
        if w.ndim == 2:
            change += 1e-3 * rng.normal(size=(w.shape[0], 2)) @ rng.normal(size=(2, w.shape[1]))
        if number % 3 == 1:  # sparse, as RL updates are
            change *= rng.random(w.shape) < 0.2
        trained[name] = w if number == 0 else (w + change).astype(np.float32)
    save_file(weights, before / "model.safetensors")
    save_file(trained, after / "model.safetensors")
    return before, after


def their_metrics(checkpoints: tuple[Path, Path], **settings: float) -> dict[str, dict]:
    maps = [get_tensor_map(str(folder)) for folder in checkpoints]
    rows, skipped = compare_models(*maps, min_params=1, **settings)  # pyright: ignore[reportArgumentType]
    assert skipped == 0
    return {row["name"]: row for row in rows}


def our_metrics(checkpoints: tuple[Path, Path]) -> dict[str, DeltaMetrics]:
    before, after = (load_file(folder / "model.safetensors") for folder in checkpoints)
    return {name: delta_metrics(before[name], after[name]) for name in before}


@pytest.mark.slow
def test_deltas_are_modeldeltas_where_both_define_the_quantity(checkpoints: tuple[Path, Path]) -> None:
    theirs = their_metrics(checkpoints, sparsity_threshold=float(np.finfo(np.float32).tiny))
    ours = our_metrics(checkpoints)
    assert ours.keys() == theirs.keys()
    kinds = set()
    for name, our in ours.items():
        their = theirs[name]
        changed = our.frobenius > 0
        kinds.add((their["has_svd"], changed))
        assert (our.frobenius, our.relative, our.weight_cosine) == pytest.approx(
            (their["frob_norm"], their["frob_norm_relative"], their["cosine_sim"]), rel=NEAR, abs=1e-9
        ), name
        assert our.changed_share == pytest.approx(1 - their["sparsity"], abs=1e-6), name
        if their["has_svd"] and changed:
            largest = their["top_singular_values"][0]
            assert (our.spectral, our.stable_rank, our.effective_rank) == pytest.approx(
                (largest, (their["frob_norm"] / largest) ** 2, their["effective_rank"]), rel=NEAR
            ), name
    assert kinds >= {(True, True), (False, True)}  # matrices and vectors
    assert any(0 < our.changed_share < 0.3 for our in ours.values())


@pytest.mark.slow
def test_where_the_definitions_part(checkpoints: tuple[Path, Path]) -> None:
    """By default a change below 1e-5 is none for modeldelta; of a vector neither has a spectrum."""
    theirs = their_metrics(checkpoints)
    ours = our_metrics(checkpoints)
    dense = [name for name, our in ours.items() if our.changed_share > 0.9]
    assert dense
    assert all(1 - theirs[name]["sparsity"] < ours[name].changed_share for name in dense)
    vectors = [name for name, row in theirs.items() if not row["has_svd"]]
    assert vectors
    assert all(np.isnan(ours[name].spectral) for name in vectors)

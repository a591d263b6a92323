"""Representations compared: against brute force, planted truths and a null."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensrl.measures.similarity import (
    StreamingCka,
    cka_interval,
    cka_map,
    linear_cka,
    mean_cosine,
    procrustes_distance,
    relative_l2,
)


def pair(tokens: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two representations that share some of their variance."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, 7))
    return x, x @ rng.normal(size=(7, 9)) + 2 * rng.normal(size=(tokens, 9))


def rotation(size: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(9).normal(size=(size, size)))[0]


def token_space_cka(x: np.ndarray, y: np.ndarray, *, debiased: bool) -> float:
    """The definition, with token by token matrices."""
    n = len(x)
    centre = np.eye(n) - 1 / n

    def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
        if not debiased:
            return float(np.trace(k @ centre @ l @ centre)) / (n - 1) ** 2
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
        ends = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(k.sum(0) @ l.sum(1))
        return (float(np.trace(k @ l)) + ends) / (n * (n - 3))

    k, l = x @ x.T, y @ y.T  # noqa: E741
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


@pytest.mark.parametrize("debiased", [True, False])
def test_feature_space_agrees_with_the_definition_in_token_space(debiased: bool) -> None:
    for seed in range(5):
        x, y = pair(seed=seed)
        assert linear_cka(x, y, debiased=debiased) == pytest.approx(token_space_cka(x, y, debiased=debiased), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 79), max_size=6), st.floats(-1e3, 1e3), st.booleans())
def test_batches_give_the_number_of_the_whole(cuts: list[int], offset: float, debiased: bool) -> None:
    x, y = pair()
    x = x + offset
    streaming = StreamingCka(debiased=debiased)
    edges = [0, *sorted(set(cuts)), 80]
    for start, stop in pairwise(edges):
        streaming.add(x[start:stop], y[start:stop])
    assert streaming.value() == pytest.approx(linear_cka(x, y, debiased=debiased), abs=1e-10)


def test_rotation_scale_shift_and_a_permuted_basis_change_nothing() -> None:
    x, y = pair()
    value = linear_cka(x, y)
    for same in (x @ rotation(7), 3 * x, 1e-6 * x, 1e30 * x, x + 100, x[:, ::-1]):
        assert linear_cka(same, y) == pytest.approx(value, abs=1e-12)
        assert linear_cka(x, same) == pytest.approx(1, abs=1e-12)


def test_unrelated_representations_score_zero_where_the_plain_estimator_does_not() -> None:
    rng = np.random.default_rng(0)
    values = {debiased: [] for debiased in (True, False)}
    for _ in range(200):
        x, y = rng.normal(size=(30, 60)), rng.normal(size=(30, 60))
        for debiased, found in values.items():
            found.append(linear_cka(x, y, debiased=debiased))
    mean, error = np.mean(values[True]), np.std(values[True]) / np.sqrt(200)
    assert abs(mean) < 3 * error
    assert np.mean(values[False]) > 0.5


def test_the_map_holds_every_pair_of_layers() -> None:
    xs, ys = [pair(seed=i)[0] for i in range(2)], [pair(seed=i)[1] for i in range(3)]
    table = cka_map(xs, ys, np.arange(80) // 8, pairs="token")
    expected = [[linear_cka(x, y) for y in ys] for x in xs]
    np.testing.assert_allclose(table, expected, atol=1e-12)


def test_the_interval_covers_what_many_sequences_would_give() -> None:
    """Tokens of a sequence share their mean: an interval over tokens would be too short."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(4, 4))

    def sample(sequences: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids = np.repeat(np.arange(sequences), 8)
        x = rng.normal(size=(sequences, 4))[ids] + 0.5 * rng.normal(size=(len(ids), 4))
        noise = rng.normal(size=(sequences, 4))[ids] + 0.5 * rng.normal(size=(len(ids), 4))
        return x, x @ mix + noise, ids

    x, y, _ = sample(20_000)
    truth = linear_cka(x, y)
    hits = sum(low <= truth <= high for _, low, high in (cka_interval(*sample(30)) for _ in range(300)))
    assert 0.90 <= hits / 300 <= 0.99


def test_procrustes_distance_is_zero_up_to_rotation_and_grows_with_noise() -> None:
    x, _ = pair()
    noise = np.random.default_rng(3).normal(size=x.shape)
    assert procrustes_distance(x, 2 * (x @ rotation(7)) + 1) == pytest.approx(0, abs=1e-6)
    distances = [procrustes_distance(x, x + share * noise) for share in (0.1, 0.5, 2.0)]
    assert distances == sorted(distances)
    assert distances[-1] < np.sqrt(2)


def test_relative_l2_and_cosine_see_what_cka_is_blind_to() -> None:
    x, _ = pair()
    turned = x @ rotation(7)
    assert linear_cka(x, turned) == pytest.approx(1)
    assert relative_l2(x, turned) == pytest.approx(np.linalg.norm(turned - x) / np.linalg.norm(x))
    assert mean_cosine(x, turned) < 0.9
    assert (relative_l2(x, x), relative_l2(x, 3 * x), mean_cosine(x, 3 * x)) == pytest.approx((0, 2, 1))


@pytest.mark.parametrize("measure", [linear_cka, procrustes_distance, relative_l2, mean_cosine])
def test_a_nan_is_refused(measure: Callable[[np.ndarray, np.ndarray], float]) -> None:
    x, y = np.ones((6, 2)), np.ones((6, 2))
    y[3, 1] = np.nan
    with pytest.raises(ValueError, match="holds a NaN or an infinity"):
        measure(x, y)
    with pytest.raises(ValueError, match="x has 6 tokens and y 5"):
        measure(x, x[:5])


def test_a_nan_is_refused_in_a_later_batch_a_map_and_an_interval() -> None:
    x, y = pair()
    bad = y.copy()
    bad[3, 1] = np.nan
    streaming = StreamingCka()
    streaming.add(x, y)
    sequence = np.arange(len(x)) // 8
    calls = (
        lambda: streaming.add(x, bad),
        lambda: cka_map([x], [y, bad], sequence),
        lambda: cka_map([bad], [y], sequence),
        lambda: cka_interval(x, bad, sequence),
    )
    for call in calls:
        with pytest.raises(ValueError, match="holds a NaN or an infinity"):
            call()
    assert streaming.value() == linear_cka(x, y)
    with pytest.raises(ValueError, match="x has 80 tokens and y 50"):
        cka_map([x], [y[:50]], sequence)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_what_float64_cannot_hold_is_refused() -> None:
    x, _ = pair()
    for call in (lambda: linear_cka(1e90 * x, x), lambda: cka_map([1e90 * x], [x], np.arange(80) // 8)):
        with pytest.raises(ValueError, match="too large for float64"):
            call()


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e5 / 3])
@pytest.mark.parametrize("tokens", [77, 1000])
def test_rounding_is_not_taken_for_features_that_vary(constant: float, tokens: int) -> None:
    """The mean of a constant may be its neighbour: what is left after centring is not 0."""
    x, flat = pair(tokens)[0], np.full((tokens, 5), constant)
    for call in (
        lambda: linear_cka(x, flat),
        lambda: linear_cka(flat, flat, debiased=False),
        lambda: cka_map([flat], [x], np.arange(tokens) // 7),
        lambda: procrustes_distance(x, flat),
    ):
        with pytest.raises(ValueError, match="do not vary"):
            call()


def test_nothing_is_relative_to_zeros() -> None:
    x, _ = pair()
    with pytest.raises(ValueError, match="all zeros"):
        relative_l2(np.zeros_like(x), x)


def test_what_does_not_vary_has_no_cka() -> None:
    x, _ = pair()
    with pytest.raises(ValueError, match="do not vary"):
        linear_cka(x, np.ones_like(x))
    with pytest.raises(ValueError, match="needs 4 tokens, not 3"):
        linear_cka(x[:3], x[:3])
    with pytest.raises(ValueError, match="needs two"):
        cka_interval(x, x, np.zeros(len(x), int))

"""Linearity and directness against dense least squares, hand-worked cases, and walks that were really walked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensrl.measures import trajectory
from lensrl.measures.trajectory import (
    directness,
    directness_null,
    gram,
    increments,
    linearity,
    linearity_null,
    random_walk_gram,
)

STEPS = [3, 4, 10, 25]


def some_deltas(seed: int = 0, size: int = 60) -> np.ndarray:
    """(snapshot, entry): a drift and a walk together."""
    rng = np.random.default_rng(seed)
    drift = np.outer(STEPS, rng.normal(size=size)) * 0.1
    return drift + np.cumsum(rng.normal(size=(len(STEPS), size)), axis=0)


def test_linearity_is_what_least_squares_leaves_over_entry_by_entry() -> None:
    deltas = some_deltas()
    left = 0.0
    for entry in deltas.T:
        _, residual, *_ = np.linalg.lstsq(np.array(STEPS, float)[:, None], entry, rcond=None)
        left += float(residual[0])
    assert linearity(STEPS, gram(list(deltas))) == pytest.approx(1 - left / (deltas**2).sum(), rel=1e-10)


def test_directness_is_the_distance_over_the_way() -> None:
    deltas = some_deltas()
    way = sum(float(np.linalg.norm(step)) for step in np.diff(deltas, axis=0, prepend=0))
    assert directness(gram(list(deltas))) == pytest.approx(np.linalg.norm(deltas[-1]) / way, rel=1e-10)


def test_the_gram_matrix_adds_up_over_parameters_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    deltas = some_deltas().astype(np.float32)
    monkeypatch.setattr(trajectory, "BLOCK", 7)
    parts = gram([d[:24].reshape(4, 6) for d in deltas]) + gram([d[24:] for d in deltas])
    np.testing.assert_allclose(parts, deltas.astype(np.float64) @ deltas.T.astype(np.float64), rtol=1e-6)


def test_a_straight_line_at_constant_speed_is_1_and_an_uneven_one_is_direct_but_not_linear() -> None:
    direction = np.random.default_rng(1).normal(size=50)
    even = gram([t * direction for t in STEPS])
    assert linearity(STEPS, even) == pytest.approx(1)
    assert directness(even) == pytest.approx(1)
    late = gram([t**2 * direction for t in STEPS])
    assert directness(late) == pytest.approx(1)
    assert linearity(STEPS, late) < 0.95


def test_there_and_back_again_is_0_direct() -> None:
    direction = np.ones(5)
    assert directness(gram([direction, 2 * direction, 0 * direction])) == 0


def test_the_null_of_two_equal_steps_is_13_of_15() -> None:
    """t = (1, 2), E[G] = [[1, 1], [1, 2]]: t'Gt = 1 + 2 + 2 + 8 = 13, t't tr G = 5 x 3."""
    walk = gram([np.array([1.0, 0]), np.array([1.0, 1])])
    assert linearity_null([1, 2], walk) == pytest.approx(13 / 15)
    assert directness_null(walk) == pytest.approx(1 / np.sqrt(2))


def test_the_null_of_many_equal_steps_is_four_fifths() -> None:
    """The integrals of x y min(x, y), x^2 and x over the unit square and interval: (2/15) / (1/3 x 1/2)."""
    walk = np.minimum.outer(np.arange(1.0, 2001), np.arange(1.0, 2001))
    assert linearity_null(range(1, 2001), walk) == pytest.approx(4 / 5, abs=1e-3)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.integers(0, 1000))
def test_a_walk_of_orthogonal_steps_is_its_own_null(lengths: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.choice(np.arange(1, 100), len(lengths), replace=False)).tolist()
    directions = np.linalg.qr(rng.normal(size=(20, len(lengths))))[0].T
    walk = gram(list(np.cumsum(directions * np.array(lengths)[:, None], axis=0)))
    np.testing.assert_allclose(increments(walk), lengths)
    np.testing.assert_allclose(random_walk_gram(walk), walk, atol=1e-9)
    assert linearity(steps, walk) == pytest.approx(linearity_null(steps, walk))
    assert directness(walk) == pytest.approx(directness_null(walk))


def test_walks_in_high_dimension_have_the_expected_gram_matrix_and_linearity() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([1.0, 3.0, 0.5, 2.0])
    expected = np.minimum.outer(np.cumsum(lengths**2), np.cumsum(lengths**2))
    grams, linear, direct = [], [], []
    for _ in range(100):
        directions = rng.normal(size=(4, 10_000))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        walk = gram(list(np.cumsum(directions * lengths[:, None], axis=0)))
        grams.append(walk)
        linear.append(linearity(STEPS, walk))
        direct.append(directness(walk))
        np.testing.assert_allclose(random_walk_gram(walk), expected, rtol=1e-9)
    # 100 walks, whose inner products of unit steps have standard deviation 0.01 each
    np.testing.assert_allclose(np.mean(grams, axis=0), expected, atol=0.03)
    assert np.mean(linear) == pytest.approx(linearity_null(STEPS, expected), abs=0.002)
    assert np.mean(direct) == pytest.approx(directness_null(expected), abs=0.002)
    assert np.std(linear) < 0.01


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_neither_measure_depends_on_scale_nor_leaves_its_range(seed: int, factor: float) -> None:
    products = gram(list(some_deltas(seed, size=3)))
    assert 0 <= linearity(STEPS, products) <= 1 + 1e-12
    assert 0 <= directness(products) <= 1 + 1e-12
    assert linearity(STEPS, factor * products) == pytest.approx(linearity(STEPS, products))
    assert directness(factor * products) == pytest.approx(directness(products))
    assert linearity([7 * t for t in STEPS], products) == pytest.approx(linearity(STEPS, products))


def test_what_never_moved_has_no_direction() -> None:
    still = np.zeros((2, 2))
    for value in (linearity([1, 2], still), linearity_null([1, 2], still), directness(still), directness_null(still)):
        assert np.isnan(value)


@pytest.mark.parametrize(
    ("steps", "n", "message"),
    [([5], 1, "at least 2"), ([1, 2], 3, "for 2 snapshots"), ([2, 2], 2, "must increase"), ([0, 1], 2, "from 1 on")],
)
def test_bad_snapshots_are_refused(steps: list[int], n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linearity(steps, np.eye(n))


def test_bad_deltas_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or an infinity"):
        gram([np.array([1.0, np.nan]), np.ones(2)])
    with pytest.raises(ValueError, match="shapes"):
        gram([np.ones(2), np.ones((1, 2))])

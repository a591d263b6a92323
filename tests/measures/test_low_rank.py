"""The rank of a change, beyond the rounding of fp32."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensrl.measures.low_rank import low_rank, most_paying_rank


def planted(rows: int, columns: int, rank: int, size: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, and the same plus a product of two thin ones, summed in fp32."""
    rng = np.random.default_rng(seed)
    before = rng.normal(scale=0.02, size=(rows, columns)).astype(np.float32)
    left, right = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, rank), (rank, columns)))
    return before, before + np.float32(size) * (left @ right)


@given(rank=st.integers(1, 12), size=st.sampled_from([1e-5, 1e-4, 1e-2]), seed=st.integers(0, 9))
def test_the_planted_rank_is_found(rank: int, size: float, seed: int) -> None:
    before, after = planted(48, 64, rank, size, seed)
    found = low_rank(before, after)
    assert found.rank == rank
    assert found.pays
    assert (found.left.shape, found.right.shape) == ((48, rank), (rank, 64))
    delta = after.astype(np.float64) - before
    merged = before + found.left @ found.right
    assert found.error == pytest.approx(np.linalg.norm(merged.astype(np.float64) - after) / np.linalg.norm(delta))
    assert np.linalg.norm(merged.astype(np.float64) - after) <= 2.0**-22 * np.linalg.norm(after)


def test_numpy_s_own_rank_is_full_because_of_rounding() -> None:
    before, after = planted(48, 64, 3, 1e-4)
    assert np.linalg.matrix_rank(after.astype(np.float64) - before) == 48


def test_a_change_in_all_directions_does_not_pay() -> None:
    before, after = planted(48, 64, 48, 1e-4)
    found = low_rank(before, after)
    assert found.rank == 48
    assert not found.pays
    assert len(found.right) == most_paying_rank((48, 64)) == 27
    s = np.linalg.svd(after.astype(np.float64) - before, compute_uv=False)
    assert found.error == pytest.approx(np.linalg.norm(s[27:]) / np.linalg.norm(s), rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 5), (2, 2), (3, 6), (48, 64)])
def test_a_rank_pays_where_the_two_matrices_are_smaller(shape: tuple[int, int]) -> None:
    rows, columns = shape
    paying = [rank for rank in range(1, rows * columns) if rank * (rows + columns) < rows * columns]
    assert most_paying_rank(shape) == max(paying, default=0)


def test_one_entry_has_rank_one() -> None:
    before = np.ones((8, 8), np.float32)
    after = before.copy()
    after[2, 3] = np.nextafter(np.float32(1), np.float32(2))
    assert low_rank(before, after).rank == 1, "a change, however small, has a direction"

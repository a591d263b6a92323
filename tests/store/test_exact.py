"""Weight deltas: base + delta is the trained weight in every bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lensrl.errors import StoreError
from lensrl.store.exact import add, same_bits, subtract

TINY, LARGEST = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
NASTY = [0.0, -0.0, TINY, -TINY, 1.1754942e-38, LARGEST, -LARGEST, 1.0, np.nextafter(np.float32(1), np.float32(2))]
FINITE = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([float(x) for x in NASTY])
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, max_side=5)


@st.composite
def weight_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two finite fp32 arrays of one shape, each row-major, column-major or strided."""
    shape = draw(SHAPES)

    def one() -> np.ndarray:
        array = draw(hnp.arrays(np.float32, shape, elements=FINITE))
        layout = draw(st.sampled_from(["rows", "columns", "strided"]))
        if layout == "columns":
            return array.copy(order="F")
        return np.stack([array, array], axis=-1)[..., 0] if layout == "strided" else array

    return one(), one()


@settings(max_examples=300)
@given(weight_pairs())
def test_adding_the_delta_gives_the_trained_weights_bit_for_bit(pair: tuple[np.ndarray, np.ndarray]) -> None:
    before, after = pair
    before_bytes, after_bytes = before.tobytes(), after.tobytes()
    change = subtract(before, after)
    assert add(before, change).tobytes() == after_bytes
    assert np.isfinite(change.delta).all()
    assert change.delta.shape == after.shape
    assert (before.tobytes(), after.tobytes()) == (before_bytes, after_bytes)


@given(weight_pairs())
def test_the_delta_is_the_rounded_difference(pair: tuple[np.ndarray, np.ndarray]) -> None:
    before, after = pair
    difference = after.astype(np.float64) - before.astype(np.float64)
    rounded = np.clip(difference, -float(LARGEST), float(LARGEST)).astype(np.float32)
    np.testing.assert_array_equal(subtract(before, after).delta, rounded)


@given(
    hnp.arrays(np.float32, 20, elements=st.floats(2.0**-100, 2.0**100, width=32)),
    hnp.arrays(np.float64, 20, elements=st.floats(0.5, 2.0)),
)
def test_within_a_factor_of_two_nothing_needs_repair(before: np.ndarray, ratio: np.ndarray) -> None:
    after = np.clip((before * ratio).astype(np.float32), before / 2, before * 2)
    assert subtract(before, after).where.size == 0  # Sterbenz's lemma


@pytest.mark.parametrize(
    ("before", "after"),
    [(0.0, -0.0), (1.0, 1e-9), (LARGEST, -LARGEST), (1e8, 1.1)],
    ids=["signed zero", "shrunk far", "overflow", "rounded away"],
)
def test_what_addition_gets_wrong_is_kept_beside_the_delta(before: float, after: float) -> None:
    old, new = np.array([1.0, before], np.float32), np.array([1.5, after], np.float32)
    change = subtract(old, new)
    assert change.where.tolist() == [1]
    assert change.value.tobytes() == new[1:].tobytes()
    assert np.isfinite(change.delta).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    fine, broken = np.ones(2, np.float32), np.array([1.0, bad], np.float32)
    for before, after in [(fine, broken), (broken, fine), (broken, broken)]:
        with pytest.raises(StoreError, match="NaN or an infinity"):
            subtract(before, after)


def test_same_bits_tells_signed_zeros_shapes_and_last_bits_apart() -> None:
    one = np.array([0.0, 1.0], np.float32)
    assert same_bits(one, one.copy())
    assert not same_bits(one, np.array([-0.0, 1.0], np.float32))
    assert not same_bits(one, np.nextafter(one, np.float32(2)))
    assert not same_bits(one, one[None])

"""Weight deltas: base + delta is the trained weight in every bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lensrl.errors import StoreError
from lensrl.store.file.deltas import sum_of_squares
from lensrl.store.file.exact import Delta, add, bits, same_bits, subtract
from lensrl.store.file.hdf5 import Compression
from lensrl.store.run import Run
from tests.store.synthetic import header, parameter, write_run

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
    lost = change._replace(delta=change.delta.copy())
    assert add(before, lost, in_place=True).tobytes() == after_bytes
    assert np.shares_memory(lost.delta, add(before, lost, in_place=True)) or not after.size
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


# Through a whole file, in blocks of a few numbers.


def on_bf16_grid(bits: np.ndarray) -> np.ndarray:
    """The fp32 numbers whose upper half is `bits`: all that bfloat16 has, at their exact values."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


INFINITE = 0x7F80  # exponent of infinities and NaNs in bfloat16
NASTY_BF16 = [0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F]
BF16_BITS = st.one_of(
    st.integers(0, 0xFFFF).filter(lambda bits: bits & INFINITE != INFINITE), st.sampled_from(NASTY_BF16)
)


@st.composite
def bf16_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of one shape on the bfloat16 grid; some entries stay, some change their sign, some jump far."""
    shape = draw(
        st.one_of(
            st.tuples(st.integers(1, 90)),
            st.tuples(st.integers(1, 9), st.integers(1, 20)),
            st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 20)),
        )
    )
    before = draw(hnp.arrays(np.uint16, shape, elements=BF16_BITS))
    flips = draw(hnp.arrays(np.uint16, shape, elements=st.sampled_from([0, 0x8000, 1])))
    other = draw(hnp.arrays(np.uint16, shape, elements=BF16_BITS))
    chosen = draw(hnp.arrays(np.bool_, shape))
    flipped = before ^ flips
    finite = (flipped & INFINITE) != INFINITE
    return on_bf16_grid(before), on_bf16_grid(np.where(chosen, other, np.where(finite, flipped, before)))


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks of 64 bytes, 16 numbers, instead of a MiB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lensrl.store.file.hdf5.CHUNK_BYTES", 64)
        patch.setattr("lensrl.store.file.deltas.CHUNK_BYTES", 64)
        yield


def written_and_read(path: Path, before: np.ndarray, after: np.ndarray, compression: Compression) -> Delta | None:
    """The delta that a run file gives back, of a parameter between two others; None when nothing changed."""
    other = np.arange(40, dtype=np.float32)
    weights = [{"a": other, "w": before, "z": other}, {"a": other + 1, "w": after, "z": other * 3}]
    parameters = [parameter(name, "0", name, "mlp", values) for name, values in weights[0].items()]
    about = replace(header("layer-0"), compression=compression)
    write_run(path, about, parameters, weights[0], after=weights[1])
    with Run(path) as run:
        changes = dict(run.deltas.exact(0).values())
        for name in ("a", "z"):
            assert add(other, changes[name]).tobytes() == weights[1][name].tobytes()
        norm = run.delta_norms().set_index("parameter").to_dict("index")["w"]
        assert norm["changed_share"] * after.size == pytest.approx(np.sum(bits(before) != bits(after)))
        return changes.get("w")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("compression", ["none", "blosc2-zstd"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pair=bf16_pairs())
def test_bf16_weights_come_back_from_a_file_bit_for_bit(
    tmp_path: Path, compression: Compression, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    if compression != "none":
        pytest.importorskip("hdf5plugin")
    before, after = pair
    change = written_and_read(tmp_path / "run.h5", before, after, compression)
    if change is None:
        assert before.tobytes() == after.tobytes()
    else:
        assert add(before, change).tobytes() == after.tobytes()
        expected = subtract(before, after)
        assert change.delta.tobytes() == expected.delta.tobytes()
        assert change.where.tolist() == expected.where.tolist()
        assert change.value.tobytes() == expected.value.tobytes()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shape", [(100,), (5, 20), (3, 7, 5)], ids=str)
def test_repairs_on_both_sides_of_every_border_between_blocks_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    before = np.ones(shape, np.float32)
    after = np.full(shape, 1.5, np.float32)
    near = sorted({i for border in range(0, after.size + 1, 5) for i in (border - 1, border) if 0 <= i < after.size})
    after.reshape(-1)[near] = 1e-9  # 1 + (1e-9 - 1) is another number
    change = written_and_read(tmp_path / "run.h5", before, after, "none")
    assert change is not None
    assert change.where.tolist() == near
    assert add(before, change).tobytes() == after.tobytes()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("at", [0, 15, 16, 99])
def test_an_infinity_in_any_block_is_refused_by_name_and_leaves_no_file(tmp_path: Path, at: int) -> None:
    after = on_bf16_grid(np.full(100, 0x3F80, np.uint16))
    before, after[at] = after.copy(), np.inf
    with pytest.raises(StoreError, match="w: weights hold a NaN or an infinity"):
        written_and_read(tmp_path / "run.h5", before, after, "none")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-20, 1e-14, 1e-5, 1.0, 1e18, 1e30])
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 5000])
def test_the_sum_of_squares_holds_over_the_whole_range_of_fp32(scale: float, size: int) -> None:
    """Also where the squares leave fp32's range, in some of the rows or in all."""
    array = (np.random.default_rng(size).normal(size=size) * scale).astype(np.float32)
    array[: size // 3] *= np.float32(1e-3)
    array[size // 2 : size // 2 + 3] = 0
    expected = float(np.sum(np.square(array, dtype=np.float64)))
    assert sum_of_squares(array) == pytest.approx(expected, rel=5e-7, abs=0)

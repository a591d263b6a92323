"""Whatever a disk stores otherwise than it was told is noticed before a file counts as written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensrl.errors import LensrlError
from lensrl.store.file.exact import subtract
from lensrl.store.file.hdf5 import axis, create_empty, create_file
from tests.store.synthetic import (
    PARAMETERS,
    activations,
    after_weights,
    before_weights,
    header,
    probe,
    training,
    write_full_run,
    write_run,
)

CHANGED = PARAMETERS[1].name


@pytest.fixture
def lying_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], list[int]]:
    """A disk that stores one bit of some bytes wrongly, and says nothing; how often is in the list."""
    write = os.pwrite

    def lie(about: bytes) -> list[int]:
        hits: list[int] = []

        def wrongly(file: int, data: memoryview, offset: int) -> int:
            wrong = bytearray(data)
            place = wrong.find(about)
            if place >= 0:
                wrong[place] ^= 1
                hits.append(place)
            return write(file, wrong, offset)

        monkeypatch.setattr(os, "pwrite", wrongly)
        return hits

    return lie


@pytest.mark.parametrize(
    "about",
    [
        np.array([[0.0, 1.0], [1.0, 1.0], [0.25, 0.5]], dtype=np.float32).tobytes(),
        activations()["attn_out"].tobytes(),
        training()["layer_grad_norm"].tobytes(),
        probe().token_id.tobytes(),
        CHANGED.encode(),
        b"fingerprint",
        subtract(before_weights()[CHANGED], after_weights([p.name for p in PARAMETERS[:5]])[CHANGED]).delta.tobytes(),
    ],
    ids=["scores", "activations", "training", "probe", "names", "structure", "delta"],
)
def test_a_disk_that_stores_another_bit_is_caught(
    tmp_path: Path, lying_disk: Callable[[bytes], list[int]], about: bytes
) -> None:
    hits = lying_disk(about)
    with pytest.raises(LensrlError, match="what the disk gives back is not what was written"):
        write_full_run(tmp_path / "full-rl.seed-3.h5")
    assert hits
    assert list(tmp_path.iterdir()) == []


def test_compressed_deltas_are_read_back_from_the_file_and_not_from_a_cache(tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    path, values = tmp_path / "x.h5", np.arange(1000, dtype=np.float32)
    with create_file(path) as file:
        axis(file, "row", len(values))
        dataset = create_empty(file, "values", values.shape, values.dtype, ["row"], "blosc2-zstd")
        dataset[:] = values
        assert dataset[1:4].tolist() == [1, 2, 3]
        chunks: list[tuple[int, int]] = []
        dataset.id.chunk_iter(lambda chunk: chunks.append((chunk.byte_offset, chunk.size)))
        with path.open("r+b") as disk:
            disk.seek(chunks[0][0])
            disk.write(bytes(chunks[0][1]))
        with pytest.raises((OSError, RuntimeError)):
            dataset[1:4]


def test_compressed_activations_cost_no_second_write_of_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cache, each chunk goes to the disk as soon as it is whole, and only once."""
    pytest.importorskip("hdf5plugin")
    large = {"block_out": np.random.default_rng(0).normal(size=(2, 3, 100_000)).astype(np.float32)}
    wide = replace(probe(), token_id=np.arange(3, dtype=np.int32))
    written: list[int] = []
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda f, data, o: written.append(len(data)) or write(f, data, o))
    about = replace(header("base"), compression="blosc2-zstd")
    write_run(tmp_path / "base.h5", about, PARAMETERS, before_weights(), probe=wide, activations=large)
    with h5py.File(tmp_path / "base.h5") as file:
        stored = file["activations/block_out"].id.get_storage_size()  # pyright: ignore[reportAttributeAccessIssue]
    assert sum(written) < 1.2 * stored + 100_000

"""Opening a file checks it first: what is damaged, cut short, unsealed, newer or another program's is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from lensrl.errors import Damaged, StoreError, Unfinished
from lensrl.store.run import Run
from tests.reseal import resealed
from tests.store.synthetic import write_full_run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_full_run(tmp_path / "full-rl.seed-3.h5")
    return tmp_path / "full-rl.seed-3.h5"


@pytest.mark.parametrize(
    ("dataset", "where", "read"),
    [
        ("scores/score", "/scores/score", lambda run: run.scores()),
        ("scores/benchmark", "/scores/benchmark", lambda run: run.scores_by_item()),
        ("item", "/item", lambda run: run.scores_by_item()),
        ("training/loss", "/training/loss", lambda run: run.training()),
        ("parameters/norm", "/parameters/norm", lambda run: run.delta_norms()),
        ("probe/text", "/probe/text", lambda run: run.probe()),
        ("deltas/0/attn.q.weight", "deltas/0", lambda run: run.deltas.exact(0)),
        ("repairs/0/attn.q.weight/value", "deltas/0", lambda run: run.deltas.exact(0)),
    ],
)
def test_one_wrong_bit_in_a_dataset_is_found_and_located(
    path: Path, dataset: str, where: str, read: Callable[[Run], object]
) -> None:
    with h5py.File(path) as file:
        node = file[dataset].id
        offset = node.get_offset() if node.get_offset() is not None else node.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with Run(path) as run, pytest.raises(StoreError) as caught:
        read(run)
    assert str(caught.value).startswith(f"{path} is damaged at {where} (")
    assert str(caught.value).endswith("delete it and run again")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Damaged, match=r"full-rl\.seed-3\.h5 is damaged or not an HDF5 file"):
        Run(path)


def test_a_file_that_lost_its_seal_is_refused(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(Unfinished, match=r"full-rl\.seed-3\.h5 has no seal: its writing did not end, or another"):
        Run(path)


def test_a_byte_of_the_structure_is_missed_before_hdf5_reads_it(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"fingerprint")] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"full-rl\.seed-3\.h5 is damaged in its structure"):
        Run(path)


def test_what_is_no_run_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StoreError, match=r"text\.h5 is no HDF5 file$"):
        Run(tmp_path / "text.h5")
    with pytest.raises(StoreError, match=r"no file at .*absent\.h5"):
        Run(tmp_path / "absent.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = "other"
    with pytest.raises(StoreError, match=r"other\.h5 is not a lensrl-run file \(its format attribute is 'other'\)"):
        Run(tmp_path / "other.h5")


def test_a_newer_format_asks_for_an_upgrade(path: Path) -> None:
    with resealed(path) as file:
        file.attrs["format_version"] = 99
    with pytest.raises(StoreError, match=r"has format version 99; this lensrl reads up to \d+: upgrade lensrl"):
        Run(path)


def test_a_header_without_a_field_is_damaged(path: Path) -> None:
    with resealed(path) as file:
        del file.attrs["fingerprint"]
    with pytest.raises(StoreError, match=r"full-rl\.seed-3\.h5 is damaged .*fingerprint"):
        Run(path)

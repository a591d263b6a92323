"""Writing HDF5: what happens when a signal comes in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lensrl.store.file import hdf5
from lensrl.store.file.atomic import new_file
from lensrl.store.file.hdf5 import axis, create, create_file


def make(path: Path) -> None:
    with new_file(path) as partial, create_file(partial) as file:
        for k in range(3):
            group = file.require_group(f"part-{k}")
            axis(group, "row", 100 + k)
            create(group, "values", np.arange(100 + k, dtype=np.float32), ["row"])


class Writes:
    """Counts the writes of HDF5, and sends a signal in one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.number = 0, 0, signal.SIGTERM
        original = hdf5._Disk.write

        def write(disk: Any, data: Any) -> int:
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), self.number)
                for _ in range(3):
                    pass  # Python runs the handler here
            return original(disk, data)

        monkeypatch.setattr(hdf5._Disk, "write", write)


@pytest.fixture
def stopping() -> Iterator[None]:
    """Handlers that raise, as those of a worker do. SIGINT is ignored in what a shell starts in the background."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("stopping")
def test_a_signal_in_any_write_ends_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """HDF5 drops what a handler raises in a write. The file had its name then, without this write."""
    writes, path = Writes(monkeypatch), tmp_path / "run.h5"
    make(path)
    total = writes.count
    assert total > 10
    path.unlink()
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    for writes.at in range(1, total + 1):
        writes.count, writes.number = 0, number
        with pytest.raises(KeyboardInterrupt):
            make(path)
        assert not [*tmp_path.iterdir()]
        assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.usefixtures("stopping")
def test_a_signal_whose_handler_goes_on_leaves_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    writes, path = Writes(monkeypatch), tmp_path / "run.h5"
    writes.at = 5
    make(path)
    assert seen == [signal.SIGTERM]
    with h5py.File(path) as file:
        for k in range(3):
            np.testing.assert_array_equal(file[f"part-{k}/values"][()], np.arange(100 + k))  # pyright: ignore
            np.testing.assert_array_equal(file[f"part-{k}/row"][()], np.arange(100 + k))  # pyright: ignore


def test_an_error_of_python_in_a_write_is_raised_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MemoryError):
        make(tmp_path / "run.h5")
    assert not [*tmp_path.iterdir()]

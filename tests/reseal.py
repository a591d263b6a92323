"""Changing a finished file, as somebody who forges one would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from lensrl.store.file.checked import attribute
from lensrl.store.file.seal import read_seal, write_seal


@contextmanager
def resealed(path: Path) -> Iterator[h5py.File]:
    """The file, opened for changes; when the block ends it gets a seal that holds."""
    seal = read_seal(path)
    assert seal is not None
    os.truncate(path, seal.size)
    with h5py.File(path, "r+") as file:
        yield file
        format, version = str(attribute(file, "format")), int(attribute(file, "format_version"))
    write_seal(path, format, version)

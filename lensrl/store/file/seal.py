"""The seal: the last lines of a file, with the sha256 of all of its bytes.

HDF5 reads a file up to the length in its superblock and ignores the bytes after it. The seal follows there. It is one
line of JSON, and a last line with the length and the sha256 of the JSON. The JSON holds

- for every dataset: the ranges of the file in which its bytes lie, and the sha256 of these bytes;
- for all other bytes, the structure (headers, names, attributes, indices): their sha256.

Consequences:

- The seal covers every byte of the file. Damage is found, and the damaged dataset named, without HDF5.
- The structure is checked whenever a file is opened, before the HDF5 library parses it.
- A program that changes the file later breaks the seal.

A seal finds accidents. It is no signature: a person who forges a file can seal the file, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import h5py

from lensrl.errors import Damaged

PIECE = 1 << 20  # bytes read and hashed at a time

_LAST_LINE = re.compile(rb"\nlensrl-seal (\d{12}) ([0-9a-f]{64})\n")
_LAST_BYTES = 91  # the last line of 90 bytes, and the line break before it

Ranges = tuple[tuple[int, int], ...]  # (offset, bytes)


@dataclass(frozen=True)
class Extent:
    """The ranges of the file in which the bytes of a dataset lie, in order, and the sha256 of the bytes."""

    ranges: Ranges
    sha256: str


@dataclass(frozen=True)
class Seal:
    """The contents of a seal."""

    format: str
    format_version: int
    size: int  # bytes of the HDF5 data, without the seal
    structure: str  # sha256 of all bytes that belong to no dataset
    datasets: Mapping[str, Extent]

    def gaps(self) -> Ranges:
        """Return the ranges that belong to no dataset: the structure."""
        taken = sorted(r for extent in self.datasets.values() for r in extent.ranges)
        edges = [(0, 0), *taken, (self.size, 0)]
        return tuple((a + n, b - a - n) for (a, n), (b, _) in pairwise(edges) if b > a + n)


def write_seal(path: Path, format: str, version: int, known: Mapping[str, str] | None = None) -> None:
    """Append the seal to a finished HDF5 file.

    `known` maps the name of a dataset to its sha256, where the writer has computed it already; the other datasets are
    read and hashed. Raises Damaged when the disk gives another seal back than was written.
    """
    # Where each dataset lies in the file.
    found: dict[str, Ranges] = {}
    with h5py.File(path, "r", locking=False) as file:
        file.visititems(
            lambda name, node: found.update({name: _ranges(node)}) if isinstance(node, h5py.Dataset) else None
        )
    # The hash of each dataset, then of all other bytes.
    with _descriptor(path) as file:
        known = known or {}
        datasets = {
            name: Extent(ranges, known[name] if name in known else _digest(file, ranges))
            for name, ranges in found.items()
            if ranges
        }
        unsealed = Seal(format, version, os.fstat(file).st_size, "", datasets)
        seal = replace(unsealed, structure=_digest(file, unsealed.gaps()))
    # The seal goes behind the data, and is read back.
    text = json.dumps(
        {
            "format": format,
            "format_version": version,
            "size": seal.size,
            "structure": seal.structure,
            "datasets": {name: {"sha256": e.sha256, "ranges": e.ranges} for name, e in datasets.items()},
        }
    ).encode()
    with path.open("ab") as out:
        out.write(b"%s\nlensrl-seal %012d %s\n" % (text, len(text), hashlib.sha256(text).hexdigest().encode()))
    if read_seal(path) != seal:
        raise Damaged(f"{path} is damaged in its seal: what the disk gives back is not what was written")


def read_seal(path: Path, descriptor: int | None = None) -> Seal | None:
    """Read the seal of a file. Returns None when the file has none.

    With a `descriptor`, the seal of this open file is read, even if another file is at `path` by now. Raises Damaged
    when the seal does not agree with its last line, with the length of the file, or with the form of a seal.
    """
    with _descriptor(path if descriptor is None else descriptor) as file:
        length = os.fstat(file).st_size
        last = _LAST_LINE.fullmatch(os.pread(file, _LAST_BYTES, max(0, length - _LAST_BYTES)))
        if last is None:
            return None
        size = length - _LAST_BYTES - int(last[1])
        text = os.pread(file, int(last[1]), size) if size > 0 else b""
    if hashlib.sha256(text).hexdigest() != last[2].decode():
        raise Damaged(f"{path} is damaged in its seal")
    try:
        raw = json.loads(text)
        datasets = {
            str(name): Extent(tuple((int(a), int(n)) for a, n in entry["ranges"]), str(entry["sha256"]))
            for name, entry in raw["datasets"].items()
        }
        seal = Seal(str(raw["format"]), int(raw["format_version"]), int(raw["size"]), str(raw["structure"]), datasets)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise Damaged(f"{path} is damaged: its seal has another form than format version 2 gives it") from None
    if seal.size != size or not _disjoint(seal):
        raise Damaged(f"{path} is damaged: its seal is of a file of another length")
    return seal


def structure_holds(path: Path, seal: Seal) -> bool:
    """Return whether all bytes that belong to no dataset are as they were written."""
    with _descriptor(path) as file:
        return _digest(file, seal.gaps()) == seal.structure


def dataset_holds(file: Path | int, extent: Extent) -> bool:
    """Return whether the bytes of one dataset are as they were written. `file` is a path or an open descriptor."""
    with _descriptor(file) as file:
        return _digest(file, extent.ranges) == extent.sha256


def damaged_datasets(path: Path, seal: Seal) -> list[str]:
    """Return the names of the datasets whose bytes are not as they were written. All cores hash."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        holds = pool.map(lambda extent: dataset_holds(path, extent), seal.datasets.values())
        return [name for name, fine in zip(seal.datasets, holds, strict=True) if not fine]


def _ranges(dataset: h5py.Dataset) -> Ranges:
    """Return the ranges in which the bytes of a dataset lie. Chunks that follow each other become one range."""
    found: list[tuple[int, int]] = []
    if dataset.chunks is not None:
        dataset.id.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.size)))
    elif (offset := dataset.id.get_offset()) is not None:
        found.append((offset, dataset.id.get_storage_size()))
    joined: list[tuple[int, int]] = []
    for start, length in found:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return tuple(joined)


def _disjoint(seal: Seal) -> bool:
    """Return whether the ranges of all datasets lie inside the HDF5 data, and no two of them overlap."""
    taken = sorted(r for extent in seal.datasets.values() for r in extent.ranges)
    edges = [(0, 0), *taken, (seal.size, 0)]
    return all(n >= 0 and a + n <= b for (a, n), (b, _) in pairwise(edges))


def _digest(file: int, ranges: Iterable[tuple[int, int]]) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(file, ranges):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(file: int, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    for start, length in ranges:
        for offset in range(start, start + length, PIECE):
            yield os.pread(file, min(PIECE, start + length - offset), offset)


@contextmanager
def _descriptor(path: Path | int) -> Iterator[int]:
    if isinstance(path, int):
        yield path
        return
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe does not wait; reading it fails
    try:
        yield file
    finally:
        os.close(file)

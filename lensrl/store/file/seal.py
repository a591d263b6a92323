"""The seal: the end of a file says what all of its bytes must be.

HDF5 reads a file up to the length that its superblock gives and does not mind what follows. There, after the HDF5
data, stands the seal: a line of JSON with the sha256 of every dataset's bytes, where in the file they lie, and the
sha256 of all the rest (the structure: headers, names, attributes, indices); then a last line with the length and the
sha256 of the JSON. So

- every single byte of a file is covered, and damage is found and named without HDF5 having to read it;
- the structure is checked whenever a file is opened, before the HDF5 library parses it;
- a program that changes the file afterwards breaks the seal.

A seal is against accidents. It is no signature: whoever forges a file can seal it too.
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
_LAST_BYTES = 91  # with the end of the line before

Ranges = tuple[tuple[int, int], ...]  # (offset, bytes)


@dataclass(frozen=True)
class Extent:
    """Where a dataset's bytes lie in the file, in their order, and the sha256 of them."""

    ranges: Ranges
    sha256: str


@dataclass(frozen=True)
class Seal:
    """What a file's seal says. `size` is the length of the HDF5 data, without the seal."""

    format: str
    format_version: int
    size: int
    structure: str
    datasets: Mapping[str, Extent]

    def gaps(self) -> Ranges:
        """The ranges that belong to no dataset: the structure."""
        taken = sorted(r for extent in self.datasets.values() for r in extent.ranges)
        edges = [(0, 0), *taken, (self.size, 0)]
        return tuple((a + n, b - a - n) for (a, n), (b, _) in pairwise(edges) if b > a + n)


def write_seal(path: Path, format: str, version: int, known: Mapping[str, str] | None = None) -> None:
    """Append the seal to a finished HDF5 file. `known` are digests computed while the datasets were written.

    Raises Damaged when the seal that the disk gives back is another.
    """
    found: dict[str, Ranges] = {}
    with h5py.File(path, "r", locking=False) as file:
        file.visititems(
            lambda name, node: found.update({name: _ranges(node)}) if isinstance(node, h5py.Dataset) else None
        )
    with _descriptor(path) as file:
        known = known or {}
        datasets = {
            name: Extent(ranges, known[name] if name in known else _digest(file, ranges))
            for name, ranges in found.items()
            if ranges
        }
        unsealed = Seal(format, version, os.fstat(file).st_size, "", datasets)
        seal = replace(unsealed, structure=_digest(file, unsealed.gaps()))
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
    """The seal of a file, or None when it has none. Raises Damaged when what stands there is not a seal.

    With a `descriptor`, that of the file which is open, whatever is at `path` by now.
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
    """Whether everything but the datasets' own bytes is as it was written."""
    with _descriptor(path) as file:
        return _digest(file, seal.gaps()) == seal.structure


def dataset_holds(file: Path | int, extent: Extent) -> bool:
    """Whether one dataset's bytes are as they were written, in the file at a path or in an open one."""
    with _descriptor(file) as file:
        return _digest(file, extent.ranges) == extent.sha256


def damaged_datasets(path: Path, seal: Seal) -> list[str]:
    """The names of the datasets whose bytes are not as they were written, hashed on all cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        holds = pool.map(lambda extent: dataset_holds(path, extent), seal.datasets.values())
        return [name for name, fine in zip(seal.datasets, holds, strict=True) if not fine]


def _ranges(dataset: h5py.Dataset) -> Ranges:
    """Where the bytes of a dataset lie, neighbouring chunks joined."""
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
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is refused when it is read, not waited for
    try:
        yield file
    finally:
        os.close(file)

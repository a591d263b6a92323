"""Write the weight deltas of a model block by block, and read them back exactly.

Deltas are most of a run file. Each delta lies in the file in one piece (contiguous), unless the recipe asks for
compression. Reading it is then as fast as the disk.

HDF5 first gives every delta its place in the file. Then each core takes one parameter at a time and goes through it
block by block: subtract, write into place, read back, compare, hash. Only blocks of about 1 MiB are held in memory,
however large the model is.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Float32, Int64

from lensrl.errors import StoreError
from lensrl.store.file.checked import dataset_at, has, read_array
from lensrl.store.file.exact import Delta, Scratch, count_changed, flat, same_bits, subtract
from lensrl.store.file.hdf5 import CHUNK_BYTES, Compression, axis, chunk_shape, create, create_contiguous, create_empty
from lensrl.store.file.seal import Seal, dataset_holds

THREADS = min(8, os.cpu_count() or 1)
SYNCED = 32 << 20  # bytes between two syncs; a thread of its own syncs while the others go on
ROW = 1 << 10  # entries whose squares are summed in fp32; float64 sums the rows. BLAS starts no threads for so few
SAFE = 1e-24  # below this, a row's fp32 sum of squares may have lost 1e-7 of itself to underflow: recompute in float64

Weights = Mapping[str, Float32[np.ndarray, "..."]]


class Parameter(NamedTuple):
    """A parameter of the base: its place in the model, its number of entries, its Frobenius norm."""

    name: str
    part: str  # "0" ... "n-1", embed, final_norm, lm_head
    inner: str  # its name inside its layer; its full name outside the layers
    component: str  # attn, mlp, norm; empty outside the layers
    size: int
    norm: float


class Change(NamedTuple):
    """How far a parameter moved: the Frobenius norm of its delta, and the number of entries of which a bit changed."""

    norm: float
    changed: int


class _Written(NamedTuple):
    change: Change
    where: Int64[np.ndarray, " repair"]
    value: Float32[np.ndarray, " repair"]
    digest: str | None  # sha256 of the delta; None where it is in chunks


def write_deltas(
    root: h5py.Group,
    path: Path,
    parameters: Sequence[Parameter],
    before: Weights,
    after: Weights,
    compression: Compression,
) -> tuple[list[Change], dict[str, str]]:
    """Write the groups `deltas` and `repairs` below `root`, a group of the open file at `path`.

    A parameter that did not change takes no space. Returns one Change per parameter, and a dict of dataset name ->
    sha256 for the deltas that lie in one piece. Raises StoreError when weights are not finite, or when the disk gives
    other bytes back than were written.
    """
    # HDF5 makes every dataset first, so that the threads below need no HDF5 to write into their places.
    deltas = root.create_group("deltas")
    moved = [p for p in parameters if not unchanged(before[p.name], after[p.name])]
    datasets = [_create(deltas, parameter, before[parameter.name].shape, compression) for parameter in moved]
    with _Place(path) as place, ThreadPoolExecutor(THREADS) as pool:
        place.reserve([extent for dataset in datasets if (extent := _extent(dataset))])

        def write(parameter: Parameter, dataset: h5py.Dataset) -> _Written:
            return _write_delta(place, dataset, parameter.name, before[parameter.name], after[parameter.name])

        written = dict(zip((p.name for p in moved), pool.map(write, moved, datasets), strict=True))
    # Repairs are few: HDF5 writes them, after the threads have found them.
    for parameter in moved:
        _, where, value, _ = written[parameter.name]
        if where.size:
            repairs = root.require_group(f"repairs/{parameter.part}/{parameter.inner}")
            axis(repairs, "repair", where.size)
            create(repairs, "where", where, ["repair"])
            create(repairs, "value", value, ["repair"])
    changes = [written[p.name].change if p.name in written else Change(0.0, 0) for p in parameters]
    digests = {
        str(dataset.name).lstrip("/"): digest
        for parameter, dataset in zip(moved, datasets, strict=True)
        if (digest := written[parameter.name].digest) is not None
    }
    return changes, digests


def measure_changes(parameters: Sequence[Parameter], before: Weights, after: Weights) -> list[Change]:
    """Return the Change of every parameter, as `write_deltas` does, and keep no delta."""

    def measure(parameter: Parameter) -> Change:
        one, other = before[parameter.name], after[parameter.name]
        if unchanged(one, other):
            return Change(0.0, 0)
        scratch, square, changed = Scratch(CHUNK_BYTES // other.itemsize), 0.0, 0
        for block in _blocks(one, other):
            try:
                square += sum_of_squares(subtract(block.before, block.after, scratch).delta)
            except StoreError as error:
                raise StoreError(f"{parameter.name}: {error}") from None
            changed += count_changed(block.before, block.after, scratch)
        return Change(math.sqrt(square), changed)

    with ThreadPoolExecutor(THREADS) as pool:
        return [*pool.map(measure, parameters)]


def _create(deltas: h5py.Group, parameter: Parameter, shape: tuple[int, ...], compression: Compression) -> h5py.Dataset:
    axes, group, dtype = _axes(deltas, shape), deltas.require_group(parameter.part), np.dtype(np.float32)
    if compression == "none" and shape:  # HDF5 gives a single number its place only when it is written
        dataset = create_contiguous(group, parameter.inner, shape, dtype, axes)
    else:
        dataset = create_empty(group, parameter.inner, shape, dtype, axes=axes, compression=compression)
    dataset.attrs["parameter"] = parameter.name
    return dataset


def _extent(dataset: h5py.Dataset) -> tuple[int, int] | None:
    """Return where in the file a dataset begins and ends; None where it does not lie in one piece."""
    if dataset.chunks is not None or not dataset.shape:
        return None
    offset = dataset.id.get_offset()
    return offset, offset + dataset.nbytes


def _write_delta(place: _Place, dataset: h5py.Dataset, name: str, before: np.ndarray, after: np.ndarray) -> _Written:
    """Write one delta block by block, each block read back and compared with the memory that it was written from."""
    extent = _extent(dataset)
    scratch, digest = Scratch(CHUNK_BYTES // after.itemsize), hashlib.sha256()
    square, changed, where, value = 0.0, 0, [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for block in _blocks(before, after):
        try:
            change = subtract(block.before, block.after, scratch)
        except StoreError as error:
            raise StoreError(f"{name}: {error}") from None
        # Write the block, and have the disk give it back: in one piece by the system, in chunks by HDF5.
        if extent is not None:
            begin = extent[0] + change.delta.itemsize * block.start
            place.write(change.delta, begin)
            stored = place.read_back(scratch.total[: change.delta.size], begin)
            digest.update(stored.data)
        else:
            dataset[block.selection] = change.delta.reshape([s.stop - s.start for s in block.selection])
            stored = np.asarray(dataset[block.selection]).reshape(-1)
        if not same_bits(stored, change.delta, scratch):
            raise StoreError(f"{name}: what the disk gives back is not what was written; the run is not kept")
        # Only now count the block.
        changed += count_changed(block.before, block.after, scratch)
        square += sum_of_squares(change.delta)
        if change.where.size:
            where.append(change.where + block.start)
            value.append(change.value)
    sha256 = None if extent is None else digest.hexdigest()
    return _Written(Change(math.sqrt(square), changed), np.concatenate(where), np.concatenate(value), sha256)


class _Place:
    """A file in which HDF5 has laid out the deltas, opened once more to write their bytes.

    A thread syncs every 32 MiB, so that the disk works while more is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._unsynced = 0
        self._syncs: list[Future[None]] = []

    def __enter__(self) -> _Place:
        self._file = os.open(self._path, os.O_RDWR)
        self._disk = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._disk.shutdown()
        os.close(self._file)
        for sync in self._syncs:
            sync.result()  # the system reports an error of the disk to one sync only: ask each of them

    def reserve(self, extents: Sequence[tuple[int, int]]) -> None:
        """Allocate the disk space from the first extent to the last.

        Writing is then a third faster, and a full disk raises OSError before anything is written.
        """
        if extents and hasattr(os, "posix_fallocate"):
            begin, end = min(begin for begin, _ in extents), max(end for _, end in extents)
            os.posix_fallocate(self._file, begin, end - begin)

    def write(self, data: np.ndarray, offset: int) -> None:
        """Write the bytes of an array at `offset`."""
        rest = data.data.cast("B")
        while rest:
            written = os.pwrite(self._file, rest, offset)
            rest, offset = rest[written:], offset + written
        with self._lock:
            self._unsynced += data.nbytes
            if self._unsynced >= SYNCED:
                self._unsynced = 0
                self._syncs.append(self._disk.submit(os.fdatasync, self._file))

    def read_back(self, into: np.ndarray, offset: int) -> np.ndarray:
        """Read from `offset` into an array. Returns the part of the array that the file could fill."""
        return into[: os.preadv(self._file, [into.data], offset) // into.itemsize]


def read_delta(root: h5py.Group, part: str, inner: str, seal: Seal | None = None) -> Delta:
    """Read a stored delta with its repairs.

    Raises ValueError when the sha256 of the delta is not the one in `seal`, and when the repairs do not fit the delta.
    Raises KeyError when there is no such delta.
    """
    dataset = dataset_at(root, f"deltas/{part}/{inner}")
    extent = None if seal is None else seal.datasets.get(str(dataset.name).lstrip("/"))
    if extent is not None and not dataset_holds(dataset.file.id.get_vfd_handle(), extent):
        raise ValueError(f"its sha256 is not that of {dataset.name}")
    repairs = f"repairs/{part}/{inner}"
    where, value = (
        (read_array(root, f"{repairs}/where"), read_array(root, f"{repairs}/value"))
        if has(root, repairs)
        else (np.empty(0, np.int64), np.empty(0, np.float32))
    )
    if where.shape != value.shape or (where.size and not (where.min() >= 0 and where.max() < dataset.size)):
        raise ValueError(f"{repairs} does not fit {dataset.name}")
    return Delta(dataset[...], where, value)


def frobenius(array: Float32[np.ndarray, "..."]) -> float:
    """Return the Frobenius norm, with a relative error of about 1e-7 at most."""
    return math.sqrt(sum_of_squares(flat(array)))


def sum_of_squares(array: Float32[np.ndarray, " entry"]) -> float:
    """Return the sum of squares, with a relative error of about 1e-7 at most.

    Rows of 1,024 entries are summed in fp32, which is five times as fast as float64. A row whose squares leave the
    range of fp32 is summed again in float64.
    """
    whole = array.size // ROW * ROW
    rows = array[:whole].reshape(-1, 1, ROW)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.matmul(rows, rows.transpose(0, 2, 1)).reshape(-1)
    safe = (sums > SAFE) & (sums < np.inf)
    total = float(sums.sum(where=safe, dtype=np.float64))
    for piece in (rows[~safe], array[whole:]):
        exact = piece.astype(np.float64).reshape(-1)
        total += float(exact @ exact)
    return total


def unchanged(before: Float32[np.ndarray, "..."], after: Float32[np.ndarray, "..."]) -> bool:
    """Return whether two arrays agree in every bit. The comparison stops at the first block that differs."""
    return before is after or all(same_bits(block.before, block.after) for block in _blocks(before, after))


class _Block(NamedTuple):
    """The same entries of two arrays, contiguous in row-major order."""

    start: int  # of the flat arrays
    stop: int
    selection: tuple[slice, ...]  # the same entries in the arrays' own shape
    before: np.ndarray  # flat
    after: np.ndarray  # flat


def _blocks(before: np.ndarray, after: np.ndarray) -> Iterator[_Block]:
    """Yield two arrays of one shape in blocks that are the chunks of an HDF5 dataset of this shape."""
    flat_before, flat_after = flat(before), flat(after)
    chunk = chunk_shape(after.shape, after.itemsize) if after.size else (1,) * after.ndim
    stop = 0
    for corner in np.ndindex(*(-(-n // c) for n, c in zip(after.shape, chunk, strict=True))):
        edges = zip(corner, chunk, after.shape, strict=True)
        selection = tuple(slice(i * c, min(n, (i + 1) * c)) for i, c, n in edges)
        start, stop = stop, stop + math.prod(s.stop - s.start for s in selection)
        yield _Block(start, stop, selection, flat_before[start:stop], flat_after[start:stop])


def _axes(deltas: h5py.Group, shape: tuple[int, ...]) -> list[str]:
    """Make the axes of a weight of this shape in `deltas`, unless they exist. Returns their names."""
    kinds = {1: ["entry"], 2: ["row", "column"]}.get(len(shape)) or [f"axis{i}" for i in range(len(shape))]
    names = [f"{kind}_{length}" for kind, length in zip(kinds, shape, strict=True)]
    for name, length in zip(names, shape, strict=True):
        axis(deltas, name, length)
    return names

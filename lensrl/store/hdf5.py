"""The few HDF5 habits that every lensrl file shares: one way to open, one way to reach a dataset, labelled axes.

An axis is a dimension scale, at the file's root or in the group that it is for, so that a viewer (or xarray through
h5netcdf) shows names instead of numbers. Strings are fixed-length UTF-8. Tables are chunked, with a fletcher32 checksum
that HDF5 checks on reading.

A file may come from anywhere, so nothing in it is followed out of it (links, external storage, virtual datasets), no
object is unpickled, and what a dataset declares is compared with what is stored before memory is asked for.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from lensrl.errors import Damaged, LensrlError, StoreError, TooNew, Unfinished, reason
from lensrl.store.seal import read_seal, structure_holds

CHUNK_BYTES = 1 << 20
ALIGNED_FROM = 1 << 16  # bytes: what is larger begins on a page
PAGE = 1 << 12
LARGEST_CHUNK = 16 << 20  # bytes; what a reader accepts
SEALED_SINCE = 2  # format version
ATTEMPTS = 10  # to open a file that is being replaced
# What h5py raises on a file with wrong bytes in it, and NumPy and pandas on tables that do not fit together.
DAMAGE = (OSError, KeyError, OverflowError, RuntimeError, ValueError, TypeError)

Compression = Literal["none", "blosc2-zstd"]
_BLOSC2 = 32026  # registered number of the HDF5 filter
_LEAST_BLOSC2 = 32  # bytes of a compressed chunk: its header


def open_for_reading(path: Path, expected: str, version: int) -> h5py.File:
    """Open a lensrl file: check its seal and structure, and what it says it is.

    Raises Damaged, Unfinished or TooNew (all StoreError) with the file and what to do. No lock is taken: files are
    written once, and a lock would only get in the way of other readers.
    """
    for _ in range(ATTEMPTS):
        before = _identity(path)
        try:
            file = _open_checked(path, expected, version)
        except StoreError:
            if _identity(path) == before:
                raise
        else:
            now = os.fstat(file.id.get_vfd_handle())
            if (now.st_dev, now.st_ino, now.st_mtime_ns) == before:
                return file
            file.close()  # it was replaced meanwhile: what was checked is not what was opened
    raise StoreError(f"{path} is replaced faster than it can be opened: who writes it?")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:  # which opening it tells better
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _open_checked(path: Path, expected: str, version: int) -> h5py.File:
    try:
        seal = read_seal(path)
        if seal is not None:
            _check_kind(path, seal.format, seal.format_version, expected, version)
            if not structure_holds(path, seal):
                raise Damaged(f"{path} is damaged in its structure; delete it and run again")
        file = _open(path)
        try:
            found, found_version = (
                attribute(file, n) if n in file.attrs else None for n in ("format", "format_version")
            )
            _check_kind(path, found, found_version, expected, version)
            if seal is None and int(found_version or 0) >= SEALED_SINCE:
                raise Unfinished(
                    f"{path} has no seal: its writing did not end, or another program changed it; delete it and run "
                    f"again"
                )
        except BaseException:
            file.close()
            raise
    except FileNotFoundError:
        raise StoreError(f"no file at {path}") from None
    except PermissionError as error:
        raise StoreError(f"{path} cannot be opened ({error.strerror})") from None
    except DAMAGE as error:
        raise Damaged(f"{path} is damaged or not an HDF5 file ({reason(error)}); delete it and run again") from None
    return file


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")  # this process has it open already, by h5py or xarray, and HDF5 wants both alike


def _check_kind(path: Path, found: Any, found_version: Any, expected: str, version: int) -> None:
    if found != expected:
        raise StoreError(f"{path} is not a {expected} file (its format attribute is {found!r})")
    if not isinstance(found_version, int | np.integer) or found_version < 1:
        raise Damaged(f"{path} is damaged: its format version is {found_version!r}")
    if found_version > version:
        raise TooNew(f"{path} has format version {found_version}; this lensrl reads up to {version}: upgrade lensrl")


@contextmanager
def create_file(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file to write. Raises OSError when the block ends and the disk had said no."""
    path.touch()
    with _Disk(path, "r+") as disk:  # not "w+": ext4 flushes a file that was truncated when it is closed, and we wait
        with h5py.File(disk, "w", alignment_threshold=ALIGNED_FROM, alignment_interval=PAGE) as file:
            yield file
        if disk.refusal is not None:
            raise disk.refusal


class _Disk(io.FileIO):
    """A file that keeps the disk's first refusal for later: HDF5 crashes the process after a failed write."""

    refusal: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self.refusal is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.refusal = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.refusal is None else 0
        except OSError as error:
            self.refusal = error
            return 0


def axis(group: h5py.Group, name: str, labels: Sequence[Any] | np.ndarray | int) -> None:
    """Make the axis `name` with the given labels, or with 0, 1, ... for a length, for all that is below `group`."""
    if name not in group:
        values = np.arange(labels, dtype=np.int32) if isinstance(labels, int) else labels
        dataset = create(group, name, values)
        dataset.make_scale(name)


def create(
    group: h5py.Group, name: str, data: Any, axes: Sequence[str] = (), compression: Compression = "none"
) -> h5py.Dataset:
    """Write a dataset with checksum, chunks of about a MiB, and the named axes attached."""
    array = encode_strings(data)
    made = create_empty(group, name, array.shape, array.dtype, axes, compression)
    if array.size:
        made[...] = array
    return made


def create_empty(
    group: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    axes: Sequence[str],
    compression: Compression = "none",
) -> h5py.Dataset:
    """A dataset to be written in chunks of `chunk_shape`, with checksums; a single number has neither."""
    filters: dict[str, Any] = {}
    if math.prod(shape) and shape:
        filters = {"chunks": chunk_shape(shape, dtype.itemsize), "fletcher32": True, "fill_time": "never"}
        if compression == "blosc2-zstd":
            filters |= compression_plugin().Blosc2("zstd", filters=compression_plugin().Blosc2.BITSHUFFLE)
    made = group.create_dataset(name, shape, dtype, track_times=False, **filters)
    attach(made, axes)
    return made


def create_contiguous(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype, axes: Sequence[str]
) -> h5py.Dataset:
    """A dataset whose place in the file (`dataset.id.get_offset()`) is settled and still to be written."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    made = group.create_dataset(name, shape, dtype, dcpl=plan, track_times=False)
    attach(made, axes)
    return made


def attach(dataset: h5py.Dataset, axes: Sequence[str]) -> None:
    """Name the dimensions of a dataset: each after the axis in the nearest group above it, as in netCDF."""
    for dimension, name in enumerate(axes):
        group: Any = dataset.parent
        while name not in group and group.name != "/":
            group = group.parent
        dataset.dims[dimension].attach_scale(group[name])


def axis_names(dataset: h5py.Dataset) -> list[str]:
    """The axis of each dimension; empty where there is none."""
    return [str(scales[0].name).rpartition("/")[2] if len(scales) else "" for scales in dataset.dims]


def encode_strings(data: Any) -> np.ndarray:
    """Arrays as they are; a sequence of str as fixed-length UTF-8."""
    array = np.asarray(data)
    if array.dtype.kind not in "UO":
        return array
    raw = [str(text).encode() for text in array.tolist()]
    return np.array(raw, dtype=h5py.string_dtype("utf-8", max([1, *map(len, raw)])))


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Whole trailing axes, and as much of the axis before them as fits: chunks are runs of the row-major array."""
    chunk: list[int] = []
    row = itemsize * math.prod(shape)
    for length in shape:
        row //= length
        chunk.append(max(1, min(length, CHUNK_BYTES // row)))
    return tuple(chunk)


def node_at(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """What is at `name` below `parent`, in this very file. Raises KeyError when there is nothing of ours."""
    node: Any = parent
    for part in filter(None, name.split("/")):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise KeyError(f"there is no {name}")
        if not isinstance(link, h5py.HardLink):
            raise KeyError(f"{name} is a link, and links are not followed")
        node = node[part]
    if isinstance(node, h5py.Dataset):
        check_dataset(node)
    elif not isinstance(node, h5py.Group):
        raise KeyError(f"{name} is neither a group nor a dataset")
    return node


def has(parent: h5py.Group, name: str) -> bool:
    """Whether there is anything at `name`, not asking where links lead."""
    node: Any = parent
    for part in filter(None, name.split("/")):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            return False
        node = node[part]
    return True


def group_at(parent: h5py.Group, name: str) -> h5py.Group:
    """The group at `name`. Raises KeyError when there is none."""
    found = node_at(parent, name)
    if not isinstance(found, h5py.Group):
        raise KeyError(f"{name} is not a group")
    return found


def dataset_at(parent: h5py.Group, name: str) -> h5py.Dataset:
    """The dataset at `name`, unread. Raises KeyError when there is none."""
    found = node_at(parent, name)
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{name} is not a dataset")
    return found


def check_dataset(dataset: h5py.Dataset) -> None:
    """Raises ValueError for what no lensrl file holds, and where more is declared than stored."""
    kind, itemsize = dataset.dtype.kind, dataset.dtype.itemsize
    if kind not in "iufS":
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, not numbers or fixed-length strings")
    plan = dataset.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        raise ValueError(f"{dataset.name} is stored outside the file")
    declared, stored = itemsize * math.prod(dataset.shape), dataset.id.get_storage_size()
    if declared == 0:
        return
    if dataset.chunks is None:
        fine = stored == declared
    else:
        count = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        fine = dataset.id.get_num_chunks() == count and itemsize * math.prod(dataset.chunks) <= LARGEST_CHUNK
        if any(plan.get_filter(i)[0] == _BLOSC2 for i in range(plan.get_nfilters())):
            compression_plugin()
            fine = fine and stored >= count * _LEAST_BLOSC2
        else:
            fine = fine and stored >= declared
    if not fine:
        raise ValueError(f"{dataset.name} declares {declared} bytes of shape {dataset.shape} and stores {stored}")


def members(group: h5py.Group) -> list[str]:
    """The names in a group."""
    return [str(name) for name in group]


def read_array(parent: h5py.Group, name: str) -> np.ndarray:
    """A whole dataset. HDF5 checks the checksum of a chunked one and raises OSError when it is damaged."""
    return dataset_at(parent, name)[...]


def read_strings(parent: h5py.Group, name: str) -> list[str]:
    """A whole dataset of fixed-length UTF-8 strings."""
    found = read_array(parent, name)
    if found.dtype.kind != "S" or found.ndim != 1:
        raise ValueError(f"{name} holds {found.dtype} of shape {found.shape}, not texts in a row")
    return [raw.decode() for raw in found.tolist()]


def attribute(node: h5py.Group | h5py.Dataset, name: str) -> Any:
    """An attribute: str, a NumPy number, or a short array of numbers. Raises KeyError when there is none."""
    kind = node.attrs.get_id(name)
    text = h5py.check_string_dtype(kind.dtype) is not None
    if not (text or kind.dtype.kind in "iuf") or len(kind.shape) > 1 or math.prod(kind.shape) > CHUNK_BYTES:
        raise ValueError(f"attribute {name} is no text and no number")
    return node.attrs[name]


@contextmanager
def located(node: h5py.Group | h5py.Dataset, where: str) -> Iterator[None]:
    """Say which file is damaged, and where, when h5py stumbles over what is at `node` or below it."""
    if not node:
        raise LensrlError("the run is closed: open it again with lensrl.open_run or lensrl.open_study")
    try:
        yield
    except DAMAGE as error:
        path = node.file.filename
        raise Damaged(f"{path} is damaged at {where} ({reason(error)}); delete it and run again") from None


def check_tree(group: h5py.Group) -> list[str]:
    """Look at everything below `group`, following no link. Returns the names; raises as `node_at` does."""
    names: list[str] = []
    seen: set[int] = set()
    todo = [("", group)]
    while todo:
        prefix, node = todo.pop()
        for name in members(node):
            found = node_at(node, name)
            names.append(f"{prefix}{name}")
            if isinstance(found, h5py.Group):
                address = h5py.h5o.get_info(found.id).addr  # pyright: ignore[reportAttributeAccessIssue]
                if address in seen:
                    raise ValueError(f"{prefix}{name} holds itself")
                seen.add(address)
                todo.append((f"{prefix}{name}/", found))
    return names


def compression_plugin() -> Any:
    """The package that compresses for HDF5. Raises LensrlError when it is not there."""
    try:
        import hdf5plugin  # registers the filter with HDF5
    except ImportError:
        raise LensrlError("blosc2-zstd compression needs a package: pip install hdf5plugin") from None
    return hdf5plugin

"""The few HDF5 habits that every lensrl file shares: labelled axes, checksums, strings, one way to open.

An axis is a dimension scale at the file's root, so that a viewer (or xarray through h5netcdf) shows names instead of
numbers. Every dataset is chunked and carries a fletcher32 checksum, which HDF5 checks on reading. Strings are
fixed-length UTF-8: their bytes lie in the dataset, where the checksum sees them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lensrl.errors import StoreError, reason

CHUNK_BYTES = 1 << 20


def open_for_reading(path: Path, expected: str, version: int) -> h5py.File:
    """Open a lensrl file and check what it says it is. Raises StoreError with the file and what to do."""
    try:
        file = h5py.File(path, "r", locking=False)  # files are written once: a lock would only get in a reader's way
        found, found_version = file.attrs.get("format"), file.attrs.get("format_version")
    except FileNotFoundError:
        raise StoreError(f"no file at {path}") from None
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{path} is damaged or not an HDF5 file ({reason(error)}); delete it and run again") from None
    if found != expected:
        file.close()
        raise StoreError(f"{path} is not a {expected} file (its format attribute is {found!r})")
    if not isinstance(found_version, np.integer) or found_version > version:
        file.close()
        raise StoreError(
            f"{path} has format version {found_version}; this lensrl reads up to {version}: upgrade lensrl"
        )
    return file


@contextmanager
def create_file(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file to write. Raises OSError when the block ends and the disk had said no."""
    with _Disk(path, "w+") as disk:
        with h5py.File(disk, "w") as file:
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


def axis(file: h5py.File, name: str, labels: Sequence[Any] | np.ndarray | int) -> None:
    """Make the axis `name` with the given labels, or with 0, 1, ... for a length."""
    if name not in file:
        values = np.arange(labels, dtype=np.int32) if isinstance(labels, int) else labels
        dataset = create(file, name, values)
        dataset.make_scale(name)


def create(group: h5py.Group, name: str, data: Any, axes: Sequence[str] = ()) -> h5py.Dataset:
    """Write a dataset with checksum, chunks of about a MiB, and the named axes attached."""
    array = encode_strings(data)
    chunks = _chunks(array)
    checksum = None if chunks is None else True
    made = group.create_dataset(name, data=array, chunks=chunks, fletcher32=checksum, track_times=False)
    attach(made, axes)
    return made


def attach(dataset: h5py.Dataset, axes: Sequence[str]) -> None:
    for dimension, axis_name in enumerate(axes):
        dataset.dims[dimension].attach_scale(dataset.file[axis_name])


def encode_strings(data: Any) -> np.ndarray:
    """Arrays as they are; a sequence of str as fixed-length UTF-8."""
    array = np.asarray(data)
    if array.dtype.kind not in "UO":
        return array
    raw = [str(text).encode() for text in array.tolist()]
    return np.array(raw, dtype=h5py.string_dtype("utf-8", max([1, *map(len, raw)])))


def group_at(parent: h5py.Group, name: str) -> h5py.Group:
    """The group at `name`. Raises KeyError when there is none."""
    found = parent[name]
    if not isinstance(found, h5py.Group):
        raise KeyError(f"{name} is not a group")
    return found


def dataset_at(parent: h5py.Group, name: str) -> h5py.Dataset:
    """The dataset at `name`, unread. Raises KeyError when there is none."""
    found = parent[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{name} is not a dataset")
    return found


def members(group: h5py.Group) -> list[str]:
    """The names in a group."""
    return [str(name) for name in group]


def read_array(parent: h5py.Group, name: str) -> np.ndarray:
    """A whole dataset. HDF5 checks its checksum and raises OSError when it is damaged."""
    return dataset_at(parent, name)[...]


def read_strings(parent: h5py.Group, name: str) -> list[str]:
    """A whole dataset of fixed-length UTF-8 strings."""
    return [raw.decode() for raw in read_array(parent, name).tolist()]


def attribute(node: h5py.Group | h5py.Dataset, name: str) -> Any:
    """An attribute as h5py gives it: str, a NumPy scalar, or an array. Raises KeyError when there is none."""
    return node.attrs[name]


def _chunks(array: np.ndarray) -> tuple[int, ...] | None:
    """Whole trailing axes, and as much of the axis before them as fits; None (contiguous) for nothing or one number."""
    if array.size == 0 or array.ndim == 0:
        return None
    for axis_number, length in enumerate(array.shape):
        rest = array.shape[axis_number + 1 :]
        row = array.itemsize * int(np.prod(rest))
        if row <= CHUNK_BYTES:
            return (*(1,) * axis_number, max(1, min(length, CHUNK_BYTES // row)), *rest)
    return None

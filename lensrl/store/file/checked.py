"""Read HDF5 files of unknown origin safely.

- The seal of a file is checked before the HDF5 library reads the file.
- Nothing outside the file is read: links, external storage and virtual datasets are refused.
- No object is unpickled.
- The declared size of a dataset is compared with its stored size before any memory is allocated.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lensrl.errors import Damaged, LensrlError, NotOurs, StoreError, TooNew, Unfinished, reason
from lensrl.store.file.hdf5 import CHUNK_BYTES, compression_plugin
from lensrl.store.file.seal import read_seal, structure_holds

SIGNATURE = b"\x89HDF\r\n\x1a\n"  # the first bytes of a file as h5py writes it
OUR_NAME = re.compile(r"(base|.+\.seed-\d+)\.h5")  # of a run, or of a patching result
LARGEST_CHUNK = 16 << 20  # bytes
PIECE_BYTES = 16 << 20  # of a dataset that is read in pieces
SEALED_SINCE = 2  # format version
ATTEMPTS = 10  # at opening a file that another process replaces meanwhile
LOCKING = (None, False, True)  # all values of h5py's argument `locking`
# The exceptions of h5py for a file with wrong bytes, and of NumPy and pandas for tables that do not fit together.
DAMAGE = (OSError, KeyError, OverflowError, RuntimeError, ValueError, TypeError)

_BLOSC2 = 32026  # registered number of the HDF5 filter
_MOST_DEFLATED = 1032  # times: deflate makes no data smaller than this
_LEAST_BLOSC2 = 32  # bytes of a compressed chunk: at least its header


def open_for_reading(path: Path, expected: str, version: int) -> h5py.File:
    """Open a file of the format `expected`, up to version `version`, and check its seal and its structure.

    Raises Damaged, Unfinished or TooNew (all StoreError); the message names the file and what to do. The file is not
    locked: it was written once, and a lock would only hinder other processes.
    """
    for _ in range(ATTEMPTS):
        before = identity(path)
        try:
            file = _open_checked(path, expected, version)
        except StoreError:
            if identity(path) == before:
                raise
        else:
            now = os.fstat(file.id.get_vfd_handle())
            if (now.st_dev, now.st_ino, now.st_mtime_ns) == before:
                return file
            file.close()  # it was replaced meanwhile: the file that was checked is not the file that was opened
    raise StoreError(f"{path} is replaced faster than it can be opened: find the process that writes it, and stop it")


def identity(path: Path) -> tuple[int, int, int] | None:
    """Return numbers that change when a file is replaced or written to; None when it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:  # opening the file gives the better message
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def check_looks_like_hdf5(path: Path) -> None:
    """Raise StoreError for a file that is surely no run: neither its name nor its first bytes are those of HDF5.

    Such a file is not damaged, and nobody should delete it.
    """
    if path.suffix != ".h5" and path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(SIGNATURE)) != SIGNATURE:
                raise StoreError(f"{path} is no run file: it is not HDF5; the run files of a study end in .h5")


def is_no_hdf5(path: Path) -> bool:
    """Return whether a file is no HDF5 and carries nothing of a run: neither first bytes, nor a seal, nor its name."""
    with path.open("rb") as file:
        begins = file.read(len(SIGNATURE)) == SIGNATURE
    return not (begins or h5py.is_hdf5(path) or OUR_NAME.fullmatch(path.name) or read_seal(path))


def _open_checked(path: Path, expected: str, version: int) -> h5py.File:
    try:
        check_looks_like_hdf5(path)
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise StoreError(f"{path} is a folder or another thing that is no file; lensrl.open_study opens a study")
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
        if is_no_hdf5(path):
            raise NotOurs(f"{path} is no HDF5 file") from None
        raise Damaged(
            f"{path} is damaged or not an HDF5 file ({reason(error)}); if it is a run's, delete it and run again"
        ) from None
    return file


def _open(path: Path) -> h5py.File:
    """Open a file for reading with the first value of `locking` that HDF5 accepts.

    If this process has the file open already, HDF5 accepts only the value that was used then. The first value that is
    tried is the default of h5py and xarray.
    """
    for locking in LOCKING:
        try:
            file = h5py.File(path, "r", locking=locking)
        except OSError:
            if locking == LOCKING[-1]:
                raise
        else:
            if file.mode == "r":  # otherwise this process has it open for writing, and the lock belongs to the writer
                with suppress(OSError):  # some file systems have no locks
                    fcntl.flock(file.id.get_vfd_handle(), fcntl.LOCK_UN)
            return file
    raise AssertionError


def _check_kind(path: Path, found: Any, found_version: Any, expected: str, version: int) -> None:
    if found != expected:
        raise NotOurs(f"{path} is not a {expected} file (its format attribute is {found!r})")
    if not isinstance(found_version, int | np.integer) or found_version < 1:
        raise Damaged(f"{path} is damaged: its format version is {found_version!r}")
    if found_version > version:
        raise TooNew(f"{path} has format version {found_version}; this lensrl reads up to {version}: upgrade lensrl")


def node_at(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return the group or dataset at `name` below `parent`.

    Raises KeyError when there is none, and when a link, or an object of another kind, is on the way. Raises ValueError
    as `check_dataset` does.
    """
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
    """Return whether there is an object at `name`. Links other than hard links count as nothing."""
    node: Any = parent
    for part in filter(None, name.split("/")):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            return False
        node = node[part]
    return True


def group_at(parent: h5py.Group, name: str) -> h5py.Group:
    """Return the group at `name`. Raises KeyError when there is none."""
    found = node_at(parent, name)
    if not isinstance(found, h5py.Group):
        raise KeyError(f"{name} is not a group")
    return found


def dataset_at(parent: h5py.Group, name: str) -> h5py.Dataset:
    """Return the dataset at `name`, without reading it. Raises KeyError when there is none."""
    found = node_at(parent, name)
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{name} is not a dataset")
    return found


def check_dataset(dataset: h5py.Dataset) -> None:
    """Compare the type and the storage of a dataset with the format, without reading it.

    Raises ValueError for a type that no lensrl file holds, for storage outside the file, for chunks that are too large,
    and for a dataset that stores less than it declares.
    """
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
        filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
        if _BLOSC2 in filters:
            compression_plugin()
            fine = fine and stored >= count * _LEAST_BLOSC2
        elif h5py.h5z.FILTER_DEFLATE in filters:
            fine = fine and stored * _MOST_DEFLATED >= declared
        else:
            fine = fine and stored >= declared
    if not fine:
        raise ValueError(f"{dataset.name} declares {declared} bytes of shape {dataset.shape} and stores {stored}")


def members(group: h5py.Group) -> list[str]:
    """Return the names in a group."""
    return [str(name) for name in group]


def read_array(parent: h5py.Group, name: str) -> np.ndarray:
    """Read a whole dataset. If it is chunked, HDF5 compares its checksums, and raises OSError when one is wrong."""
    return dataset_at(parent, name)[...]


def read_strings(parent: h5py.Group, name: str) -> list[str]:
    """Read a whole dataset of fixed-length UTF-8 strings. Raises ValueError when it holds anything else."""
    found = read_array(parent, name)
    if found.dtype.kind != "S" or found.ndim != 1:
        raise ValueError(f"{name} holds {found.dtype} of shape {found.shape}, not texts in a row")
    return [raw.decode() for raw in found.tolist()]


def attribute(node: h5py.Group | h5py.Dataset, name: str) -> Any:
    """Return an attribute: a str, a NumPy number, or a one-dimensional array of numbers of up to 1 MiB.

    Raises KeyError when there is none, and ValueError when it holds anything else.
    """
    attrs = node.attrs  # of a file: each access opens its root group
    found = attrs.get_id(name)
    dtype, shape = found.dtype, found.shape
    text = h5py.check_string_dtype(dtype) is not None
    most_axes = 0 if text else 1  # an array of texts could point to one text of many megabytes again and again
    if not (text or dtype.kind in "iuf") or len(shape) > most_axes or math.prod(shape) > CHUNK_BYTES:
        raise ValueError(f"attribute {name} is no text and no number")
    return attrs[name]


@contextmanager
def located(node: h5py.Group | h5py.Dataset, where: str) -> Iterator[None]:
    """Turn every error of h5py inside the block into Damaged, naming the file of `node` and the place `where`."""
    if not node:
        raise LensrlError("the run is closed: open it again with lensrl.open_run or lensrl.open_study")
    try:
        yield
    except DAMAGE as error:
        path = node.file.filename
        raise Damaged(f"{path} is damaged at {where} ({reason(error)}); delete it and run again") from None


def check_tree(group: h5py.Group) -> list[str]:
    """Return the names of all groups and datasets below `group`.

    Raises KeyError and ValueError as `node_at` does, and ValueError for a group that is below itself or there twice.
    """
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


def axis_names(dataset: h5py.Dataset) -> list[str]:
    """Return the name of the first axis of each dimension, without its groups; empty where there is no axis."""
    return [str(scales[0].name).rpartition("/")[2] if len(scales) else "" for scales in dataset.dims]


def pieces(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """Yield a dataset in pieces of about 16 MiB."""
    if not dataset.shape:
        yield np.asarray(dataset[()])
        return
    row_bytes = max(1, dataset.dtype.itemsize * math.prod(dataset.shape[1:]))
    rows = max(1, PIECE_BYTES // row_bytes)
    for start in range(0, len(dataset), rows):
        yield dataset[start : start + rows]

"""Reading HDF5 files that may come from anywhere.

Nothing in a file is followed out of it (links, external storage, virtual datasets), no object is unpickled, and what a
dataset declares is compared with what is stored before memory is asked for. A file's seal is checked before the HDF5
library sees it.
"""

from __future__ import annotations

import fcntl
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lensrl.errors import Damaged, LensrlError, StoreError, TooNew, Unfinished, reason
from lensrl.store.file.hdf5 import CHUNK_BYTES, compression_plugin
from lensrl.store.file.seal import read_seal, structure_holds

LARGEST_CHUNK = 16 << 20  # bytes
SEALED_SINCE = 2  # format version
ATTEMPTS = 10  # to open a file that is being replaced
LOCKING = (None, False, True)  # how a program may have told HDF5 to open it
# What h5py raises on a file with wrong bytes in it, and NumPy and pandas on tables that do not fit together.
DAMAGE = (OSError, KeyError, OverflowError, RuntimeError, ValueError, TypeError)

_BLOSC2 = 32026  # registered number of the HDF5 filter
_LEAST_BLOSC2 = 32  # bytes of a compressed chunk: its header


def open_for_reading(path: Path, expected: str, version: int) -> h5py.File:
    """Open a lensrl file: check its seal and structure, and what it says it is.

    Raises Damaged, Unfinished or TooNew (all StoreError) with the file and what to do. No lock is kept: files are
    written once, and a lock would only get in the way of others.
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
            file.close()  # it was replaced meanwhile: what was checked is not what was opened
    raise StoreError(f"{path} is replaced faster than it can be opened: who writes it?")


def identity(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced or written to."""
    try:
        found = path.stat()
    except OSError:  # which opening it tells better
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _open_checked(path: Path, expected: str, version: int) -> h5py.File:
    try:
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
        raise Damaged(
            f"{path} is damaged or not an HDF5 file ({reason(error)}); if it is a run's, delete it and run again"
        ) from None
    return file


def _open(path: Path) -> h5py.File:
    """As h5py and xarray open it when nothing else is said, or else as this process has it open already: HDF5 wants
    the two alike.
    """
    for locking in LOCKING:
        try:
            file = h5py.File(path, "r", locking=locking)
        except OSError:
            if locking == LOCKING[-1]:
                raise
        else:
            if file.mode == "r":  # else this process is writing to it by other means, under a lock of its own
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file.id.get_vfd_handle(), fcntl.LOCK_UN)
            return file
    raise AssertionError


def _check_kind(path: Path, found: Any, found_version: Any, expected: str, version: int) -> None:
    if found != expected:
        raise StoreError(f"{path} is not a {expected} file (its format attribute is {found!r})")
    if not isinstance(found_version, int | np.integer) or found_version < 1:
        raise Damaged(f"{path} is damaged: its format version is {found_version!r}")
    if found_version > version:
        raise TooNew(f"{path} has format version {found_version}; this lensrl reads up to {version}: upgrade lensrl")


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
    most = 0 if text else 1  # axes: texts in a row may all be the same megabytes, stored once
    if not (text or kind.dtype.kind in "iuf") or len(kind.shape) > most or math.prod(kind.shape) > CHUNK_BYTES:
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


def axis_names(dataset: h5py.Dataset) -> list[str]:
    """The axis of each dimension; empty where there is none."""
    return [str(scales[0].name).rpartition("/")[2] if len(scales) else "" for scales in dataset.dims]

"""Files that appear whole or not at all, each written by one process at a time.

`new_file(path)` yields a partial file in the same folder, `.NAME.partial`, and holds a lock on it (`flock`).

- The block ends: the partial file is synced and renamed to `path`, and the folder is synced.
- The block raises: the partial file is removed, and `path` is as it was.
- A second process writes the same path: it cannot get the lock, and stops.
- The process is killed: it loses the lock and leaves the partial file. `remove_litter` removes partial files without a
  lock.

The lock works between processes of one machine. It works between machines if their file system passes `flock` on, as
NFS does.

`new_folder(path)` does the same for a folder, without a lock: each writer has a partial folder of its own, and the
first one to end gets the name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lensrl.errors import LensrlError, StoreError, Taken, reason

# The files that a killed process leaves in the folder of a study, and in the folder of patches inside it. No other file
# may be removed.
PARTIALS = (".*.h5.partial", ".*.json.partial", ".*.html.partial", "[!.]*/.*.h5.partial")
SCRATCH = ".*.h5.scratch"  # older versions kept snapshots there
PATIENCE = 0.2  # seconds to wait for a lock: a process that only asks for the lock's state releases it at once


@contextmanager
def new_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield the path of a partial file, and rename it to `path` when the block ends.

    Raises Taken when another process is writing `path`, and, unless `replace`, when `path` exists. Raises StoreError
    when the disk refuses a write.
    """
    partial = partial_path(path)
    claim = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        claim = _claim(partial, os.O_RDWR | os.O_CREAT, patience=PATIENCE)
        if claim is None:
            raise Taken(f"{path} is being written by another process: wait until it has ended, or stop it")
        if not replace and path.exists():
            raise Taken(f"{path} was made by another process meanwhile: run the same command again to go on")
        if os.fstat(claim).st_size:  # a process that was killed left it
            os.ftruncate(claim, 0)
        yield partial
        sync(partial)
        os.replace(partial, path)
        _sync_names(path.parent)
    except LensrlError:
        raise
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if claim is not None:
            with suppress(OSError):  # the folder may be gone, for example; the error above says it better
                _unlink(partial, claim)
            os.close(claim)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, `.NAME.RANDOM.partial`, and rename it to `path` when the block ends.

    All files are synced before the rename. When the block raises, the partial folder is removed. A process that is
    killed leaves it behind.

    Raises StoreError when `path` is not vacant (`check_vacant`), or when the disk refuses a write.
    """
    check_vacant(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        for inside in [*partial.rglob("*"), partial]:
            (_sync_names if inside.is_dir() else sync)(inside)
        check_vacant(path)
        os.rename(partial, path)  # replaces an empty folder, and fails where the folder has been filled since
        _sync_names(path.parent)
    except LensrlError:
        raise
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_vacant(path: Path) -> None:
    """Raise StoreError unless `path` is free for a new folder: nothing is there, or an empty folder."""
    if path.is_dir():
        if any(path.iterdir()):
            raise StoreError(f"the folder {path} is not empty: name a new folder, or remove this one first")
    elif path.exists() or path.is_symlink():
        raise StoreError(f"{path} is a file: name a new folder")


def partial_path(path: Path) -> Path:
    """Return the path of the partial file of `path`: `.NAME.partial` in the same folder.

    Raises StoreError for a path without a name, such as an empty one.
    """
    if not path.name:
        raise StoreError(f"{str(path)!r} is not the name of a file")
    return path.with_name(f".{path.name}.partial")


def is_being_written(path: Path) -> bool:
    """Return whether a living process is writing `path`."""
    try:
        claim = _claim(partial_path(path), os.O_RDONLY, fcntl.LOCK_SH)  # shared: two who ask do not see each other
    except FileNotFoundError:
        return False
    except PermissionError:  # the partial file of another user, who may be writing
        return True
    if claim is not None:
        os.close(claim)
    return claim is None


def remove_litter(folder: Path) -> list[Path]:
    """Remove the partial files and scratch folders in a study's folder that no living process is writing.

    Returns the partial files that were removed.
    """
    removed = []
    for scratch in folder.glob(SCRATCH):
        if not is_being_written(scratch.with_name(scratch.stem.removeprefix("."))):
            shutil.rmtree(scratch, ignore_errors=True)
    for partial in sorted(path for pattern in PARTIALS for path in folder.glob(pattern)):
        if not partial.is_file():
            continue  # it is gone, or it is no file
        with suppress(FileNotFoundError, PermissionError):  # its writer has renamed it, or is another user
            claim = _claim(partial, os.O_RDWR, patience=PATIENCE)
            if claim is not None:
                _unlink(partial, claim)
                os.close(claim)
                removed.append(partial)
    return removed


def _claim(partial: Path, flags: int, lock: int = fcntl.LOCK_EX, *, patience: float = 0.0) -> int | None:
    """Open and lock a partial file. Returns its descriptor, or None when another process holds the lock.

    NFS emulates `flock`: there, an exclusive lock needs a descriptor that is open for writing.
    """
    until = time.monotonic() + patience
    while True:
        claim = os.open(partial, flags | os.O_NONBLOCK, 0o666)  # never wait for a pipe of this name
        try:
            fcntl.flock(claim, lock | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            if time.monotonic() > until:
                return None
            time.sleep(0.01)
            continue
        except BaseException:
            os.close(claim)
            raise
        if _is_at(partial, claim):
            return claim
        os.close(claim)  # its writer renamed or removed it before the lock was ours: open the file that is there now


def _unlink(partial: Path, claim: int) -> None:
    if _is_at(partial, claim):  # after the rename, the name may belong to another writer
        partial.unlink()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_names(folder: Path) -> None:
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync names on their own, and refuse
            raise


def _not_written(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} could not be written ({_cause(error)}); nothing was changed: make room there or choose another "
        f"folder, then run the same command again"
    )


def _cause(error: OSError) -> str:
    """Return the message of the system, without the message of HDF5 around it."""
    message = reason(error)
    inner = re.search(r"error message = '([^']+)'", message)
    return inner[1] if inner else error.strerror or message

"""Files that appear whole or not at all, each written by one process at a time.

`new_file(path)` gives a partial file in the same folder, `.NAME.partial`, and holds a lock on it (`flock`). When the
block ends, the partial file is synced, renamed to `path`, and the folder is synced; when the block raises, it is
removed and `path` is as it was. A second writer of the same path cannot have the lock and stops. A process that is
killed loses its lock and leaves the partial file behind, which is how `remove_litter` knows it for litter.

It covers processes of one machine, and of several where the file system carries `flock` between them (NFS does).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lensrl.errors import LensrlError, StoreError, Taken, reason

# What a killed process leaves in a study's folder, and in the folder of patches inside it; nothing else is ours.
PARTIALS = (".*.h5.partial", ".*.json.partial", ".*.html.partial", "[!.]*/.*.h5.partial")
SCRATCH = ".*.h5.scratch"
PATIENCE = 0.2  # seconds: whoever only looks whether a partial file is held lets go of it at once


@contextmanager
def new_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a path to write; on success it becomes `path`.

    Raises Taken when another process is writing `path`, or, unless `replace`, when `path` is there already. Raises
    StoreError when the disk says no.
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
        if os.fstat(claim).st_size:  # litter of a process that was killed
            os.ftruncate(claim, 0)
        yield partial
        sync(partial)
        os.replace(partial, path)
        _sync_names(path.parent)
    except LensrlError:
        raise
    except OSError as error:
        raise StoreError(
            f"{path} could not be written ({_cause(error)}); nothing was changed: make room there or choose another "
            f"folder, then run the same command again"
        ) from error
    finally:
        if claim is not None:
            with suppress(OSError):  # a folder that is gone, say: the error above tells it better
                _unlink(partial, claim)
            os.close(claim)


def partial_path(path: Path) -> Path:
    """Where `path` is while it is being written."""
    return path.with_name(f".{path.name}.partial")


def scratch_folder(partial: Path) -> Path:
    """A folder for what the writer of a partial file needs meanwhile; litter when the partial file is."""
    return partial.with_suffix(".scratch")


@contextmanager
def removed_at_end(folder: Path) -> Iterator[None]:
    """Remove a folder that may have been made inside the block."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_being_written(path: Path) -> bool:
    """Whether a living process is writing `path`."""
    try:
        claim = _claim(partial_path(path), os.O_RDONLY, fcntl.LOCK_SH)  # shared: who looks is no writer to the next
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's: it may well be
        return True
    if claim is not None:
        os.close(claim)
    return claim is None


def remove_litter(folder: Path) -> list[Path]:
    """Remove what writers left in a study's folder and no living process holds. Returns the partial files removed."""
    removed = []
    for scratch in folder.glob(SCRATCH):
        if not is_being_written(scratch.with_name(scratch.stem.removeprefix("."))):
            shutil.rmtree(scratch, ignore_errors=True)
    for partial in sorted(path for pattern in PARTIALS for path in folder.glob(pattern)):
        if not partial.is_file():
            continue  # gone, or none that a writer made
        with suppress(FileNotFoundError, PermissionError):  # its writer was quicker, or is another user
            claim = _claim(partial, os.O_RDWR, patience=PATIENCE)
            if claim is not None:
                _unlink(partial, claim)
                os.close(claim)
                removed.append(partial)
    return removed


def _claim(partial: Path, flags: int, lock: int = fcntl.LOCK_EX, *, patience: float = 0.0) -> int | None:
    """An open and locked descriptor of a partial file; None when another process has the lock.

    Where NFS stands in for `flock`, an exclusive lock wants a descriptor that may write, a shared one any.
    """
    until = time.monotonic() + patience
    while True:
        claim = os.open(partial, flags | os.O_NONBLOCK, 0o666)  # a pipe by that name is not waited for
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
        os.close(claim)  # renamed or removed by its writer before we had the lock: what is there now is another


def _unlink(partial: Path, claim: int) -> None:
    if _is_at(partial, claim):  # after the rename, the name may belong to the next writer
        partial.unlink()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Have the disk keep a file, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_names(folder: Path) -> None:
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems keep names without being asked
            raise


def _cause(error: OSError) -> str:
    """HDF5 wraps the system's message in its own; keep the part that a person can act on."""
    message = reason(error)
    inner = re.search(r"error message = '([^']+)'", message)
    return inner[1] if inner else error.strerror or message

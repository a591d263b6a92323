"""Files that appear whole or not at all, each written by one process at a time.

`new_file(path)` claims the path (`lensrl.store.file.claim`) and yields a partial file in the same folder,
`.NAME.TOKEN.partial`. The token is the claim's, so no two writers ever have a partial file in common.

- The block ends: the partial file is synced and gets the name `path`, and the folder is synced.
- The block raises: the partial file is removed, and `path` is as it was.
- A second process writes the same path: it does not get the claim, and stops.
- The process is killed: its claim is dead. The next writer of the path, or `remove_litter`, removes what it left.

`new_folder(path)` does the same for a folder, without a claim: each writer has a partial folder of its own, and the
first one to end gets the name.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lensrl.errors import LensrlError, StoreError, Taken, reason
from lensrl.store.file.claim import claimed, give_name, holds, remove_aside

# What a killed process leaves in the folder of a study, and in the folder of patches inside it: `.NAME.TOKEN.partial`,
# `.NAME.TOKEN.scratch` and `.NAME.claim`. No other file may be removed. Older versions wrote no token.
LEFT = re.compile(r"\.(.+\.(?:h5|json|html))(?:\.[0-9a-f]{8})?\.(?:partial|scratch)|\.(.+\.(?:h5|json|html))\.claim")


@contextmanager
def new_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield the path of a partial file, and rename it to `path` when the block ends.

    Raises Taken when another process is writing `path`, and, unless `replace`, when `path` exists. Raises Taken also
    when another process took the claim over, since this one had given no sign for long. Raises StoreError when the disk
    refuses a write.
    """
    _check_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with claimed(path) as token:
            _remove_left(path)  # by a process that was killed
            if not replace and path.exists():
                raise _made_meanwhile(path)
            partial = partial_path(path, token)
            try:
                partial.touch()
                yield partial
                _check_held(path, token)
                sync(partial)
                _check_held(path, token)  # syncing gigabytes takes a while
                _commit(partial, path, replace=replace)
                _sync_names(path.parent)
            except OSError:
                _check_held(path, token)  # whoever took the claim over has removed the partial file
                raise
            finally:
                with suppress(OSError):  # the folder may be gone, for example; the error says it better
                    partial.unlink(missing_ok=True)
    except LensrlError:
        raise
    except OSError as error:
        raise _not_written(path, error) from error


def _check_held(path: Path, token: str) -> None:
    if not holds(path, token):
        raise Taken(
            f"{path} was taken over by another process, since this one had given no sign for minutes: run the same "
            f"command again to go on"
        )


def _commit(partial: Path, path: Path, *, replace: bool) -> None:
    """Give the finished partial file its name. Raises Taken unless `replace`, when the name is taken."""
    if replace:
        os.replace(partial, path)
        return
    try:
        give_name(partial, path)
    except FileExistsError:
        raise _made_meanwhile(path) from None


def _made_meanwhile(path: Path) -> Taken:
    return Taken(f"{path} was made by another process meanwhile: run the same command again to go on")


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


def partial_path(path: Path, token: str) -> Path:
    """Return the path of a partial file of `path`: `.NAME.TOKEN.partial` in the same folder."""
    return path.with_name(f".{path.name}.{token}.partial")


def begun(folder: Path) -> list[Path]:
    """Return the paths of the files in a folder that are being written, or whose writer was killed."""
    names = (_final_name(left) for left in sorted(folder.glob(".*")))
    return [folder / name for name in dict.fromkeys(name for name in names if name is not None)]


def final_path(partial: Path) -> Path:
    """Return the path of the file that a partial file becomes: the inverse of `partial_path`."""
    return partial.with_name(_final_name(partial) or partial.name)


def remove_litter(folder: Path) -> list[Path]:
    """Remove what killed processes left in a study's folder: partial files, scratch folders and claims.

    Returns the partial files that were removed. What a living process is writing stays.
    """
    removed = []
    patches = (path for inside in folder.glob("[!.]*/") for path in begun(inside) if path.suffix == ".h5")
    for path in [*begun(folder), *patches]:
        with suppress(Taken, PermissionError), claimed(path, patience=0.0):  # it is living, or of another user
            removed += _remove_left(path)
    return removed


def _final_name(left: Path) -> str | None:
    found = LEFT.fullmatch(left.name)
    return None if found is None else found[1] or found[2]


def _remove_left(path: Path) -> list[Path]:
    """Remove what dead writers of `path` left, while the claim is held. Returns the partial files."""
    ours, removed = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{8}})?\.(partial|scratch)"), []
    for left in sorted(path.parent.glob(f".{glob.escape(path.name)}.*")):
        if not ours.fullmatch(left.name):
            continue
        if left.suffix == ".scratch":
            shutil.rmtree(left, ignore_errors=True)
        elif left.is_file():  # a pipe or a folder of this name is no partial file
            left.unlink(missing_ok=True)
            removed.append(left)
    remove_aside(path)
    return removed


def _check_name(path: Path) -> None:
    if not path.name:
        raise StoreError(f"{str(path)!r} is not the name of a file")


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
    if any(os.strerror(full) in _cause(error) for full in (errno.ENOSPC, errno.EDQUOT)):
        return StoreError(
            f"{path} could not be written ({_cause(error)}); nothing was changed, and finished runs are kept: free "
            f"room in {path.parent.absolute()} (old studies, exported models, checkpoints), then run the same "
            f"command again"
        )
    return StoreError(
        f"{path} could not be written ({_cause(error)}); nothing was changed: make room there or choose another "
        f"folder, then run the same command again"
    )


def _cause(error: OSError) -> str:
    """Return the message of the system, without the message of HDF5 around it."""
    message = reason(error)
    inner = re.search(r"error message = '([^']+)'", message)
    return inner[1] if inner else error.strerror or message

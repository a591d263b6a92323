"""Files that appear whole or not at all.

`new_file(path)` gives a temporary path in the same folder. When the block ends, that file is synced, renamed to
`path`, and the folder is synced; when the block raises, it is removed and `path` is as it was. A process that is
killed leaves the temporary file behind: `remove_litter` recognises it by its name and by its process being gone.
It covers one machine: a process on another host that shares the folder is not seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lensrl.errors import LensrlError, StoreError, reason

_LITTER = re.compile(r"^\..+\.(\d+)\.partial$")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it becomes `path`. Raises StoreError when the disk says no."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except LensrlError:
        raise
    except OSError as error:
        raise StoreError(
            f"{path} could not be written ({_cause(error)}); nothing was changed: make room there or choose another "
            f"folder, then run the same command again"
        ) from error
    finally:
        with suppress(OSError):  # a folder that is a file, say: the error above tells it better
            partial.unlink(missing_ok=True)


def remove_litter(folder: Path) -> list[Path]:
    """Remove temporary files below `folder` whose process no longer runs. Returns what was removed."""
    removed = []
    for path in folder.rglob(".*.partial"):
        match = _LITTER.match(path.name)
        if match and not _alive(int(match[1])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cause(error: OSError) -> str:
    """HDF5 wraps the system's message in its own; keep the part that a person can act on."""
    message = reason(error)
    inner = re.search(r"error message = '([^']+)'", message)
    return inner[1] if inner else error.strerror or message

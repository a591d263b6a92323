"""`verify`: check that files are as they were written, and as `runs/FORMAT.md` says.

First the bytes of a file are compared with its seal, without HDF5. If they agree, or if the file is of version 1 and
has no seal, then the file is read through HDF5 and compared with the format. A forged file could crash the HDF5
library. Therefore a child process reads the files. If it dies, the file that it was reading is reported as damaged.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import h5py

from lensrl.errors import Damaged, LensrlError, NotOurs, StoreError, reason
from lensrl.store.file.atomic import final_path
from lensrl.store.file.checked import ATTEMPTS, DAMAGE, check_looks_like_hdf5, identity, is_no_hdf5, open_for_reading
from lensrl.store.file.claim import is_being_written
from lensrl.store.file.consistency import check_layout
from lensrl.store.file.seal import damaged_datasets, read_seal, structure_holds
from lensrl.store.look import result_html
from lensrl.store.patch import PATCH_FORMAT, PATCH_VERSION, read_patch
from lensrl.store.run import Run
from lensrl.store.write import RUN_FORMAT, RUN_VERSION

VERSIONS = {RUN_FORMAT: RUN_VERSION, PATCH_FORMAT: PATCH_VERSION}
SECONDS = 30  # for a small file
SECONDS_TO_START = 120  # on a machine that is busy
BYTES_PER_SECOND = 20 << 20  # a slow disk
READINGS = 3  # times that a file is read: for its seal, for its format, and as much again for decompression
PARTIAL = ".*.h5*.partial"


@dataclass(frozen=True)
class FileCheck:
    """The state of one file: `status` is `good`, `damaged`, `unfinished`, `too new`, or `not ours`.

    `where` says what is wrong and where, without the path.
    """

    path: Path
    status: str
    where: str = ""

    def _repr_html_(self) -> str:
        return result_html(self.path.name, [{"status": self.status, "where": self.where}], wrapped=("where",))


def verify(path: str | Path) -> Iterator[FileCheck]:
    """Check one file, or every file of a study or of a folder of studies.

    Partial files, and files without a seal that are not of version 1, are `unfinished`. Raises LensrlError when there
    is no file to check.
    """
    path = Path(path)
    closed: list[OSError] = []
    if path.is_dir():
        for _ in os.walk(path, onerror=closed.append):  # rglob skips a folder that it may not read, and says nothing
            pass
        partial = sorted(path.rglob(PARTIAL))  # before the files: a file that is finished in between is in both lists
        files = sorted(path.rglob("*.h5"))
    elif path.match(PARTIAL) and path.exists():
        files, partial = [], [path]
    else:
        files, partial = [path], []
        if not path.exists():
            raise LensrlError(f"no file at {path}")
        with suppress(OSError):  # the check of the file says why it cannot be read
            check_looks_like_hdf5(path)
    if not files and not partial and not closed:
        raise LensrlError(f"{path} holds no HDF5 files; studies are made by lensrl run")
    for error in closed:
        yield FileCheck(Path(error.filename), "damaged", f"a folder that cannot be opened ({error.strerror})")
    yield from _in_children(files)
    for part in partial:
        final = final_path(part)
        if is_being_written(final):
            yield FileCheck(part, "unfinished", "being written")
        elif part.exists():
            yield FileCheck(part, "unfinished", "its process was killed; lensrl run removes it")
        elif final.exists() and final not in files:  # its writer has finished it
            yield from _in_children([final])


def check_file(path: Path) -> FileCheck:
    """Check one file in this process. A file that is replaced while it is read is read again."""
    for _ in range(ATTEMPTS - 1):
        before = identity(path)
        verdict = _check_file(path)
        if verdict.status == "good" or identity(path) == before:  # otherwise it was replaced
            return verdict
    return _check_file(path)


def _check_file(path: Path) -> FileCheck:
    try:
        if not path.is_file():
            return FileCheck(path, "damaged", _why_no_file(path))
        seal = read_seal(path)
        if seal is not None and seal.format_version <= VERSIONS.get(seal.format, seal.format_version):
            damaged = damaged_datasets(path, seal)
            if not structure_holds(path, seal):
                damaged.append("its structure (headers, names, attributes)")
            if damaged:
                return FileCheck(path, "damaged", ", ".join(damaged))
        _check_format(path)
    except StoreError as error:
        return FileCheck(path, error.status, str(error).removeprefix(f"{path} "))
    except PermissionError as error:
        return FileCheck(path, "damaged", f"cannot be opened ({error.strerror})")
    except DAMAGE as error:
        return FileCheck(path, "damaged", f"not as the format says: {_message(error)}")
    return FileCheck(path, "good", "" if seal is not None else "format version 1: no seal, only HDF5's own checksums")


def _message(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else reason(error)  # KeyError adds quotes


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return "a folder, not a file"
    if path.is_symlink() and not path.exists():
        return f"a link to {os.readlink(path)}, which is not there"
    return "no regular file" if path.exists() else "not there any more"


def _check_format(path: Path) -> None:
    """Read a file through HDF5 and compare it with its format. Raises StoreError, or one of DAMAGE."""
    seal = read_seal(path)
    format = seal.format if seal is not None else _format(path)
    with open_for_reading(
        path, format if format in VERSIONS else RUN_FORMAT, VERSIONS.get(format, RUN_VERSION)
    ) as file:
        check_layout(file)
    if format == PATCH_FORMAT:
        read_patch(path)
        return
    with Run(path) as run:
        _ = run.recipe, run.provenance
        found = run.item_score() if run.has_scores else math.nan
        if not (abs(run.score - found) <= 1e-9 or (math.isnan(run.score) and not run.has_scores)):
            raise Damaged(f"{path} says the score {run.score}; its items have {found}")


def _format(path: Path) -> str:
    try:
        with h5py.File(path, "r", locking=False) as file:
            return str(file.attrs.get("format"))
    except DAMAGE as error:
        if is_no_hdf5(path):
            raise NotOurs("is no HDF5 file") from None
        raise Damaged(f"does not open as HDF5 ({reason(error)})") from None


def _in_children(files: Sequence[Path]) -> Iterator[FileCheck]:
    """Check files in a child process, one after the other.

    When the child dies or hangs, the file that it was reading is damaged, and another child continues with the next.
    """
    todo = list(files)
    while todo:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as v; v._child()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        lines: Queue[str] = Queue()
        reader = Thread(target=_forward_lines, args=(child.stdout, lines), daemon=True)
        reader.start()
        started = False
        try:
            # Importing lensrl takes the child a while: a slow start says nothing about the first file.
            with suppress(Empty):
                started = _next_line(lines, SECONDS_TO_START) != ""
            if not started:
                raise LensrlError(f"files are read in a process of their own, and {sys.executable} could not start one")
            # One path to the child, one line of JSON back; an empty line says that the child is gone.
            while todo:
                child.stdin.write(json.dumps(str(todo[0].absolute())) + "\n")
                child.stdin.flush()
                line = _next_line(lines, _timeout(todo[0]))
                if not line:
                    break
                answer = json.loads(line)
                if "refused" in answer:
                    raise LensrlError(answer["refused"])
                yield FileCheck(todo.pop(0), **answer)
        except Empty:
            yield FileCheck(todo.pop(0), "damaged", "reading it does not end")
        except BrokenPipeError:
            pass
        else:
            if todo:
                yield FileCheck(todo.pop(0), "damaged", "reading it crashes the HDF5 library")
        finally:
            child.kill()
            child.wait()
            reader.join()
            with suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()


def _timeout(path: Path) -> int:
    """Return the seconds that a child may take to check a file, by its size. The file may be gone by now."""
    return SECONDS + (READINGS * path.stat().st_size // BYTES_PER_SECOND if path.exists() else 0)


def _next_line(lines: Queue[str], seconds: int) -> str:
    """Return the next line of the child. Raises Empty after so many seconds without one.

    The wait is in steps of one second: while both processes are stopped (^Z), time passes, and only one step runs out.
    """
    for _ in range(seconds - 1):
        with suppress(Empty):
            return lines.get(timeout=1)
    return lines.get(timeout=1)


def _forward_lines(stream: Iterable[str], lines: Queue[str]) -> None:
    """Put the lines of a stream into a queue, and an empty line when the stream ends."""
    for line in stream:
        lines.put(line)
    lines.put("")


def _child() -> None:
    """Read paths from the standard input, check each file, and write its state to the standard output."""
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            verdict = check_file(Path(json.loads(line)))
            answer = {"status": verdict.status, "where": verdict.where}
        except LensrlError as error:  # not the fault of the file: a package is missing
            answer = {"refused": str(error)}
        print(json.dumps(answer), flush=True)

"""Claims: which process writes a file, known to every process that sees the folder.

While a process writes NAME, the file `.NAME.claim` is beside it. It is created with O_EXCL: of many processes, one
creates it. No lock of the file system is needed, so claims hold where `flock` does not work (NFS, Lustre).

- A claim names its host and process, and when the writing began. `tell` adds a line on how far the writer is.
- The writer gives a sign every 10 seconds: it sets the file's time.
- A claim of this machine is dead when its process is gone.
- A claim of another machine is dead when it gave no sign for 120 seconds, by the clock of the file system.
- The next writer removes a dead claim and creates its own.

A writer that slept for longer than 120 seconds may lose its claim. It asks with `holds` before its file gets its name.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lensrl.errors import Taken

HEARTBEAT = 10.0  # seconds between two signs of a writer
STALE = 120.0  # seconds without a sign, after which a claim of another machine is dead; NFS caches times for 60
PATIENCE = 1.0  # seconds to wait for a claim: short writes take turns
STATE = 120  # bytes of the line on how far the writer is

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


@dataclass(frozen=True)
class Claim:
    """What a claim file says. `place` tells machines apart, and containers of one machine."""

    token: str  # random, one a writing
    host: str
    place: str
    process: int
    began: str  # when the process began: tells it from a later process of the same number
    since: float  # when the writing began, in seconds since 1970
    state: str  # how far the writer is, in words; may be empty
    modified: int  # the last sign, in nanoseconds of the file system's clock
    silence: float  # seconds since the last sign

    @property
    def is_living(self) -> bool:
        """Whether the writer is at work, as far as can be known."""
        return _is_running(self.process, self.began) if self.place == _place() else self.silence <= STALE

    @property
    def writer(self) -> str:
        """The writer in words: `process 4711 on node3`."""
        return f"process {self.process} on {self.host}" if self.host else "an unknown process"

    def in_words(self) -> str:
        """Who writes, since when, and how far: `process 4711 on node3 for 12 min: step 4/9, reward 0.3, 9 min left`."""
        if self.is_living:
            state = f": {self.state}" if self.state else ""
            return f"{self.writer} for {duration(time.time() - self.since)}{state}"
        silent = "has ended" if self.place == _place() else f"gave no sign for {duration(self.silence)}"
        return f"{self.writer} {silent}{f' at {self.state}' if self.state else ''}"


def claim_path(path: Path) -> Path:
    """Return the path of the claim on `path`: `.NAME.claim` in the same folder."""
    return path.with_name(f".{path.name}.claim")


def read_claim(path: Path) -> Claim | None:
    """Return the claim on `path`, living or dead; None when there is none."""
    return _read(claim_path(path))


def is_being_written(path: Path) -> bool:
    """Return whether a living process is writing `path`."""
    claim = read_claim(path)
    return claim is not None and claim.is_living


@contextmanager
def claimed(path: Path, *, patience: float = PATIENCE) -> Iterator[str]:
    """Hold the claim on `path`, and yield its token. The folder must be there.

    Raises Taken when a living process holds the claim for longer than `patience` seconds; OSError when the folder
    cannot be written.
    """
    token, until = secrets.token_hex(4), time.monotonic() + patience
    while not _create(path, token):
        holder = read_claim(path)
        if holder is None:
            continue  # it has been released
        if not holder.is_living:
            _remove_dead(path, holder)
        elif time.monotonic() > until:
            raise Taken(
                f"{path} is being written by another process ({holder.writer}): wait until it has ended, or stop it"
            )
        else:
            time.sleep(0.01)
    ended = threading.Event()
    threading.Thread(target=_give_signs, args=(path, ended), daemon=True).start()
    try:
        yield token
    finally:
        ended.set()
        if holds(path, token):
            claim_path(path).unlink(missing_ok=True)


def holds(path: Path, token: str) -> bool:
    """Return whether the claim on `path` is the one with this token."""
    claim = read_claim(path)
    return claim is not None and claim.token == token


def tell(path: Path, state: str) -> None:
    """Write into this process's claim on `path` how far it is, in a few words. Without such a claim, do nothing."""
    claim = read_claim(path)
    if claim is None or (claim.place, claim.process) != (_place(), os.getpid()):
        return
    with suppress(OSError), claim_path(path).open("r+b") as file:  # a full disk, for example: the run is what counts
        file.readline()
        file.seek(file.tell())  # buffered: from reading to writing
        file.write(_state_line(state))


def give_name(source: Path, target: Path) -> None:
    """Give a file a name that nothing has. `source` may remain as a second name of it.

    Raises FileExistsError when something has the name.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        if not os.path.samefile(source, target):  # NFS may repeat a link that it has made
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)


def remove_aside(path: Path) -> None:
    """Remove dead claims on `path` whose remover was killed."""
    claim = claim_path(path)
    for aside in claim.parent.glob(f"{glob.escape(claim.name)}.*"):
        found = _read(aside)
        if found is not None and not found.is_living:
            aside.unlink(missing_ok=True)


def _create(path: Path, token: str) -> bool:
    """Create the claim on `path`. Return False when there is one."""
    owner = {
        "token": token, "host": socket.gethostname(), "place": _place(), "process": os.getpid(),
        "began": _began(os.getpid()), "since": time.time(),
    }  # fmt: skip
    try:
        descriptor = os.open(claim_path(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "wb") as file:
            file.write(json.dumps(owner).encode() + b"\n" + _state_line(""))
    except BaseException:  # a full disk: a claim that nobody owns would be in the way
        claim_path(path).unlink(missing_ok=True)
        raise
    return True


def _state_line(state: str) -> bytes:
    """Return a line of always the same length: it is written over, and no reader may find a file cut short."""
    return state.encode("ascii", "replace")[:STATE].ljust(STATE) + b"\n"


def _read(claim: Path) -> Claim | None:
    """Read a claim file. One without an owner (its writer was killed as it created it) has no place and no process."""
    text = b""
    try:
        descriptor = os.open(claim, os.O_RDONLY | os.O_NONBLOCK)  # opening asks NFS for the file's time anew
    except FileNotFoundError:
        return None
    except PermissionError:
        descriptor = None
    try:
        about = os.stat(claim) if descriptor is None else os.fstat(descriptor)
        if descriptor is not None:
            with suppress(IsADirectoryError):
                text = os.read(descriptor, 4096)
    except FileNotFoundError:
        return None
    finally:
        if descriptor is not None:
            os.close(descriptor)
    first, _, second = text.partition(b"\n")
    try:
        owner = json.loads(first)
        said = {
            "token": str(owner["token"]), "host": str(owner["host"]), "place": str(owner["place"]),
            "process": int(owner["process"]), "began": str(owner["began"]), "since": float(owner["since"]),
        }  # fmt: skip
    except (ValueError, TypeError, KeyError):
        said = {"token": "", "host": "", "place": "", "process": 0, "began": "", "since": about.st_mtime}
    silence = time.time() + _clock(claim.parent) - about.st_mtime if said["place"] != _place() else 0.0
    return Claim(**said, state=second.decode("ascii", "replace").strip(), modified=about.st_mtime_ns, silence=silence)


def _remove_dead(path: Path, dead: Claim) -> None:
    """Remove a dead claim, and no other: another process may have put its own claim there meanwhile.

    Moving the file aside is atomic, so one process alone has it in hand. If it is another claim, it is put back.
    """
    claim = claim_path(path)
    aside = claim.with_name(f"{claim.name}.{secrets.token_hex(4)}")
    try:
        claim.rename(aside)
    except FileNotFoundError:
        return
    found = _read(aside)
    if found is not None and (found.token, found.modified) != (dead.token, dead.modified):
        with suppress(FileExistsError):
            give_name(aside, claim)
    aside.unlink(missing_ok=True)


def _give_signs(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):  # a lost claim is seen when the file is about to get its name
            os.utime(claim_path(path))


def duration(seconds: float) -> str:
    """Return a time in words: `85 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{max(0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@cache
def _place() -> str:
    """Return a name of this machine since it was started, and of the container, in which process numbers mean one."""
    with suppress(OSError):
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {started} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


@cache
def _clock(folder: Path) -> float:
    """Return how many seconds the clock of the folder's file system is ahead of this machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:  # a folder that may only be read
        return 0.0


def _is_running(process: int, began: str) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process of another user
        return True
    return _began(process) == began


def _began(process: int) -> str:
    """Return when a process began, as /proc says it; empty where there is no /proc, and `gone` for an ended one."""
    if not os.path.exists("/proc/self/stat"):
        return ""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone"
    return "gone" if fields[0] in "ZX" else fields[19]  # Z: killed, and its parent has not asked yet

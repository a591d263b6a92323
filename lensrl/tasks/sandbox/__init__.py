"""Running small Python programs that nobody has read: the sandbox of the tasks that are judged by tests.

    outcomes = run_programs([("def f(x): return x + 1", "assert f(1) == 2")], timeout=3.0, memory=512)

A program is a sequence of parts, executed one after another in one namespace. It passes when its last line has been
reached within the limits; exiting, with whatever status, is not reaching it. Programs run at once on every core.

What confines a program, beside limits on time, memory, open files and written bytes, an empty environment, a
temporary directory of its own, and no input or output:

- *namespaces*: no network; process ids of its own, so that it sees nobody to signal and that nothing survives it; all
  file systems read-only but a small one in memory, which vanishes with it;
- *landlock*: it reads Python's library and its own directory, which holds plain files only, and executes nothing;
- *seccomp*: no new process or thread, no socket, no signal, no system calls that confinement knows nothing of.

They are the kernel's and need no privilege. Namespaces or Landlock may be missing; `active_layers` says what is there.
Without seccomp, or without both of the others, nothing is run: seccomp alone keeps a fork bomb of root's from filling
the machine before it can be killed.

What the sandbox is not. It is not a virtual machine: a hole in the kernel is a hole in it, and it is meant for what
models write by accident or while they are trained, not for attackers with a grudge. And tests share a process with
the program that they test, as those of HumanEval and MBPP must. Pretending to have passed takes a secret that is in the
process only after the tests, so no exit, no signal and nothing written passes; but a program can return objects that
are equal to everything, replace functions of the library that the tests call, or read the secret early from the pipe
in which it waits. Look at what a model writes before believing a surprising score.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lensrl.errors import LensrlError

Program = Sequence[str]  # parts; each is compiled on its own, so that an open bracket or string cannot swallow the next

MIB = 2**20
ATTEMPTS = 2  # for a program during which the server dies: once may be chance


@dataclass(frozen=True)
class Outcome:
    """Whether a program reached its end, and if not, why not: its exception, or what ended it."""

    passed: bool
    reason: str


def run_programs(programs: Sequence[Program], *, timeout: float, memory: int) -> list[Outcome]:
    """The outcome of each program, in their order.

    `timeout` is in seconds of wall clock, and of processor time (rounded up); `memory` in MiB of address space.
    Raises LensrlError where the machine cannot confine a program.
    """
    return _shared(os.getpid()).run(programs, timeout=timeout, memory=memory)


def active_layers() -> tuple[str, ...]:
    """What confines a program on this machine: some of `namespaces`, `landlock`, `seccomp`."""
    return _shared(os.getpid()).layers


@cache
def _shared(process: int) -> Sandbox:
    """One sandbox per process: a forked one must not share its parent's socket."""
    return Sandbox()


class _Lost(Exception):
    """The server is gone."""


class Sandbox:
    """A server process that runs programs, started when needed and again when it has died. `without`: for tests."""

    def __init__(self, *, without: Sequence[str] = ()) -> None:
        self.workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
        self._without = without
        self._server: _Server | None = None
        self._turn = threading.Lock()
        self._owner = os.getpid()
        atexit.register(self.close)

    @property
    def layers(self) -> tuple[str, ...]:
        with self._turn:
            return self._started().layers

    def run(self, programs: Sequence[Program], *, timeout: float, memory: int) -> list[Outcome]:
        """As `run_programs`."""
        outcomes: dict[int, Outcome] = {}
        attempts = dict.fromkeys(range(len(programs)), 0)
        with self._turn:
            while waiting := [i for i in attempts if i not in outcomes]:
                server = self._started()
                in_flight: set[int] = set()
                try:
                    while waiting or in_flight:
                        while waiting and len(in_flight) < self.workers:
                            in_flight.add(i := waiting.pop(0))
                            attempts[i] += 1
                            parts = list(programs[i])
                            server.send({"id": i, "parts": parts, "timeout": timeout, "memory": memory * MIB})
                        i, outcome = server.receive()
                        outcomes[i] = outcome
                        in_flight.remove(i)
                except _Lost:
                    self._stop()
                    for i in in_flight:
                        if attempts[i] >= ATTEMPTS:
                            outcomes[i] = Outcome(False, "the sandbox's server died while it ran")
                except BaseException:  # an answer that nobody waits for must not become that to a later question
                    self._stop()
                    raise
        return [outcomes[i] for i in range(len(programs))]

    def close(self) -> None:
        """End the server and everything in it. A later call to `run` starts another."""
        if os.getpid() == self._owner:
            with self._turn:
                self._stop()

    def _started(self) -> _Server:
        if self._server is None:
            self._server = _Server(self._without)
        return self._server

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Server:
    """One life of the process in `server.py`. A fresh interpreter: ours may hold threads and gigabytes."""

    def __init__(self, without: Sequence[str]) -> None:
        if sys.platform != "linux":
            raise LensrlError(f"running programs needs the Linux kernel's confinement; this is {sys.platform}")
        self.folder = tempfile.mkdtemp(prefix="lensrl-sandbox-")
        self.socket, theirs = socket.socketpair()
        command = [sys.executable, "-s", "-S", "-X", "utf8", str(Path(__file__).with_name("server.py"))]
        try:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), self.folder, ",".join(without)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={"PYTHONHASHSEED": "0"},  # the same verdict every time
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self.folder)
            raise LensrlError(f"the sandbox's server does not start: {error}") from None
        theirs.close()
        self._answers = self.socket.makefile("rb")
        try:
            hello = self._line()
        except _Lost:
            self.close()
            raise LensrlError("the sandbox's server does not start") from None
        self.layers: tuple[str, ...] = tuple(hello["layers"])
        if "seccomp" not in self.layers or len(self.layers) < 2:
            self.close()
            raise LensrlError(
                f"programs cannot be confined on this machine: it needs seccomp (on x86_64 or aarch64), and user "
                f"namespaces ({hello['no_namespaces'] or 'there are'}) or Landlock; it has "
                f"{', '.join(self.layers) or 'none of them'}; run elsewhere, or in a container that allows them"
            )

    def send(self, request: dict[str, Any]) -> None:
        data = json.dumps(request).encode()
        try:
            self.socket.sendall(struct.pack("<I", len(data)) + data)
        except OSError:
            raise _Lost from None

    def receive(self) -> tuple[int, Outcome]:
        answer = self._line()
        if "broken" in answer:
            raise LensrlError(f"the sandbox could not confine a program: {answer['broken']}")
        return answer["id"], Outcome(answer["passed"], answer["reason"])

    def _line(self) -> dict[str, Any]:
        try:
            line = self._answers.readline()
        except OSError:
            raise _Lost from None
        if not line.endswith(b"\n"):
            raise _Lost
        return json.loads(line)

    def close(self) -> None:
        self._answers.close()
        self.socket.close()
        self.process.wait()  # the server ends with its socket, everything in it with the server
        shutil.rmtree(self.folder, ignore_errors=True)  # it did that itself, unless it was killed

"""Run small Python programs that nobody has read: the sandbox of the tasks that are judged by tests.

    outcomes = run_programs([("def f(x): return x + 1", "assert f(1) == 2")], timeout=3.0, memory=512)

A program is a sequence of parts, executed one after another in one namespace. It passes if it reaches its last line
within the limits. Exit with any status does not count as reaching it. Programs run in parallel on every core.

Every program has limits on time, memory, open files and written bytes, an empty environment, a temporary directory of
its own, and no input or output. Processor time decides, so that a busy machine changes no verdict. Wall clock is a
second limit, WALL times as long, for programs that sleep. Time in which a program waited for a core does not count,
where the kernel tells it (`/proc/PID/schedstat`). Three layers of the kernel confine a program further:

- *namespaces*: no network; process ids of its own, so that it sees no process to signal and nothing survives it; all
  file systems read-only except a small one in memory, which vanishes with it;
- *landlock*: it reads Python's library, the packages that are named, and its own directory, which holds only plain
  files, and executes nothing;
- *seccomp*: no new process or thread, no socket, no signal, and no system call that the other layers do not cover.

The layers need no privilege. Namespaces or Landlock may be missing; `active_layers` reports the active layers. Nothing
runs without seccomp, or without both of the others: only seccomp keeps a fork bomb of root's from filling the machine
before it can be killed.

The sandbox is not a virtual machine: a hole in the kernel is a hole in the sandbox. It is meant for programs that
models write by accident or in training, not for determined attackers.

Tests share a process with the program that they test, as HumanEval's and MBPP's tests must. To pass, the process must
send a secret that it receives only after the tests. So no exit, no signal and no written output passes. But a program
can return objects that equal everything, replace library functions that the tests call, or read the secret early from
the pipe in which it waits. Read the model's programs before you believe a surprising score.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lensrl.errors import LensrlError

Program = Sequence[str]  # parts, compiled one by one: an open bracket or string cannot swallow the next part

MIB = 2**20
# The same hashes, and so the same outcome, every time. No threads in linear algebra: programs may start none.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
WALL = 10  # seconds of wall clock for each second of processor time
ATTEMPTS = 2  # for a program during which the server dies: a single death may be chance


@dataclass(frozen=True)
class Outcome:
    """The outcome of a program.

    `passed` says whether it reached its end. `reason` says why not: its exception, or the cause of its end.
    """

    passed: bool
    reason: str


def run_programs(
    programs: Sequence[Program], *, timeout: float, memory: int, packages: Sequence[str] = ()
) -> list[Outcome]:
    """Run programs and return their outcomes, in the same order.

    `timeout` is in seconds of processor time. `memory` is in MiB of address space, beside what `packages` take: these
    are the packages of this environment that programs may import, by the names under which they are imported. Raises
    LensrlError if this machine cannot confine a program, and for packages that cannot be imported.
    """
    return _shared(os.getpid(), tuple(packages)).run(programs, timeout=timeout, memory=memory)


def active_layers() -> tuple[str, ...]:
    """Return the layers that confine a program on this machine: some of `namespaces`, `landlock`, `seccomp`."""
    return _shared(os.getpid(), ()).layers


def find_packages(names: Sequence[str]) -> dict[str, str]:
    """Return the path of each package by its name: its folder, or its only file.

    Raises LensrlError for a package that is not installed here.
    """
    found = {}
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None or name in sys.stdlib_module_names:
            why = "Python has it already" if name in sys.stdlib_module_names else "it is not installed here"
            raise LensrlError(f"packages: no package {name!r} to import in the sandbox: {why}")
        found[name] = os.path.dirname(spec.origin) if spec.submodule_search_locations else spec.origin
    return found


@cache
def _shared(process: int, packages: tuple[str, ...]) -> Sandbox:
    """Return the sandbox of this process. A forked process needs its own: it must not share its parent's socket."""
    return Sandbox(packages=packages)


class _ServerLost(Exception):
    """The server process has ended."""


class Sandbox:
    """A server process that runs programs. It starts when needed, and again after its death.

    `packages` can be imported by its programs. `without` switches layers off, for tests.
    """

    def __init__(self, *, packages: Sequence[str] = (), without: Sequence[str] = ()) -> None:
        self.workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
        self._packages = find_packages(packages)
        self._without = without
        self._server: _Server | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()
        atexit.register(self.close)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that confine a program."""
        with self._lock:
            return self._running_server().layers

    def run(self, programs: Sequence[Program], *, timeout: float, memory: int) -> list[Outcome]:
        """Run programs as `run_programs` does."""
        outcomes: dict[int, Outcome] = {}
        attempts = dict.fromkeys(range(len(programs)), 0)
        with self._lock:
            while waiting := [i for i in attempts if i not in outcomes]:
                server = self._running_server()
                in_flight: set[int] = set()
                try:
                    # Keep every worker busy, and collect outcomes as they arrive.
                    while waiting or in_flight:
                        while waiting and len(in_flight) < self.workers:
                            in_flight.add(i := waiting.pop(0))
                            attempts[i] += 1
                            parts = list(programs[i])
                            limits = {"timeout": timeout, "wall": WALL * timeout, "memory": memory * MIB}
                            server.send({"id": i, "parts": parts, **limits})
                        i, outcome = server.receive()
                        outcomes[i] = outcome
                        in_flight.remove(i)
                # A program that was in flight may have killed the server: it gets one more attempt.
                except _ServerLost:
                    self._stop()
                    for i in in_flight:
                        if attempts[i] >= ATTEMPTS:
                            outcomes[i] = Outcome(False, "the sandbox's server died while it ran")
                except BaseException:  # a pending answer must not be read as the answer to a later request
                    self._stop()
                    raise
        return [outcomes[i] for i in range(len(programs))]

    def close(self) -> None:
        """End the server and all its programs. A later call to `run` starts a new server."""
        if os.getpid() == self._owner:
            with self._lock:
                self._stop()

    def _running_server(self) -> _Server:
        if self._server is None:
            self._server = _Server(self._without, self._packages)
        return self._server

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Server:
    """One life of the process in `server.py`.

    It is a fresh interpreter, because ours may hold threads and gigabytes.
    """

    def __init__(self, without: Sequence[str], packages: dict[str, str]) -> None:
        if sys.platform != "linux":
            raise LensrlError(f"running programs needs the Linux kernel's confinement; this is {sys.platform}")
        self.folder = tempfile.mkdtemp(prefix="lensrl-sandbox-")
        self.socket, server_end = socket.socketpair()
        # Start the server with the other end of a socket, a nearly empty environment, and its own session.
        command = [sys.executable, "-s", "-S", "-X", "utf8", str(Path(__file__).with_name("server.py"))]
        try:
            self.process = subprocess.Popen(
                [*command, str(server_end.fileno()), self.folder, ",".join(without), json.dumps(packages)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[server_end.fileno()],
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self.folder)
            raise LensrlError(f"the sandbox's server does not start: {error}") from None
        server_end.close()
        # The server's first line names the active layers. Refuse to run programs with too few of them.
        self._answers = self.socket.makefile("rb")
        try:
            hello = self._read_line()
        except _ServerLost:
            self.close()
            raise LensrlError("the sandbox's server does not start") from None
        if hello["no_package"]:
            self.close()
            raise LensrlError(
                f"packages: the sandbox cannot import {hello['no_package']}; packages must also name what they import"
            )
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
            raise _ServerLost from None

    def receive(self) -> tuple[int, Outcome]:
        answer = self._read_line()
        if "broken" in answer:
            raise LensrlError(f"the sandbox could not confine a program: {answer['broken']}")
        return answer["id"], Outcome(answer["passed"], answer["reason"])

    def _read_line(self) -> dict[str, Any]:
        try:
            line = self._answers.readline()
        except OSError:
            raise _ServerLost from None
        if not line.endswith(b"\n"):
            raise _ServerLost
        return json.loads(line)

    def close(self) -> None:
        self._answers.close()
        self.socket.close()
        self.process.wait()  # the server ends with its socket, and every program with the server
        shutil.rmtree(self.folder, ignore_errors=True)  # the server removes it too, unless it was killed

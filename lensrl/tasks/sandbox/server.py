"""The process that runs the programs: `python server.py CONTROL FOLDER WITHOUT PACKAGES`.

`lensrl.tasks.sandbox` starts it.

There are three generations. The *guard* enters the namespaces and waits. When the process that started it is gone, the
guard kills the rest and removes the folder. The guard's child, the *server*, is the first process of a PID namespace,
so the kernel ends everything in the namespace when the server ends. The server forks one child per program. The child
is the first process of a namespace of its own, and confines itself before it runs a line of the program.

CONTROL is a socket. Requests are a length (4 bytes) and a JSON object {id, parts, timeout, wall, memory}. Answers are
JSON lines {id, passed, reason} or {id, broken}. The first line from the server names the active layers.

PACKAGES is a JSON object: the path of each package that programs may import. The server imports them once, before it
forks, so that a program finds them in its memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import math
import os
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from dataclasses import dataclass

import execution
import kernel
from execution import MOST_BYTES

for module in ("kernel", "execution"):  # no program can import the files of this folder
    del sys.modules[module]
del sys.path[0]
READY = (
    *("bisect", "collections", "copy", "dataclasses", "datetime", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "operator", "re", "statistics", "string", "typing"),
)
for name in READY:  # imported once here, because most small programs import them
    importlib.import_module(name)

CONFINED = b"+"  # the child's first byte: all later bytes come from the program, or after it
PATIENCE = 60  # seconds for a child to confine itself; the program's own time begins after that
LAYERS = ("namespaces", "landlock", "seccomp")
NEXT_LOOK = 0.002  # seconds at least between two looks at a program's processor time
MORE_SECONDS = 1  # of processor time until the kernel ends a program by itself: the server looks first


@dataclass
class Program:
    """A running program.

    `timeout` is in seconds of processor time, `wall` in seconds of wall clock. Both begin when the program does.
    `deadline` is the time of the next look at it.
    """

    id: int
    pid: int
    answer: int  # read end of the pipe on which it reports its end
    secret: bytes  # the report of a passed program
    deadline: float
    timeout: float
    wall: float
    folder: str
    began: float = math.inf  # on the wall clock
    spent: float = 0.0  # processor time before it began
    said: bytes = b""

    @property
    def too_long(self) -> str:
        return f"ran longer than {self.timeout:g} s of processor time"


class Server:
    """Run programs as they come in, each in a forked child, until the control socket closes."""

    def __init__(
        self,
        control: socket.socket,
        folder: str,
        *,
        namespaces: bool,
        landlock: int,
        seccomp: bytes | None,
        packages: list[str],
        packages_size: int,
    ):
        self.control = control
        self.folder = folder
        self.namespaces = namespaces
        self.landlock = landlock
        self.readable = kernel.readable(packages) if landlock else []
        self.packages_size = packages_size
        self.seccomp = seccomp
        self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY) if namespaces else -1
        self.running: dict[int, Program] = {}  # by the descriptor of the answer
        self.received = bytearray()
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Wait for requests, answers and deadlines, until the control socket closes."""
        while True:
            wait = min((program.deadline for program in self.running.values()), default=math.inf) - time.monotonic()
            for descriptor, _ in self.poll.poll(None if math.isinf(wait) else max(0, math.ceil(wait * 1000))):
                if descriptor != self.control.fileno():
                    self.read_answer(self.running[descriptor])
                elif not self.receive_requests():
                    return
            now = time.monotonic()
            for program in [program for program in self.running.values() if program.deadline <= now]:
                self.look_at(program, now)

    def look_at(self, program: Program, now: float) -> None:
        """End a program that has reached a limit, or set the time of the next look at it.

        Time in which it waited for a core does not count as wall clock.

        A program has one thread: it cannot reach the limit on processor time before the rest of it has passed.
        """
        if not program.said:
            self.finish(program, "too slow to begin")
            return
        left = program.timeout - (kernel.processor_time(program.pid) - program.spent)
        until = program.began + program.wall
        if now >= until:  # on an overloaded machine a program waits without sleeping
            until += kernel.waited_for_core(program.pid)
        if left <= 0:
            self.finish(program, program.too_long)
        elif now >= until:
            self.finish(program, f"ran longer than {program.wall:g} s of wall clock")
        else:
            program.deadline = min(now + max(left, NEXT_LOOK), until)

    def receive_requests(self) -> bool:
        """Start every complete request that has arrived. Return False if the other end has closed."""
        data = self.control.recv(2**20)
        self.received += data
        while len(self.received) >= 4:
            (length,) = struct.unpack_from("<I", self.received)
            if len(self.received) < 4 + length:
                break
            self.start(json.loads(self.received[4 : 4 + length]))
            del self.received[: 4 + length]
        return bool(data)

    def start(self, request: dict) -> None:
        """Fork a child for a request, and hand it a secret through a pipe."""
        folder = self.folder if self.namespaces else tempfile.mkdtemp(dir=self.folder)
        secret_out, secret_in = os.pipe()
        answer_out, answer_in = os.pipe()
        if self.namespaces:
            kernel.unshare(kernel.NEW_PID)
        pid = os.fork()
        if pid == 0:
            self.child(request, folder, secret_out, answer_in)
        if self.namespaces:
            kernel.set_pid_namespace(self.own_pids)  # so that the next child can have its own namespace
        os.close(secret_out)
        os.close(answer_in)
        secret = os.urandom(32)  # drawn after the fork: not in the child's memory
        with contextlib.suppress(BrokenPipeError):  # the child may have ended already
            os.write(secret_in, secret)
        os.close(secret_in)
        deadline = time.monotonic() + PATIENCE
        self.running[answer_out] = Program(
            id=request["id"], pid=pid, answer=answer_out, secret=secret, deadline=deadline,
            timeout=request["timeout"], wall=request["wall"], folder=folder,
        )  # fmt: skip
        self.poll.register(answer_out, select.POLLIN)

    def read_answer(self, program: Program) -> None:
        """Read from a program: its time begins with the first byte.

        A further byte, or the end of the pipe, is the end of the program.
        """
        data = os.read(program.answer, MOST_BYTES)
        program.said += data
        if program.said != CONFINED or not data:
            self.finish(program, "ended before its last line")
        else:
            program.spent = kernel.processor_time(program.pid)
            program.began = time.monotonic()
            program.deadline = program.began + program.timeout

    def finish(self, program: Program, otherwise: str) -> None:
        """Kill the remains of a program and send its outcome.

        `otherwise` is the reason if the program reported none. A program that took too much processor time has not
        passed, whatever it reports: on a busy machine the server may look too late.
        """
        os.kill(program.pid, signal.SIGKILL)
        # In a PID namespace, every descendant has ended when this returns.
        _, _, usage = os.wait4(program.pid, 0)
        spent = usage.ru_utime + usage.ru_stime - program.spent
        self.poll.unregister(program.answer)
        del self.running[program.answer]
        os.close(program.answer)
        if not self.namespaces:
            shutil.rmtree(program.folder)
        confined, said = program.said[:1] == CONFINED, program.said[1:]
        if confined and spent >= program.timeout:
            answer = {"passed": False, "reason": program.too_long}
        elif said == program.secret:
            answer = {"passed": True, "reason": "passed"}
        elif confined:
            answer = {"passed": False, "reason": said.decode("utf-8", "replace") or otherwise}
        else:
            answer = {"broken": program.said.decode("utf-8", "replace") or otherwise}
        self.control.sendall(json.dumps({"id": program.id, **answer}).encode() + b"\n")

    def child(self, request: dict, folder: str, secret: int, answer: int) -> None:
        """Confine this process, run the program, report its end. Never returns."""
        try:
            # Files: a file system and a directory of its own, no privileges, and Landlock's rules.
            os.setsid()
            if self.namespaces:
                kernel.unshare(kernel.NEW_MOUNTS)
                kernel.mount_tmpfs(folder)
            else:
                kernel.die_with_parent()
            os.chdir(folder)
            null = os.open("/dev/null", os.O_RDWR)
            kernel.drop_privileges()
            if self.landlock:
                kernel.landlock(self.landlock, self.readable)
            # Descriptors: 0 to 2 are /dev/null, 3 the secret, 4 the answer. Copies above 4 first avoid collisions.
            kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 5) for descriptor in (null, null, null, secret, answer)]
            for number, descriptor in enumerate(kept):
                os.dup2(descriptor, number)
            os.closerange(5, 1 << 20)
            # Limits and the system call filter come last: the filter denies calls of the steps above, such as mount.
            seconds = math.ceil(request["timeout"]) + MORE_SECONDS
            kernel.limit(seconds=seconds, memory=request["memory"] + self.packages_size)
            if self.seccomp:
                kernel.seccomp(self.seccomp)
            os.write(4, CONFINED)
        except BaseException as error:
            # Without CONFINED at its beginning: the sandbox failed, not the program.
            os.write(answer, f"{type(error).__name__}: {error}".encode()[:MOST_BYTES])
            os._exit(1)
        execution.run(request["parts"], secret=3, answer=4)


def main() -> None:
    """Enter the namespaces, fork the server, and stay as its guard."""
    control = socket.socket(fileno=int(sys.argv[1]))
    folder, without, packages = sys.argv[2], sys.argv[3].split(","), json.loads(sys.argv[4])
    starter = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    namespaces, why = "namespaces" not in without, "switched off"
    if namespaces:
        try:
            kernel.enter_namespaces()
        except OSError as error:
            namespaces, why = False, str(error)
    # The child becomes the server: it reports the active layers and serves until the socket closes.
    server = os.fork()
    if server == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        kernel.die_with_parent()
        if namespaces:
            try:
                kernel.read_only_mounts(folder)
            except OSError as error:
                namespaces, why = False, str(error)
        landlock = 0 if "landlock" in without else kernel.landlock_version()
        seccomp = None if "seccomp" in without else kernel.seccomp_filter()
        active = dict(zip(LAYERS, (namespaces, landlock, seccomp), strict=True))
        size = kernel.address_space()
        hello = {
            "layers": [layer for layer, on in active.items() if on],
            "no_namespaces": "" if namespaces else why,
            "no_package": execution.load_packages(packages),
        }
        size = kernel.address_space() - size
        control.sendall(json.dumps(hello).encode() + b"\n")
        threads = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
        os.environ.clear()
        for name, value in threads.items():  # for libraries that a program loads later; not in os.environ
            os.putenv(name, value)
        gc.freeze()
        with contextlib.suppress(ConnectionError):  # the other end has closed
            Server(
                control, folder, namespaces=namespaces, landlock=landlock, seccomp=seccomp,
                packages=list(packages.values()), packages_size=size,
            ).serve()  # fmt: skip
        os._exit(0)
    # The parent stays as the guard: it ends the server when the process that started it is gone.
    control.close()
    while os.waitpid(server, os.WNOHANG) == (0, 0):
        if os.getppid() != starter:
            os.kill(server, signal.SIGKILL)
        signal.sigtimedwait([signal.SIGCHLD], 1.0)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

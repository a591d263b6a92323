"""The process that runs the programs: `python server.py CONTROL FOLDER WITHOUT`, started by `lensrl.tasks.sandbox`.

Three generations. The *guard* enters the namespaces and waits: when the process that started it is gone, it kills the
rest and removes the folder. Its child, the *server*, is the first process of a PID namespace, so that the kernel ends
everything in it when the server ends. The server forks once per program, and that child, the first process of a
namespace of its own, confines itself before it runs a line of the program.

On CONTROL, a socket: requests as a length (4 bytes) and a JSON object {id, parts, timeout, memory}; answers as JSON
lines {id, passed, reason} or {id, broken}; the first line says which layers are active.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import gc
import importlib
import json
import math
import os
import random
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import types
from dataclasses import dataclass

import kernel

del sys.path[0], sys.modules["kernel"]  # no program imports us
READY = (
    *("bisect", "collections", "copy", "dataclasses", "datetime", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "operator", "re", "statistics", "string", "typing"),
)
for name in READY:  # what small programs import
    importlib.import_module(name)

CONFINED = b"+"  # the child's first byte: whatever follows comes from the program or after it
PATIENCE = 60  # seconds for a child to confine itself; only then does its own time begin
MOST = 300  # bytes of an answer that are read
LAYERS = ("namespaces", "landlock", "seccomp")


@dataclass
class Program:
    """A program being run."""

    id: int
    pid: int
    answer: int  # read end of the pipe on which it says how it ended
    secret: bytes  # what it must say to have passed
    deadline: float
    timeout: float
    folder: str
    said: bytes = b""


class Server:
    """Runs programs as they come in, each in a forked child, until the control socket closes."""

    def __init__(self, control: socket.socket, folder: str, *, namespaces: bool, landlock: int, seccomp: bytes | None):
        self.control = control
        self.folder = folder
        self.namespaces = namespaces
        self.landlock = landlock
        self.readable = kernel.readable() if landlock else []
        self.seccomp = seccomp
        self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY) if namespaces else -1
        self.running: dict[int, Program] = {}  # by the descriptor of the answer
        self.received = bytearray()
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    def serve(self) -> None:
        while True:
            wait = min((program.deadline for program in self.running.values()), default=math.inf) - time.monotonic()
            for descriptor, _ in self.poll.poll(None if math.isinf(wait) else max(0, math.ceil(wait * 1000))):
                if descriptor != self.control.fileno():
                    self.hear(self.running[descriptor])
                elif not self.accept():
                    return
            now = time.monotonic()
            for program in [program for program in self.running.values() if program.deadline <= now]:
                self.end(program, f"ran longer than {program.timeout:g} s" if program.said else "too slow to begin")

    def accept(self) -> bool:
        """Start what has arrived. False when nobody is there any more."""
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
        folder = self.folder if self.namespaces else tempfile.mkdtemp(dir=self.folder)
        secret_out, secret_in = os.pipe()
        answer_out, answer_in = os.pipe()
        if self.namespaces:
            kernel.unshare(kernel.NEW_PID)
        pid = os.fork()
        if pid == 0:
            self.child(request, folder, secret_out, answer_in)
        if self.namespaces:
            kernel.set_pid_namespace(self.own_pids)  # so that the next child can have a namespace of its own
        os.close(secret_out)
        os.close(answer_in)
        secret = os.urandom(32)  # made after the fork: not in the child's memory
        with contextlib.suppress(BrokenPipeError):  # it may be over already
            os.write(secret_in, secret)
        os.close(secret_in)
        deadline = time.monotonic() + PATIENCE
        self.running[answer_out] = Program(request["id"], pid, answer_out, secret, deadline, request["timeout"], folder)
        self.poll.register(answer_out, select.POLLIN)

    def hear(self, program: Program) -> None:
        data = os.read(program.answer, MOST)
        program.said += data
        if program.said != CONFINED or not data:
            self.end(program, "ended before its last line")
        else:
            program.deadline = time.monotonic() + program.timeout

    def end(self, program: Program, otherwise: str) -> None:
        """Kill what is left of a program and say how it went; `otherwise`: when it has not said so itself."""
        os.kill(program.pid, signal.SIGKILL)
        os.waitpid(program.pid, 0)  # in a PID namespace, every descendant is gone when this returns
        self.poll.unregister(program.answer)
        del self.running[program.answer]
        os.close(program.answer)
        if not self.namespaces:
            shutil.rmtree(program.folder)
        confined, said = program.said[:1] == CONFINED, program.said[1:]
        if said == program.secret:
            answer = {"passed": True, "reason": "passed"}
        elif confined:
            answer = {"passed": False, "reason": said.decode("utf-8", "replace") or otherwise}
        else:
            answer = {"broken": program.said.decode("utf-8", "replace") or otherwise}
        self.control.sendall(json.dumps({"id": program.id, **answer}).encode() + b"\n")

    def child(self, request: dict, folder: str, secret: int, answer: int) -> None:
        """Confine this process, run the program, say how it ended. Never returns."""
        try:
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
            # Above 4 first, out of each other's way.
            kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 5) for descriptor in (null, null, null, secret, answer)]
            for number, descriptor in enumerate(kept):
                os.dup2(descriptor, number)
            os.closerange(5, 1 << 20)
            kernel.limit(seconds=math.ceil(request["timeout"]), memory=request["memory"])
            if self.seccomp:
                kernel.seccomp(self.seccomp)
            os.write(4, CONFINED)
        except BaseException as error:
            os.write(answer, f"{type(error).__name__}: {error}".encode()[:MOST])  # not CONFINED: we are to blame
            os._exit(1)
        run(request["parts"], secret=3, answer=4)


def run(parts: list[str], *, secret: int, answer: int) -> None:
    """Execute the parts one after another in one namespace; read the secret and say it once the last one is through.

    What is needed afterwards is taken before: a program that replaces `os.write` or `builtins.all` replaces it for
    itself, and the built-in functions are put back before the next part. A program that exits in any way says nothing.
    """
    read, write, leave = os.read, os.write, os._exit
    execute, compiled, settrace, setprofile = exec, compile, sys.settrace, sys.setprofile
    originals, restore = dict(vars(builtins)), builtins.__dict__.update
    module = types.ModuleType("program")
    namespace = module.__dict__
    sys.modules["program"] = sys.modules["__main__"] = module
    sys.argv[:] = ["program"]
    random.seed(0)  # the same verdict every time
    try:
        try:
            for part in parts:
                execute(compiled(part, "<program>", "exec", dont_inherit=True), namespace)
                settrace(None)
                setprofile(None)
                restore(originals)
            said = read(secret, 32)
        except BaseException as error:
            restore(originals)
            said = describe(error)
        write(answer, said)
    finally:  # even when the program has closed the pipe, or is stopped once more while it is described
        leave(0)


def describe(error: BaseException) -> bytes:
    try:
        return f"{type(error).__name__}: {error}".encode("utf-8", "replace")[: MOST - 1]
    except BaseException:  # an exception of the program's own, which may do anything when it is shown
        return b"an exception that cannot be shown"


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    folder, without = sys.argv[2], sys.argv[3].split(",")
    starter = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    namespaces, why = "namespaces" not in without, "switched off"
    if namespaces:
        try:
            kernel.enter_namespaces()
        except OSError as error:
            namespaces, why = False, str(error)
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
        hello = {"layers": [layer for layer, on in active.items() if on], "no_namespaces": "" if namespaces else why}
        control.sendall(json.dumps(hello).encode() + b"\n")
        os.environ.clear()
        gc.freeze()
        with contextlib.suppress(ConnectionError):  # nobody listens any more
            Server(control, folder, namespaces=namespaces, landlock=landlock, seccomp=seccomp).serve()
        os._exit(0)
    control.close()
    while os.waitpid(server, os.WNOHANG) == (0, 0):
        if os.getppid() != starter:
            os.kill(server, signal.SIGKILL)
        signal.sigtimedwait([signal.SIGCHLD], 1.0)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

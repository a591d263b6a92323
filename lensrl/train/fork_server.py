"""Fork server: a process that loads the libraries once, and starts workers as copies of itself.

A copy starts in milliseconds, where torch, transformers and TRL take up to ten seconds of the processor. Copies share
the memory of the libraries, half a gigabyte.

The server holds no study: it starts workers, and says how they ended. Where the server itself ends, its workers go on,
and the next start begins another server. A worker loads its libraries itself where it cannot be a copy: on macOS, whose
frameworks do not work after a fork, and where loading the libraries has touched CUDA.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Collection, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from weakref import finalize

from lensrl.errors import LensrlError
from lensrl.train.plan import load_workshop
from lensrl.train.worker import work

GRACE = 20.0  # seconds that a worker has to remove its unfinished files before it is killed
LENGTH = 4096  # bytes of a message: all are filled up to it, since a socket does not keep them apart


class Child:
    """A worker as its starter sees it. The worker alone can write to the pipe `life`, which closes at its end."""

    def __init__(self, pipe: Connection, life: int) -> None:
        self.pipe = pipe
        self.process: int | None = None  # number of the process, once it is known
        self._life: int | None = life

    def has_ended(self, timeout: float) -> bool:
        """Wait for the worker's end, for `timeout` seconds at most. Return whether it has ended."""
        until = time.monotonic() + timeout
        while self._life is not None and wait([self._life], max(0.0, until - time.monotonic())):
            if number := os.read(self._life, LENGTH):
                self.process = int(number)
            else:
                os.close(self._life)
                self._life = None
        return self._life is None

    def kill(self) -> None:
        """Kill the worker, and wait for its end. One that the server has not started yet ends with the server."""
        if not self.has_ended(0.0) and self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            self.has_ended(60.0)


class ForkServer:
    """Starts workers. Each computes with `threads` threads, unless OMP_NUM_THREADS is set.

    They take turns on the GPUs `devices`, as CUDA_VISIBLE_DEVICES names them; without any, on those that are visible.
    """

    def __init__(self, threads: int, devices: Sequence[str] = ()) -> None:
        self._threads = threads
        self._devices = [*devices]
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def begin(self) -> None:
        """Start the server, where none is living. It loads the libraries from now on."""
        if self._process is not None and self._process.poll() is None:
            return
        self._close()
        self._line, theirs = socket.socketpair()
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(self._threads))
        # The question whether there is a GPU is answered without touching CUDA, which a copy could not use then.
        environment.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        # In a session of its own: Ctrl-C in the terminal reaches this process alone, which then ends the workers.
        self._process = subprocess.Popen(
            _python(__name__, f"serve({theirs.fileno()})"), env=environment, pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        finalize(self, self._process.terminate)  # while it loads, it does not see that this process has ended

    def start(self, place: int) -> Child:
        """Start a worker. It begins once the libraries are loaded. `place` is its turn on the GPUs."""
        ours, theirs = Pipe()
        life, death = os.pipe()
        try:
            self._ask({"start": place, "devices": self._devices}, [theirs.fileno(), death])
        finally:
            theirs.close()
            os.close(death)
        return Child(ours, life)

    def exit_code(self, worker: Child) -> int | None:
        """Return how an ended worker has ended, as `subprocess` says it; None where no server is left that knows it."""
        worker.has_ended(60.0)
        if self._process is None or self._line is None:
            return None
        if worker.process is None:  # its server has ended without starting it; another one may be there by now
            return self._process.poll()
        with suppress(OSError, ValueError):
            self._line.sendall(_message({"ended": worker.process}))
            return int(self._line.recv(LENGTH))
        return None

    def end(self, workers: Collection[Child]) -> None:
        """End the workers, then the server. A worker ends with its pipe; after `GRACE` seconds it is killed."""
        if self._process is not None:
            self._process.terminate()  # while it loads its libraries; later it ends with its line
        for worker in workers:
            worker.pipe.close()
        until = time.monotonic() + GRACE
        for worker in workers:
            if not worker.has_ended(until - time.monotonic()):
                worker.kill()
        self._close()

    def _close(self) -> None:
        if self._process is not None and self._line is not None:
            self._line.close()
            self._process.wait()
        self._process = self._line = None

    def _ask(self, request: dict[str, object], descriptors: list[int]) -> None:
        for _ in range(3):
            self.begin()
            assert self._line is not None
            try:
                socket.send_fds(self._line, [_message(request)], descriptors)
                return
            except (BrokenPipeError, ConnectionResetError):
                self._close()  # a process that is killed closes its line a moment before it counts as ended
        raise LensrlError("the process that starts workers ends at once; run without --workers, to see why")


def serve(descriptor: int) -> None:
    """Start workers as they are asked for, until the other end is closed. This is the main function of the server."""
    load_workshop()
    gc.freeze()  # no copy looks for garbage in what is loaded: it would copy this memory, and take seconds at its end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from now on it ends after its workers, which it has to wait for
    # Python warns of a fork beside other threads. The only one is that of Arrow's allocator, which is made for forks.
    warnings.simplefilter("ignore", DeprecationWarning)
    line = socket.socket(fileno=descriptor)
    while True:
        said, descriptors, _, _ = socket.recv_fds(line, LENGTH, 2, socket.MSG_WAITALL)
        if not said:
            with suppress(ChildProcessError):
                while True:
                    os.wait()
            os._exit(0)  # there is nothing to write, and to take the libraries down is half a second's work
        request = json.loads(said)
        if "ended" in request:
            line.sendall(_ended(request["ended"]))
        elif os.fork() == 0:
            line.close()
            _become_worker(request["start"], request["devices"], *descriptors)
            return
        for one in descriptors:
            os.close(one)


def _ended(process: int) -> bytes:
    try:
        return str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])).encode()
    except ChildProcessError:  # an earlier server has started it
        return b"unknown"


def _become_worker(place: int, devices: Sequence[str], pipe: int, life: int) -> None:
    from lensrl.models.base import visible_devices

    os.setsid()
    os.write(life, str(os.getpid()).encode())
    if found := devices or visible_devices():  # NVIDIA's library counts them, which does not touch CUDA
        os.environ["CUDA_VISIBLE_DEVICES"] = found[place % len(found)]
    must_have_gpu = bool(devices)  # where no GPU was asked for, the processor will do
    if sys.platform == "linux" and not _has_touched_cuda():
        work(pipe, must_have_gpu)
        return
    for one in (pipe, life):
        os.set_inheritable(one, True)
    start = _python(work.__module__, f"work({pipe}, {must_have_gpu})")
    os.execv(start[0], start)


def _has_touched_cuda() -> bool:
    """Return whether this process is the copy of one that has touched CUDA, which torch then refuses to use."""
    import torch

    return bool(getattr(torch.cuda, "_is_in_bad_fork", bool)())


def _python(module: str, call: str) -> list[str]:
    return [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {sys.path!r}; import {module} as m; m.{call}"]


def _message(request: dict[str, object]) -> bytes:
    return json.dumps(request).encode().ljust(LENGTH)

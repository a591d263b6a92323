"""Judge completions in a child process, because a completion can contain anything.

Some verifiers of reasoning-gym compute with the text that they read: `9**9**9**9` runs until the machine is out of
memory. An alarm works only in the main thread, and does not interrupt a single long operation. So a child process
judges, with a limit on processor time for each judgement and a limit on memory. `lensrl.tasks.answers` bounds its own
work, and needs these limits only if that fails. A judgement that raises or ends the child is None, and the next
judgement starts a new child. The limit counts processor time, so a verdict hardly depends on the load of the machine.

This bounds the cost of a completion. It is not a sandbox: a judge that executes programs needs `lensrl.tasks.sandbox`.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from importlib import import_module
from typing import IO, Any

from lensrl.errors import LensrlError

SECONDS = 3.0  # of processor time for one judgement; a usual one takes milliseconds
MEMORY = 2 * 2**30  # bytes of address space of the child
_READY = b"ready\n"


class Judge:
    """A function `module:name`, called in a child process from any thread, in bounded time and memory.

    `seconds` limits the processor time of one judgement. Only the child imports the function, whose imports may be
    slow.
    """

    def __init__(self, function: str, *, seconds: float = SECONDS) -> None:
        self._function = function
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, *arguments: Any) -> bool | float | str | None:
        """Return the function's result, or None if the function raises or exceeds a limit.

        Raises LensrlError if the child process cannot be started.
        """
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._child = self._start()
            answer = b""
            try:
                answer = _ask(self._child, pickle.dumps(arguments))
            finally:
                if not answer:  # also after an interrupt: a late answer would be read as the next question's
                    _stop(self._child)
            return json.loads(answer or b"null")

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, self._function, str(self._seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, answers, errors = _pipes(child)
        if answers.readline() != _READY:
            said = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            _stop(child)
            raise LensrlError(f"the process that judges completions did not start: {said[-1]}")
        errors.close()
        weakref.finalize(self, _stop, child)
        return child


def _ask(child: subprocess.Popen[bytes], question: bytes) -> bytes:
    """Send a question and return the child's answer: empty if the question ended the child."""
    questions, answers, _ = _pipes(child)
    try:
        questions.write(question)
        questions.flush()
    except BrokenPipeError:
        return b""
    return answers.readline()


def _pipes(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert child.stdin
    assert child.stdout
    assert child.stderr
    return child.stdin, child.stdout, child.stderr


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in _pipes(child):
        with suppress(BrokenPipeError):  # closing flushes, and the child reads no more
            pipe.close()


def serve(name: str, seconds: float) -> None:
    """Serve as the child process.

    Read pickled arguments on stdin, which come from the parent alone, and write one line of JSON for each.
    """
    # Limit memory before the import of the function, and keep stdout for answers alone.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, function = name.partition(":")
    judge = getattr(import_module(module), function)
    logging.disable()
    answers = os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):  # a library that prints must not write into the answers
        os.dup2(quiet, stream)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    # Answer questions until the parent closes the pipe.
    answers.write(_READY)
    answers.flush()
    with suppress(EOFError):  # the parent is gone
        while True:
            arguments = pickle.load(sys.stdin.buffer)
            signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process, inside a long operation too
            try:
                verdict = judge(*arguments)
            except Exception:  # these libraries may raise anything
                verdict = None
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(json.dumps(verdict).encode() + b"\n")
            answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]))

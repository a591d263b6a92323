"""The processes of the sandbox: their deaths, forks, threads and interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lensrl.errors import LensrlError
from lensrl.tasks import sandbox
from lensrl.tasks.sandbox import Outcome, Sandbox, active_layers, run_programs
from tests.tasks.sandbox.boxes import descendants, gone, outcome, server_of


def test_a_server_that_was_killed_is_replaced(box: Sandbox) -> None:
    assert outcome(box, "x = 1", timeout=5).passed
    for pick in (lambda server: server.process.pid, lambda server: descendants(server.process.pid)[0]):
        before = server_of(box)
        os.kill(pick(before), signal.SIGKILL)
        before.process.wait()
        assert outcome(box, "x = 1", timeout=5).passed
        assert server_of(box) is not before
        assert not os.path.exists(before.folder)


def test_a_server_killed_under_its_programs_has_them_run_again(box: Sandbox) -> None:
    guard = server_of(box).process.pid
    timer = threading.Timer(0.3, os.kill, (descendants(guard)[0], signal.SIGKILL))
    timer.start()
    outcomes = box.run([("import time\ntime.sleep(0.6)",)] * 3, timeout=5, memory=256)
    assert outcomes == [Outcome(True, "passed")] * 3
    timer.join()
    assert gone(guard)


def test_an_interrupted_call_leaves_no_answer_to_the_next(box: Sandbox) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            box.run([("import time\ntime.sleep(0.4)",)] * 4, timeout=5, memory=256)
    finally:
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.4)
    assert not outcome(box, "import time\ntime.sleep(0.1)", "assert False", timeout=5).passed


@pytest.mark.parametrize("end", ["return", "killed"])
def test_nothing_outlives_the_process_that_ran_programs(end: str) -> None:
    code = (
        "from lensrl.tasks import sandbox as s; import os, threading, time\n"
        "s.run_programs([('x = 1',)], timeout=5, memory=256)\n"
        "server = s._shared(os.getpid(), ())._server\n"
        "print(server.process.pid, server.folder, flush=True)\n"
    )
    if end == "killed":  # in the middle of a program
        code += "s.run_programs([('while True: pass',)], timeout=60, memory=256)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    guard, folder = process.stdout.readline().split()
    if end == "killed":
        time.sleep(0.3)
    children = descendants(int(guard))
    if end == "killed":
        process.kill()
    process.wait()
    process.stdout.close()
    assert all(gone(pid) for pid in [int(guard), *children])
    assert not os.path.exists(folder)


def test_a_fork_of_this_process_has_a_server_of_its_own() -> None:
    mine = run_programs([("x = 1",)], timeout=5, memory=256)
    pid = os.fork()
    if pid == 0:
        theirs = run_programs([("x = 1",), ("x = 2", "assert x == 3")], timeout=5, memory=256)
        sandbox._shared(os.getpid(), ()).close()
        os._exit(0 if [o.passed for o in theirs] == [True, False] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert run_programs([("x = 1",)], timeout=5, memory=256) == mine == [Outcome(True, "passed")]


def test_threads_take_turns() -> None:
    def run(number: int) -> list[bool]:
        programs = [(f"x = {number}", f"assert x == {i}") for i in range(8)]
        return [outcome.passed for outcome in run_programs(programs, timeout=5, memory=256)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(8))) == [[i == number for i in range(8)] for number in range(8)]


@pytest.mark.parametrize("missing", [("seccomp",), ("namespaces", "landlock"), ("namespaces", "landlock", "seccomp")])
def test_a_machine_that_cannot_confine_programs_runs_none(missing: tuple[str, ...]) -> None:
    with pytest.raises(LensrlError, match=r"cannot be confined on this machine: it needs seccomp .*; it has "):
        Sandbox(without=missing).run([("x = 1",)], timeout=1, memory=64)


def test_no_programs_need_no_server() -> None:
    assert Sandbox().run([], timeout=1, memory=64) == []
    assert set(active_layers()) <= {"namespaces", "landlock", "seccomp"}

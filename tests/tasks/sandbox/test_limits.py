"""Limits on time: processor time decides, and wall clock ends programs that sleep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lensrl.tasks import sandbox
from lensrl.tasks.sandbox import Outcome, Sandbox
from tests.tasks.sandbox.boxes import outcome

BUSY = "import time\nwhile time.process_time() < {seconds}: pass"


@contextmanager
def crowded(others: int, *, apart: bool = False) -> Iterator[Sandbox]:
    """A sandbox that shares one core with busy processes.

    `apart`: each of them has a session of its own, since some kernels share processor time by session.
    """
    cores = os.sched_getaffinity(0)
    box = Sandbox()
    busy: list[subprocess.Popen[bytes]] = []
    try:
        os.sched_setaffinity(0, {min(cores)})
        command = [sys.executable, "-c", "while True: pass"]
        busy += [subprocess.Popen(command, start_new_session=apart) for _ in range(others)]
        yield box
    finally:
        os.sched_setaffinity(0, cores)
        for process in busy:
            process.kill()
            process.wait()
        box.close()


def test_processor_time_decides_on_a_busy_machine() -> None:
    """One core for this process, its sandbox and three others: a program waits three times as long as it computes."""
    with crowded(3) as box:
        start = time.monotonic()
        short, long = (outcome(box, BUSY.format(seconds=seconds), timeout=0.5) for seconds in (0.3, 0.6))
        assert time.monotonic() - start > 1.2  # 0.3 and 0.5 seconds of processor time
    assert short == Outcome(True, "passed")
    assert long == Outcome(False, "ran longer than 0.5 s of processor time")


@pytest.mark.slow
def test_a_program_without_a_core_is_no_sleeping_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core for the sandbox and eight others: the wall clock runs out while the program waits for the core."""
    monkeypatch.setattr(sandbox, "WALL", 1.5)
    with crowded(8, apart=True) as box:
        start = time.monotonic()
        starved = outcome(box, BUSY.format(seconds=0.3), timeout=0.5)
        took = time.monotonic() - start
        asleep = outcome(box, "import time\ntime.sleep(100)", timeout=0.5)
        long = outcome(box, BUSY.format(seconds=0.6), timeout=0.5)
    assert took > 0.75  # the limit on wall clock
    assert starved == Outcome(True, "passed")
    assert asleep == Outcome(False, "ran longer than 0.75 s of wall clock")
    assert long == Outcome(False, "ran longer than 0.5 s of processor time")


def test_time_in_the_kernel_counts(box: Sandbox) -> None:
    result = outcome(box, "import os\nwhile True: os.listdir('.')", timeout=0.3)
    assert result == Outcome(False, "ran longer than 0.3 s of processor time")

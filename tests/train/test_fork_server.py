"""The fork server: workers as copies of it, how they end, and what follows when it ends itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.recipe.runs import RunSpec
from lensrl.train import fork_server
from lensrl.train.fork_server import Child, ForkServer
from lensrl.train.job import Job
from lensrl.train.watch import NoWatcher
from lensrl.train.workers import Workers
from tests.train.test_workers import QUICK, fork_servers, state, workers_of


def number(worker: Child) -> int:
    """Wait for the worker's start, and return the number of its process."""
    until = time.monotonic() + 240
    while worker.process is None:
        assert not worker.has_ended(0.05)
        assert time.monotonic() < until
    return worker.process


@pytest.mark.slow
def test_workers_start_and_end_and_outlive_their_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    server = ForkServer(threads=1)
    first, second = server.start(0), server.start(1)
    assert number(first) != number(second)
    (process,) = fork_servers(os.getpid())
    assert set(fork_servers(process)) == {first.process, second.process}
    # A worker that is killed is reported; a server that is killed leaves its worker alone.
    os.kill(number(first), signal.SIGKILL)
    assert server.exit_code(first) == -signal.SIGKILL
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert not second.has_ended(0.2)
    third = server.start(0)
    number(third)
    (anew,) = fork_servers(os.getpid())
    assert anew != process
    assert third.process in fork_servers(anew)
    # A pipe that closes ends its worker, with 0. The worker of the killed server is nobody's child here.
    third.pipe.close()
    assert server.exit_code(third) == 0
    second.pipe.close()
    assert server.exit_code(second) is None
    server.end([first, second, third])
    assert not fork_servers(os.getpid())


def test_a_server_ends_at_once_while_it_loads_and_its_workers_never_start() -> None:
    server, start = ForkServer(threads=1), time.monotonic()
    worker = server.start(0)
    server.end([worker])
    assert worker.has_ended(0.0)
    assert worker.process is None
    assert time.monotonic() - start < 20
    assert not fork_servers(os.getpid())


def test_a_server_that_nobody_needs_any_more_ends_while_it_loads() -> None:
    server = ForkServer(threads=1)
    server.begin()
    process = server._process
    assert process is not None
    del server
    assert process.wait(20) == -signal.SIGTERM


def test_a_server_that_is_ending_is_waited_for_and_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process closes its end of the line some time before its parent can see that it has ended."""
    python, begun = fork_server._python, []

    def ending_first(module: str, call: str) -> list[str]:
        begun.append(call)
        if len(begun) > 1:
            return python(module, call)
        line = int(call.removeprefix("serve(").removesuffix(")"))
        return [sys.executable, "-c", f"import os, time; os.close({line}); time.sleep(1)"]

    monkeypatch.setattr(fork_server, "_python", ending_first)
    server = ForkServer(threads=1)
    server.begin()
    first = server._process
    assert first is not None
    assert server._line is not None
    assert server._line.recv(1) == b"", "its end is closed"
    assert first.poll() is None, "and it has not ended"
    worker = server.start(0)
    assert len(begun) == 2
    assert first.returncode == 0
    server.end([worker])


def test_servers_that_all_end_at_once_end_the_command_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(fork_server, "_python", lambda *_: [sys.executable, "-c", ""])
    monkeypatch.setattr(fork_server.socket, "send_fds", broken)
    with pytest.raises(LensrlError, match="ends at once; run without --workers"):
        ForkServer(threads=1).start(0)


@pytest.mark.timeout(120)
def test_workers_of_a_server_killed_while_it_loads_are_given_up_though_another_server_is_there() -> None:
    server = ForkServer(threads=1)
    first, second = server.start(0), server.start(0)
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    assert first.has_ended(20.0)
    assert server.exit_code(first) == -signal.SIGKILL
    third = server.start(0)
    assert server.exit_code(second) is None
    server.end([first, second, third])
    assert not fork_servers(os.getpid())


@pytest.mark.slow
def test_a_worker_that_cannot_be_a_copy_loads_its_libraries_itself(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda_is_touched: None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    job = Job(QUICK, RunSpec("layer-3", (3,), 0), tmp_path, base.fingerprint, {})
    seen: list[Path] = []

    class Look(NoWatcher):
        def scoring(self, spec: RunSpec) -> None:
            (process,) = fork_servers(os.getpid())
            assert not workers_of(os.getpid()), "the worker is another program"
            found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            seen.extend(Path(f"/proc/{worker}") for worker in found)
            (worker,) = seen
            assert "train.worker " in (worker / "cmdline").read_text()
            assert "CUDA_VISIBLE_DEVICES=7" in (worker / "environ").read_text().split("\0")

    Workers(1).make([job], Look())
    assert state(int(seen[0].name)) in ("", "Z")
    assert job.path.exists()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_a_worker_that_cannot_be_a_copy_refuses_a_gpu_that_is_not_there(tmp_path: Path, cuda_is_touched: None) -> None:
    with pytest.raises(LensrlError, match="there is no GPU '7' here, which --devices names"):
        Workers(1, ["7"]).make([Job(QUICK, RunSpec("layer-3", (3,), 0), tmp_path, "", {})], NoWatcher())


@pytest.fixture
def cuda_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each fork server believe that loading its libraries has touched CUDA."""
    python = fork_server._python

    def touched(module: str, call: str) -> list[str]:
        *begin, script = python(module, call)
        return [*begin, script.replace("m.", "m._has_touched_cuda = lambda: True; m.", 1)]

    monkeypatch.setattr(fork_server, "_python", touched)

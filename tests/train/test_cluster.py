"""Slow tests of many processes on one folder: `make test-cluster`; with `TRIALS=500`, 500 processes are killed.

The moments and the victims follow from `SEED`: 5 calls with 100 trials and seeds of their own make 500, too.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from lensrl import load_recipe, run_study
from lensrl.store.file.atomic import begun
from lensrl.store.file.claim import is_being_written
from lensrl.store.verify import verify
from tests.train.test_engine import assert_same_data
from tests.train.test_workers import command, fork_servers, workers_of

TRIALS = int(os.environ.get("TRIALS", "20"))
SEED = int(os.environ.get("SEED", "0"))
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600 + 60 * TRIALS)]  # seconds: a machine may be busy

SEEDS = 1 if TRIALS < 50 else 3  # a larger study is killed more often between two of its starts, which take longest
RECIPE = f"""\
seeds = {[*range(SEEDS)]}
model = "tiny:qwen3"
layers = "all"
on_no_gain = "go on"
[task]
name = "arithmetic"
[rl]
steps = 3
max_completion_tokens = 5
[evaluation]
items = 16
samples = 1
[store]
probe_items = 2
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study as one process makes it."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "study.toml").write_text(RECIPE)
    run_study(load_recipe(folder / "study.toml"), folder / "study").close()
    return folder / "study"


# Eight processes that begin at the same moment. Their disk is slow, and all their locks succeed.
SHARE = """
import fcntl, gc, os, time
real = os.fsync
os.fsync = lambda descriptor: (time.sleep(0.3), real(descriptor))[1]
fcntl.flock = lambda *_: None
from lensrl import load_recipe, run_study
from lensrl.train.plan import load_workshop
from lensrl.train.watch import NoWatcher

class Print(NoWatcher):
    def finished(self, spec, run):
        os.write(1, f"{spec.name}\\n".encode())  # in one piece: eight processes write

load_workshop()  # once: eight of them would load for most of the time
gc.freeze()
for _ in range(8):
    if os.fork() == 0:
        run_study(load_recipe("study.toml"), "study", Print()).close()
        os._exit(0)
assert [os.wait()[1] for _ in range(8)] == [0] * 8
"""


def test_eight_processes_share_a_study_on_a_slow_disk_without_locks(tmp_path: Path, alone: Path) -> None:
    (tmp_path / "study.toml").write_text(RECIPE)
    done = subprocess.run([sys.executable, "-c", SHARE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = Counter(done.stdout.split())
    trained = ["full-rl", *(f"layer-{layer}" for layer in range(8))]
    assert made == Counter(["base", *trained * SEEDS]), "each run once"
    assert_same_data(tmp_path / "study", alone)
    assert not [*(tmp_path / "study").glob(".*")]


def test_workers_and_commands_are_killed_at_random_moments(tmp_path: Path, alone: Path) -> None:
    """Nothing that was committed is lost, every run is made once, and no process is left."""
    moments, kills, studies = random.Random(SEED), Counter[str](), 0
    while kills.total() < TRIALS:
        studies += 1
        place = tmp_path / str(studies)
        place.mkdir()
        (place / "study.toml").write_text(RECIPE)
        committed: dict[str, tuple[int, int]] = {}
        workers: set[int] = set()
        while not _make(place, moments, kills, committed, workers):
            pass
        until = time.monotonic() + 600
        while any("lensrl.train.fork_server" in command(worker) for worker in workers):
            assert time.monotonic() < until, "an orphan"
            time.sleep(0.1)
        assert_same_data(place / "study", alone)
        assert {check.status for check in verify(place / "study")} == {"good"}
        assert not [*(place / "study").glob(".*")]
        print(f"{dict(kills)} over {studies} studies", flush=True)


def _make(
    place: Path, moments: random.Random, kills: Counter[str], committed: dict[str, tuple[int, int]], workers: set[int]
) -> bool:
    """Run the command with three workers, and kill one of them, their server, or itself, again and again.

    Return True at its end.
    """
    run = subprocess.Popen(
        [sys.executable, "-m", "lensrl_cli.main", "run", "study.toml", "--workers", "3"], cwd=place,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while run.poll() is None:
            # Up to 2 seconds after a run was begun; three times in ten earlier: while processes start, too.
            early = moments.uniform(0, 10) if moments.random() < 0.3 else 600.0
            delay = moments.uniform(0, 2)
            until, is_begun = time.monotonic() + early, False
            while time.monotonic() < until and run.poll() is None:
                _check_committed(place / "study", committed)
                if not is_begun and any(map(is_being_written, begun(place / "study"))):
                    is_begun, until = True, min(until, time.monotonic() + delay)
                time.sleep(0.02)
            servers, at_work = (fork_servers(run.pid), workers_of(run.pid)) if run.poll() is None else ([], [])
            workers.update(servers, at_work)
            if not servers or kills.total() >= TRIALS:
                continue
            victims = {"worker": at_work, "command": [run.pid], "fork server": servers}
            kind = moments.choices([*victims], [16 if at_work else 0, 2, 1])[0]
            victim = moments.choice(victims[kind])
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                kills[kind] += 1
            if kind == "command":
                run.wait()
        errors = run.communicate()[1]
    finally:
        run.kill()  # its workers end with it
    _check_committed(place / "study", committed)
    assert run.returncode in (0, -signal.SIGKILL) or "its worker ended 3 times" in errors, errors
    return run.returncode == 0


def _check_committed(folder: Path, committed: dict[str, tuple[int, int]]) -> None:
    """Check that no file that was there before is gone or was made again."""
    for path in folder.glob("*.h5"):
        about = path.stat()
        assert committed.setdefault(path.name, (about.st_ino, about.st_mtime_ns)) == (about.st_ino, about.st_mtime_ns)
    assert all((folder / name).exists() for name in committed)

"""Worker processes of one study: shared runs, deaths, errors, and the end of them all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lensrl import load_recipe, run_study
from lensrl.errors import LensrlError
from lensrl.recipe.runs import RunSpec
from lensrl.store.file.claim import read_claim
from lensrl.store.run import Run
from lensrl.train.curve import TrainingCurve
from lensrl.train.job import Job
from lensrl.train.watch import NoWatcher
from lensrl.train.workers import Workers, longest_first
from tests.cli.typed import lensrl
from tests.conftest import SMALL
from tests.train.test_engine import assert_same_data

QUICK = SMALL.model_copy(update={"layers": [3], "sets": {}, "rl": SMALL.rl.model_copy(update={"steps": 1})})


class Killer(NoWatcher):
    """Kills the idle worker that has made the base, and once the process that makes `run`, after its second step."""

    def __init__(self, folder: Path, run: str) -> None:
        self.folder, self.run = folder, run
        self.killed = self.maker_of_base = 0
        self.steps: list[int] = []
        self.made: list[str] = []

    def started(self, spec: RunSpec) -> None:
        if spec.name == "base":
            claim = read_claim(self.folder / "base.h5")
            assert claim is not None
            self.maker_of_base = claim.process

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        if spec.name == self.run:
            self.steps.append(len(curve))
            assert len(curve.layer_grad_norm) == len(curve)
            claim = read_claim(self.folder / f"{self.run}.seed-0.h5")
            if len(curve) == 2 and not self.killed:
                assert claim is not None
                assert claim.process != os.getpid()
                self.killed = claim.process
                os.kill(claim.process, signal.SIGKILL)

    def finished(self, spec: RunSpec, run: Run) -> None:
        self.made.append(spec.name)
        if spec.name == "base":
            os.kill(self.maker_of_base, signal.SIGKILL)
            while state(self.maker_of_base) not in ("", "Z"):
                time.sleep(0.01)


@pytest.mark.slow
def test_the_run_of_a_killed_worker_is_made_by_another_and_all_data_are_those_of_one_process(
    small_study_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    watcher = Killer(folder, "layer-0")
    run_study(SMALL, folder, watcher, engine=Workers(2)).close()
    assert watcher.killed not in (0, watcher.maker_of_base)
    assert watcher.steps[-4:] == [1, 2, 3, 4], "a curve begins anew with its run"
    assert sorted(watcher.made) == ["base", "ends", "full-rl", "layer-0", "layer-3", "layer-7"], "each run once"
    assert_same_data(folder, small_study_folder)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_an_error_in_a_worker_is_raised_here_and_no_worker_is_left(tmp_path: Path) -> None:
    job = Job(QUICK, RunSpec("layer-3", (3,), 0), tmp_path, "0" * 64, {})
    with pytest.raises(LensrlError, match=r"another base model \(fingerprint 000000000000\) than tiny:qwen3 is here"):
        Workers(1).make([job], NoWatcher())
    assert not list(tmp_path.iterdir())
    assert not fork_servers(os.getpid())


def test_workers_start_before_the_study_is_planned_and_end_at_once_without_a_run(tmp_path: Path) -> None:
    run_study(QUICK.model_copy(update={"layers": []}), tmp_path / "study", only="base").close()
    seen: list[int] = []

    class Watcher(NoWatcher):
        def planned(self, specs: list[RunSpec], missing: list[RunSpec]) -> None:
            seen.extend(fork_servers(os.getpid()))
            assert not missing

    recipe = QUICK.model_copy(update={"layers": []})
    run_study(recipe, tmp_path / "study", Watcher(), only="base", engine=Workers(2)).close()
    assert len(seen) == 1
    assert not fork_servers(os.getpid())
    with pytest.raises(LensrlError, match="a study of another recipe"):
        run_study(SMALL, tmp_path / "study", engine=Workers(2))
    assert not fork_servers(os.getpid())


OWN = """
import os, signal, time
from pathlib import Path
from lensrl.tasks.arithmetic import Arithmetic

class Sums(Arithmetic):
    def items(self, split):
        if "fork_server" in Path("/proc/self/cmdline").read_text():  # in a worker
            tries = Path(__file__).with_name("tries")
            with tries.open("a") as file:
                file.write("x")
            AT_TRY(len(tries.read_text()))
        return super().items(split)
"""
OF_OWN = """\
model = "tiny:qwen3"
task = { name = "sums.py:Sums" }
[rl]
steps = 1
max_completion_tokens = 5
[evaluation]
items = 4
samples = 1
[store]
probe_items = 1
"""


def own_study(folder: Path, at_try: str) -> Path:
    """Write a recipe whose task does something when a worker that plans asks for its items."""
    (folder / "sums.py").write_text(OWN.replace("AT_TRY", at_try))
    (folder / "study.toml").write_text(OF_OWN)
    return folder / "study.toml"


@pytest.mark.slow
def test_a_worker_that_dies_in_planning_is_replaced_and_the_study_is_given_up_after_three(tmp_path: Path) -> None:
    recipe = load_recipe(own_study(tmp_path, "(lambda n: n < 4 and os.kill(os.getpid(), signal.SIGKILL))"))
    with pytest.raises(LensrlError, match=r"study: its worker ended 3 times, the last time by SIGKILL"):
        run_study(recipe, tmp_path / "study", only="base", engine=Workers(1))
    assert not (tmp_path / "study").exists()
    (tmp_path / "tries").write_text("x")
    with run_study(recipe, tmp_path / "study", only="base", engine=Workers(1)) as study:
        assert [name for name, _ in study.runs] == ["base"]
    assert not fork_servers(os.getpid())


@pytest.mark.slow
def test_an_error_in_planning_is_the_line_that_one_process_prints(tmp_path: Path) -> None:
    recipe = own_study(tmp_path, "(lambda n: None)")
    (tmp_path / "sums.py").write_text((tmp_path / "sums.py").read_text().replace("return super()", "return 1 / 0 #"))
    alone, others = (lensrl("run", recipe.name, *more, cwd=tmp_path) for more in ([], ["--workers", "2"]))
    assert "division by zero" in alone.stderr
    assert (others.returncode, others.stdout, others.stderr) == (2, alone.stdout, alone.stderr)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_ctrl_c_while_a_worker_plans_ends_all(tmp_path: Path) -> None:
    recipe, until = own_study(tmp_path, "(lambda n: time.sleep(600))"), time.monotonic() + 240
    started = subprocess.Popen(
        [sys.executable, "-m", "lensrl_cli.main", "run", recipe.name, "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        while not (tmp_path / "tries").exists():
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        processes = [*workers_of(started.pid), *fork_servers(started.pid)]
        assert len(processes) == 3
        os.kill(started.pid, signal.SIGINT)
        output, errors = started.communicate(timeout=15)  # sooner than a worker that does not end is killed
    finally:
        started.kill()
    assert (started.returncode, errors) == (130, "")
    assert output.splitlines()[-1] == "stopped; the same command continues with the missing runs"
    assert not any("lensrl.train.fork_server" in command(process) for process in processes)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_workers_take_turns_on_the_gpus_that_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    tell = "(lambda n: Path(__file__).with_name('gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES']))"
    recipe = load_recipe(own_study(tmp_path, tell))
    with Workers(2).planned(recipe, tmp_path / "study", None) as plan:
        assert len(plan.missing) == len(plan.specs) == 10
    assert (tmp_path / "gpu").read_text() == "5"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_a_gpu_that_is_not_there_is_refused_and_not_replaced_by_the_processor(tmp_path: Path) -> None:
    engine = Workers(2, ["3", "4"])
    with pytest.raises(LensrlError, match="there is no GPU '3' here, which --devices names"):
        run_study(QUICK, tmp_path / "study", engine=engine)
    assert not (tmp_path / "study").exists()


def workers_of(process: int) -> list[int]:
    """The workers of a process: copies of its fork server, which has the same command line."""
    return [worker for server in fork_servers(process) for worker in fork_servers(server)]


def fork_servers(process: int) -> list[int]:
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found if "lensrl.train.fork_server" in command(int(child))]


def command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def state(process: int) -> str:
    """R for a process that runs, S for one that waits, Z for one that has ended; nothing where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


LONG = """\
model = "tiny:qwen3"
layers = [0, 1]
on_no_gain = "go on"
[task]
name = "arithmetic"
[rl]
steps = 3000
max_completion_tokens = 5
[evaluation]
items = 8
samples = 1
[store]
probe_items = 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_with_the_command_all_workers_end(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "study.toml").write_text(LONG)
    started = subprocess.Popen(
        [sys.executable, "-m", "lensrl_cli.main", "run", "study.toml", "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    folder, until = tmp_path / "study", time.monotonic() + 480
    claims = [folder / name for name in ("full-rl.seed-0.h5", "layer-0.seed-0.h5")]
    try:
        while not all((c := read_claim(path)) is not None and "step" in c.state for path in claims):
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        workers = workers_of(started.pid)
        assert len(workers) == 2
        workers += fork_servers(started.pid)
        os.kill(started.pid, how)
        output, errors = started.communicate(timeout=240)
    finally:
        started.kill()
    while any("lensrl.train.fork_server" in command(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.1)
    left = {
        path.name for path in folder.iterdir() if not path.name.endswith(".training")
    }  # training goes on from there
    assert left == {"base.h5", "recipe.json"}
    assert errors == ""
    if how == signal.SIGINT:
        assert started.returncode == 130
        assert output.splitlines()[-1] == "stopped; the same command continues with the missing runs"


def test_the_longest_runs_come_first_after_the_base(tmp_path: Path) -> None:
    specs = [("layer-7", (7,)), ("base", ()), ("mid", (3, 4)), ("layer-0", (0,)), ("full-rl", None)]
    jobs = [Job(SMALL, RunSpec(name, layers, 0), tmp_path, "", {}) for name, layers in specs]
    assert [job.spec.name for job in longest_first(jobs)] == ["base", "full-rl", "layer-0", "mid", "layer-7"]

"""Engines: jobs that travel, runs that several processes share, and what another engine needs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from lensrl import run_study
from lensrl.compare.patching.graft import run_weights
from lensrl.errors import LensrlError, StoreError
from lensrl.models.base import Base
from lensrl.recipe import Recipe
from lensrl.recipe.runs import RunSpec
from lensrl.store.file.atomic import new_file
from lensrl.store.names import run_path
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.train.engine import Here
from lensrl.train.job import Job, is_made
from lensrl.train.watch import NoWatcher, Watcher
from lensrl.train.workshop import Workshop
from tests.conftest import SMALL

QUICK = SMALL.model_copy(update={"layers": [3], "sets": {}, "rl": SMALL.rl.model_copy(update={"steps": 1})})
MEASURED_TIME = ("training/step_time", "training/peak_memory")  # differ from one making of a run to the next


class Log(NoWatcher):
    """What a watcher is told, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def finished(self, spec: RunSpec, run: Run) -> None:
        self.lines.append(f"made {spec.name}")

    def made_elsewhere(self, spec: RunSpec, run: Run) -> None:
        self.lines.append(f"elsewhere {spec.name}")

    def waiting(self, specs: list[RunSpec]) -> None:
        self.lines.append(f"waiting {' '.join(spec.name for spec in specs)}")


def data(path: Path) -> dict[str, np.ndarray]:
    """Every dataset of a run file that a repetition gives again."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None)
    return {name: values for name, values in found.items() if name not in MEASURED_TIME}


def assert_same_data(folder: Path, expected: Path) -> None:
    files = sorted(path.name for path in expected.glob("*.h5"))
    assert sorted(path.name for path in folder.glob("*.h5")) == files
    for file in files:
        made, wanted = data(folder / file), data(expected / file)
        assert made.keys() == wanted.keys(), file
        for name, values in wanted.items():
            np.testing.assert_array_equal(made[name], values, err_msg=f"{file}: {name}")


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the partial file of a run as a process does that makes it, and end without the run."""
    with suppress(EOFError), new_file(path):
        yield
        raise EOFError


def jobs_of(recipe: Recipe, folder: Path, base: Base, *names: str) -> list[Job]:
    layers = {"base": (), "full-rl": None, "layer-3": (3,)}
    return [Job(recipe, RunSpec(name, layers[name], 0), folder, base.fingerprint, {}) for name in names]


SHARE = """
import sys
from pathlib import Path
from lensrl import run_study
from lensrl.recipe import Recipe
from lensrl.train.watch import NoWatcher

class Print(NoWatcher):
    def finished(self, spec, run):
        print(spec.name, flush=True)

run_study(Recipe.model_validate_json(sys.argv[1]), sys.argv[2], Print()).close()
"""


@pytest.mark.slow
def test_two_processes_share_a_study_whose_data_are_those_of_one(small_study_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    command = [sys.executable, "-c", SHARE, SMALL.model_dump_json(), str(folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], [errors for _, errors in results]
    made = [output.split() for output, _ in results]
    assert sorted(made[0] + made[1]) == ["base", "ends", "full-rl", "layer-0", "layer-3", "layer-7"], "each run once"
    assert all(made), "one process made everything"
    assert_same_data(folder, small_study_folder)


def test_a_run_in_the_making_is_passed_over_and_made_here_when_its_process_ends_without_it(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(QUICK, tmp_path, base, "base", "full-rl", "layer-3")
    log = Log()

    def wait(_: float) -> None:
        assert log.lines == ["made base", "made layer-3", "waiting full-rl"]
        raise InterruptedError

    monkeypatch.setattr("lensrl.train.engine.time", SimpleNamespace(sleep=wait))
    with claimed(jobs[1].path), pytest.raises(InterruptedError):
        Here().make(jobs, log)
    assert not jobs[1].path.exists()
    log.lines.clear()
    Here().make(jobs, log)
    assert log.lines == ["elsewhere base", "made full-rl", "elsewhere layer-3"]


KEEP_RECIPE = """
import os, sys, time
real = os.fsync
os.fsync = lambda descriptor: (time.sleep(0.3), real(descriptor))
from pathlib import Path
from lensrl.recipe import Recipe
from lensrl.train.study import _keep_recipe
print("ready", flush=True)
sys.stdin.readline()
_keep_recipe(Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def test_processes_that_begin_one_study_at_once_on_a_slow_disk_keep_one_recipe(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEP_RECIPE, SMALL.model_dump_json(), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(6)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, errors
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]
    assert Recipe.model_validate_json((tmp_path / "recipe.json").read_text()) == SMALL


def _make(job: Job) -> str:
    """The part of an engine that runs in a worker process."""
    Here().make([job], NoWatcher())
    return job.spec.name


class Workers:
    """An engine in a few lines: two worker processes, which get nothing but jobs."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def make(self, jobs: Sequence[Job], watcher: Watcher) -> None:
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            self.made += pool.map(_make, jobs)


@pytest.mark.slow
def test_an_engine_of_ones_own_gets_the_missing_runs_as_jobs_that_travel(tmp_path: Path) -> None:
    engine, here = Workers(), tmp_path / "here"
    run_study(QUICK, here).close()
    with run_study(QUICK, tmp_path / "there", engine=engine) as study:
        assert [name for name, _ in study.runs] == ["base", "full-rl", "layer-3"]
    assert engine.made == ["base", "full-rl", "layer-3"]
    assert_same_data(tmp_path / "there", here)
    run_study(QUICK, here, engine=engine).close()
    assert len(engine.made) == 3, "nothing was missing"


def test_nothing_is_left_of_a_worker_that_was_killed_after_its_file_got_its_name(tmp_path: Path) -> None:
    """It had still to remove the other name of the file, its checkpoint, and its claim."""

    class Killed:
        def make(self, jobs: Sequence[Job], watcher: Watcher) -> None:
            Here().make(jobs, watcher)
            for job in jobs:
                name, folder = job.path.name, job.path.parent
                (folder / f".{name}.0123abcd.partial").hardlink_to(job.path)
                (folder / f".{name}.claim").touch()
                os.utime(folder / f".{name}.claim", (0, 0))
                (folder / f".{name}.training").mkdir()

    run_study(QUICK, tmp_path / "study", only=["base"], engine=Killed()).close()
    assert {path.name for path in (tmp_path / "study").iterdir()} == {"base.h5", "recipe.json"}


def test_a_job_comes_out_of_a_pickle_as_it_went_in(base: Base, tmp_path: Path) -> None:
    (job,) = jobs_of(SMALL, tmp_path, base, "layer-3")
    again = pickle.loads(pickle.dumps(job))
    assert again == job
    assert again.path == run_path(tmp_path, "layer-3", 0)


def test_a_worker_with_another_base_refuses_the_job(base: Base, tmp_path: Path) -> None:
    job = Job(QUICK, RunSpec("layer-3", (3,), 0), tmp_path, "0" * 64, {})
    with pytest.raises(LensrlError, match=r"another base model \(fingerprint 000000000000\) than tiny:qwen3 is here"):
        Here().make([job], NoWatcher())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("only", "made"),
    [
        (["layer-3"], [("layer-3", 0), ("layer-3", 5)]),
        (["layer-3.seed-5", "base"], [("base", 0), ("layer-3", 5)]),
    ],
)
def test_only_the_named_runs_are_made(tmp_path: Path, only: list[str], made: list[tuple[str, int]]) -> None:
    recipe = QUICK.model_copy(update={"seeds": [0, 5]})
    with run_study(recipe, tmp_path / "some", only=only) as study:
        assert list(study.runs) == made
        assert study.recipe == recipe
        rows = study.runs.rows()
    planned = {("base", 0), *((name, seed) for name in ("full-rl", "layer-3") for seed in (0, 5))}
    missing = {(row["run"], row["seed"]) for row in rows if row["status"] == "missing"}
    assert missing == planned - {*made}


def test_a_name_that_no_run_has_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(LensrlError, match="the recipe asks for no run 'layer-33'; did you mean 'layer-3'"):
        run_study(QUICK, tmp_path / "none", only=["base", "layer-33"])
    assert not (tmp_path / "none").exists()


def test_weights_that_were_trained_elsewhere_are_measured_and_written_as_a_trained_run(
    base: Base, small_study: Study, tmp_path: Path
) -> None:
    """Measuring and writing need no training: the weights of a run give its scores, deltas and activations again."""
    trained = small_study["layer-3"]
    job = Job(SMALL, RunSpec("layer-3", (3,), 0), tmp_path, base.fingerprint, {})
    with new_file(job.path) as partial:
        Workshop(SMALL).keep(job, partial, run_weights(trained, base), NoWatcher())
    with Run(job.path) as kept:
        assert kept.scores_by_item().equals(trained.scores_by_item())
        assert list(kept.deltas) == [3]
        for name, delta in trained.deltas[3].items():
            np.testing.assert_array_equal(kept.deltas[3][name][...], delta[...])
        for site, values in trained.activations.items():
            np.testing.assert_array_equal(kept.activations[site][...], values[...])
        assert all(torch.equal(a, b) for a, b in zip(
            run_weights(kept, base).values(), run_weights(trained, base).values(), strict=True))  # fmt: skip


def test_a_study_of_another_recipe_that_has_begun_stops_a_second_one(base: Base, tmp_path: Path) -> None:
    """Nothing but a run in the making says so yet: no file is there to compare with."""
    (tmp_path / "recipe.json").write_text(QUICK.model_dump_json())
    other = QUICK.model_copy(update={"rl": QUICK.rl.model_copy(update={"learning_rate": 3e-3})})
    with (
        claimed(run_path(tmp_path, "base", 0)),
        pytest.raises(LensrlError, match=r"another recipe \(rl.learning_rate is 0.0002 there and 0.003 here\)"),
    ):
        run_study(other, tmp_path)
    assert Recipe.model_validate_json((tmp_path / "recipe.json").read_text()) == QUICK


def test_a_run_of_another_recipe_or_of_other_items_is_not_taken_for_the_jobs(
    base: Base, small_study: Study, tmp_path: Path
) -> None:
    spec = RunSpec("layer-3", (3,), 0)
    digests = small_study["layer-3"].provenance["items"]
    job = Job(SMALL, spec, small_study.path, base.fingerprint, digests)
    assert is_made(job)
    other = SMALL.model_copy(update={"rl": SMALL.rl.model_copy(update={"clip": 0.3})})
    with pytest.raises(StoreError, match=r"made with another recipe \(rl.clip is 0.2 there and 0.3 here\)"):
        is_made(replace(job, recipe=other))
    with pytest.raises(LensrlError, match="made with other test items"):
        is_made(replace(job, items=digests | {"test": "0" * 64}))
    with pytest.raises(LensrlError, match="to be made with other train items"):
        Here().make([replace(job, folder=tmp_path, items={"train": "0" * 64})], NoWatcher())

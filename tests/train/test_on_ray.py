"""A real Ray cluster of two nodes on 127.0.0.1: its files are those of one process, whoever dies on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from lensrl import Run, run_study
from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.recipe import Recipe
from lensrl.recipe.runs import RunSpec
from lensrl.store.file.claim import read_claim
from lensrl.store.names import run_path
from lensrl.train.curve import TrainingCurve
from lensrl.train.job import Job
from lensrl.train.on_ray import OnRay
from lensrl.train.watch import NoWatcher
from tests.cli.typed import lensrl
from tests.conftest import SMALL
from tests.train.test_engine import assert_same_data

pytestmark = [
    pytest.mark.cluster,
    # `import ray` reads the settings below, so this file does not import it before them.
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]

RECIPE = SMALL.model_copy(
    update={
        "layers": [0, 3],
        "sets": {},
        "rl": SMALL.rl.model_copy(update={"steps": 3}),
        "store": SMALL.store.model_copy(update={"snapshots": []}),
        "evaluation": SMALL.evaluation.model_copy(update={"batch": 16}),  # three batches: the base is scored in parts
    }
)
NAMES = ["base", "full-rl", "layer-0", "layer-3"]


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequential") / "study"
    run_study(RECIPE, folder).close()
    return folder


class Log(NoWatcher):
    """Note what is told, and do something once, after the second step of one run."""

    def __init__(self, run: str = "", act: Callable[[], None] = lambda: None) -> None:
        self.run, self.act = run, act
        self.started_runs: list[str] = []
        self.made: list[str] = []
        self.steps: dict[str, int] = {}

    def started(self, spec: RunSpec) -> None:
        self.started_runs.append(spec.name)

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        self.steps[spec.name] = len(curve)
        assert len(curve.layer_grad_norm) == len(curve) <= 3
        if spec.name == self.run and len(curve) == 2:
            self.run = ""
            self.act()

    def finished(self, spec: RunSpec, run: Run) -> None:
        assert run.name == spec.name
        self.made.append(spec.name)


def workers_of(node: Any) -> list[psutil.Process]:
    """The processes of a node that make a run: children of its raylet, which Ray names after what they do."""
    (raylet,) = node.all_processes["raylet"]
    found = psutil.Process(raylet.process.pid).children()
    return [process for process in found if " ".join(process.cmdline()).startswith("ray::Worker.make")]


def test_a_worker_killed_in_the_middle_of_a_run_costs_this_run_alone(
    cluster: Any, sequential: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"

    def kill() -> None:
        claim = read_claim(run_path(folder, "full-rl", 0))
        assert claim is not None
        assert claim.process in {process.pid for node in cluster.list_all_nodes() for process in workers_of(node)}
        os.kill(claim.process, signal.SIGKILL)

    log = Log("full-rl", kill)
    run_study(RECIPE, folder, log, engine=OnRay(cluster.address)).close()
    assert sorted(log.made) == NAMES, "each run once"
    assert sorted(log.started_runs) == sorted([*NAMES, "full-rl"])
    assert [log.steps[name] for name in NAMES[1:]] == [3, 3, 3]
    assert_same_data(folder, sequential)
    assert not list(folder.glob(".*")), "nothing is left"


def test_what_goes_wrong_on_a_node_is_one_line_here(cluster: Any, base: Base, tmp_path: Path) -> None:
    job = Job(RECIPE, RunSpec("layer-3", (3,), 0), tmp_path / "study", "0" * 64, {})
    with pytest.raises(LensrlError, match=r"another base model \(fingerprint 000000000000\) than tiny:qwen3 is here"):
        OnRay(cluster.address).make([job], NoWatcher())
    large = Recipe.model_validate(RECIPE.model_dump() | {"engine": {"num_cpus": 64}})
    with pytest.raises(LensrlError, match=r"a worker needs num_cpus = 64 and num_gpus = 0, and no node has them \(1 "):
        OnRay(cluster.address).make([replace(job, recipe=large, fingerprint=base.fingerprint)], NoWatcher())
    assert not list((tmp_path / "study").iterdir())


def test_without_a_shared_folder_files_come_in_parts_and_a_node_may_die(
    cluster: Any, sequential: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the study means another folder to each process, so no worker sees this one."""
    monkeypatch.setattr("lensrl.train.on_ray.CHUNK", 100_000)
    (second,) = cluster.worker_nodes
    dead = []

    def kill() -> None:
        (raylet,) = second.all_processes["raylet"]
        process = psutil.Process(raylet.process.pid)
        for of_node in [process, *process.children(recursive=True)]:
            dead.append(of_node.pid)
            of_node.kill()

    class AtSecond(Log):
        """Wait until each node has begun a run: the other one goes on."""

        def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
            super().stepped(spec, curve)
            if not dead and len(self.started_runs) > len(self.made) + 1 and workers_of(second):
                kill()

    log = AtSecond()
    with chdir(tmp_path):
        run_study(RECIPE, "/proc/self/cwd/study", log, engine=OnRay(cluster.address)).close()
    assert dead
    assert sorted(log.made) == NAMES, "each run once"
    assert len(log.started_runs) > 4, "a run was begun again"
    assert_same_data(tmp_path / "study", sequential)
    assert not list((tmp_path / "study").glob(".*")), "nothing is left"


def test_the_command_makes_a_study_on_what_is_left_of_the_cluster(
    cluster: Any, sequential: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "study.toml"
    recipe.write_text(
        'model = "tiny:qwen3"\ntask = "arithmetic"\nlayers = [3]\n[rl]\nsteps = 3\nmax_completion_tokens = 5\n'
        "learning_rate = 2e-4\n[evaluation]\nitems = 48\nsamples = 2\nbatch = 16\n[store]\nprobe_items = 6\n"
        "[engine]\nnum_cpus = 0.5\n"
    )
    done = lensrl("run", recipe, "--engine", "ray", "--address", "auto", "--only", "layer-3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all 1 runs of --only done" in done.stdout
    (made,) = (tmp_path / "study").glob("*.h5")
    (tmp_path / "expected").mkdir()
    os.link(sequential / made.name, tmp_path / "expected" / made.name)
    assert_same_data(tmp_path / "study", tmp_path / "expected")
    assert "engine" not in (tmp_path / "study" / "recipe.json").read_text(), "no part of the study"

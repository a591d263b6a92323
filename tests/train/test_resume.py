"""Going on from a checkpoint: the bits of a run that was never interrupted, and the checkpoints that are refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensrl.models.base import Base
from lensrl.models.blocks import train_only
from lensrl.recipe import CorridorTask, Recipe, Rl
from lensrl.store.file.exact import same_bits
from lensrl.store.file.training import latest_step
from lensrl.tasks import AgentTask, Item, Task
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from lensrl.train import resume
from lensrl.train.curve import TrainingCurve
from lensrl.train.random_states import random_states, set_random_states
from lensrl.train.resume import Checkpoints
from lensrl.train.training import Training, train
from tests.conftest import SMALL

ORIGIN: dict[str, dict[str, object]] = {part: {} for part in resume.OTHER}
MEASURED = ("step_time", "peak_memory")  # of this process: they differ between two runs


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


class Nine(Arithmetic):
    """Nine training items: two steps of four in an epoch."""

    def items(self, split: Any) -> list[Item]:
        return super().items(split)[:9]


def recipe(**rl: Any) -> Recipe:
    settings = {"steps": 5, "prompts_per_step": 4, "completions_per_prompt": 4, "max_completion_tokens": 5}
    return SMALL.model_copy(update={"rl": Rl.model_validate(settings | {"learning_rate": 2e-3} | rl)})


GIGPO = {"algorithm": "gigpo", "prompts_per_step": 2, "max_completion_tokens": 6, "learning_rate": 2e-4}

# Five steps of two in an epoch. A step has 16 completions.
CASES: dict[str, tuple[Recipe, list[int] | None, Task | AgentTask]] = {
    "full RL, KL, decay of the rate and of the weights": (
        recipe(kl_beta=0.1, lr_scheduler_type="cosine", warmup_steps=1, weight_decay=0.1), None, Nine(),
    ),
    "one layer, micro-batches, epochs": (recipe(micro_batch=4, steps=None, epochs=3), [3], Nine()),
    "two updates of two micro-batches": (recipe(updates_per_rollout=2, micro_batch=4), [7], Nine()),
    "TRL's own sampling": (recipe().model_copy(update={"generation": "generate"}), [7], Nine()),
    "GiGPO": (recipe(**GIGPO), [7], Corridor(CorridorTask(name="corridor"))),
}  # fmt: skip


def checkpoints(folder: Path, lines: list[str] | None = None, *, every: int = 1, **origin: Any) -> Checkpoints:
    return Checkpoints(folder, ORIGIN | origin, every=every, note=([] if lines is None else lines).append)


def run(base: Base, settings: Recipe, layers: list[int] | None, **more: Any) -> Training:
    return train(base, more.pop("task", Nine()), settings, layers=layers, seed=3, **more)


def killed_after(step: int) -> Any:
    def on_step(curve: TrainingCurve) -> None:
        if len(curve) == step:
            raise Killed

    return on_step


def assert_same(one: Training, other: Training) -> None:
    for (name, a), b in zip(one.weights.items(), other.weights.values(), strict=True):
        assert same_bits(a.numpy(), b.numpy()), name
    curves = one.curve.arrays(), other.curve.arrays()
    assert curves[0].keys() == curves[1].keys()
    for name, values in curves[0].items():
        assert len(values) == len(curves[1][name])
        assert name in MEASURED or np.array_equal(values, curves[1][name], equal_nan=True), name


def disturb_random_states() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_to_the_bits_of_a_run_that_was_not(base: Base, tmp_path: Path, case: str) -> None:
    """Killed in step 4, so that it goes on in the middle of the second epoch; and again in the third."""
    settings, layers, task = CASES[case]
    whole = run(base, settings, layers, task=task)
    lines: list[str] = []

    def again(**more: Any) -> Training:
        disturb_random_states()  # another process has others
        return run(base, settings, layers, task=task, checkpoints=checkpoints(tmp_path, lines), **more)

    for step in (4, 5):
        with pytest.raises(Killed):
            again(on_step=killed_after(step))
    resumed = again()
    steps = settings.rl.steps_on(len(task.items("train")))
    assert lines == ["goes on from step 3", "goes on from step 4"]
    assert (len(resumed.curve), resumed.resumed) == (steps, (3, 4))
    assert_same(resumed, whole)


@pytest.mark.parametrize("submit", [lambda job: job(), lambda job: ThreadPoolExecutor(1).submit(job).result()])
def test_after_training_the_optimizer_is_let_go(base: Base, tmp_path: Path, submit: Any) -> None:
    """On a GPU it would stand beside the scored model. Another thread than the main one has no signals."""
    kept = checkpoints(tmp_path)
    submit(lambda: run(base, recipe(steps=1), [7], checkpoints=kept))
    live = kept._live  # pyright: ignore[reportPrivateUsage]
    assert (live.model, live.optimizer) == (None, None)


def test_the_checkpoint_of_the_last_step_leaves_only_scoring_to_do(base: Base, tmp_path: Path) -> None:
    whole = run(base, recipe(steps=2), [7], checkpoints=checkpoints(tmp_path))
    again = run(base, recipe(steps=2), [7], checkpoints=checkpoints(tmp_path), on_step=killed_after(3))
    assert again.resumed == (2,)
    assert_same(again, whole)
    assert again.curve.step_time == whole.curve.step_time


def begun(base: Base, folder: Path, layers: list[int] | None = None, **origin: Any) -> None:
    """Leave the checkpoint after step 2."""
    with pytest.raises(Killed):
        run(base, recipe(steps=3), layers or [7], checkpoints=checkpoints(folder, **origin), on_step=killed_after(3))
    assert latest_step(folder) == 2


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_only_the_trained_parameters_are_kept_and_only_once(base: Base, tmp_path: Path) -> None:
    begun(base, tmp_path, [7])
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]
    trained = sum(p.numel() for name, p in base.weights.items() if base.blocks.layer(name) == 7)
    assert size(tmp_path) == pytest.approx(12 * trained, rel=0.05)  # weights and two moments in fp32


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"recipe": {"rl.kl_beta": 0.1}}, "it is of another recipe (rl.kl_beta is 0.0 there and 0.1 here)"),
        ({"base": {"fingerprint": "b"}}, "it is of another base model (fingerprint is None there and 'b' here)"),
        ({"items": {"train": "b"}}, "it is of other items (train is None there and 'b' here)"),
        ({"run": {"layers": [3]}}, "it is of a run that trains other parameters (layers is None there and [3] here)"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_in_a_line(
    base: Base, tmp_path: Path, now: dict[str, Any], why: str
) -> None:
    origin: dict[str, Any] = {"recipe": {"rl.kl_beta": 0.0}}
    begun(base, tmp_path, **origin)
    lines: list[str] = []
    assert checkpoints(tmp_path, lines, **origin | now).find(model_of(base), ()) is None
    assert lines == [f"its checkpoint after step 2 is not used: {why}; started anew"]
    assert list(tmp_path.iterdir()) == []


def model_of(base: Base, layers: list[int] | None = None) -> Any:
    model = base.fresh()
    train_only(model, base.blocks, layers or [7])
    return model


def test_a_checkpoint_that_is_damaged_or_lacks_its_snapshot_is_refused(base: Base, tmp_path: Path) -> None:
    def cut(name: str) -> None:
        path = tmp_path / "step-2" / name
        path.write_bytes(path.read_bytes()[:-9])

    breaks: dict[str, Callable[[], object]] = {
        "it cannot be read (": lambda: cut("state.json"),
        "it cannot be read (Error while deserializing header": lambda: cut("weights.safetensors"),
        "it cannot be read (Error while deserializing": lambda: cut("optimizer.safetensors"),
        "it cannot be read ([Errno 2] No such file": lambda: (tmp_path / "step-2" / "state.json").unlink(),
        "it was made by other versions": lambda: (tmp_path / "step-2" / "state.json").write_text('{"format": 9}'),
        "the snapshot after step 1 is missing": lambda: None,
    }
    kept = tmp_path.with_name("kept")
    begun(base, tmp_path)
    shutil.copytree(tmp_path, kept)
    for why, broken in breaks.items():
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
        broken()
        lines: list[str] = []
        assert checkpoints(tmp_path, lines).find(model_of(base), {1} if "snapshot" in why else ()) is None
        assert lines[0].startswith(f"its checkpoint after step 2 is not used: {why}"), lines
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    assert checkpoints(tmp_path).find(model_of(base, [3]), ()) is None  # other tensors, whatever its origin says


def test_what_came_after_the_checkpoint_is_removed_and_what_it_rests_on_stays(base: Base, tmp_path: Path) -> None:
    begun(base, tmp_path)
    for name in ("snapshot-1", "snapshot-3", ".step-3.0a1b2c3d.partial", "step-1"):
        (tmp_path / name).mkdir()
    assert checkpoints(tmp_path).find(model_of(base), {1, 3}) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshot-1", "step-2"]


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "save_file", full)
    lines: list[str] = []
    training = run(base, recipe(steps=2), [7], checkpoints=checkpoints(tmp_path, lines))
    assert (training.status, len(training.curve), list(tmp_path.iterdir())) == ("completed", 2, [])
    assert [line.split(" could not")[0] for line in lines] == [
        f"no checkpoint after step {step}: {tmp_path / f'step-{step}'}" for step in (1, 2)
    ]
    assert "No space left on device" in lines[0]


def test_without_a_number_of_steps_the_clock_decides(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(seconds: float) -> list[str]:
        monkeypatch.setattr(resume, "SECONDS", seconds)
        by_clock = Checkpoints(tmp_path, ORIGIN, every=None, note=lambda _: None)
        with pytest.raises(Killed):
            run(base, recipe(steps=2), [7], checkpoints=by_clock, on_step=killed_after(2))
        return [path.name for path in tmp_path.iterdir()]

    assert kept(900.0) == []
    assert kept(0.0) == ["step-1"]


def test_random_states_are_those_of_every_generator() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(), np.random.rand(), np.random.randn(), float(torch.rand(()))]

    draw()  # gauss and randn draw two numbers, and keep one
    states = json.loads(json.dumps(random_states()))
    first = draw()
    disturb_random_states()
    set_random_states(states)
    assert draw() == first

"""Going on from a checkpoint: the bits of a run that was never interrupted, and the checkpoints that are refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensrl.models.base import Base
from lensrl.recipe import Recipe, Rl
from lensrl.store.file.exact import same_bits
from lensrl.store.file.training import latest_step
from lensrl.tasks import AgentTask, Item, Task, load_task
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from lensrl.train import resume
from lensrl.train.curve import TrainingCurve
from lensrl.train.resume import Checkpoints, random_states, set_random_states
from lensrl.train.snapshots import Snapshots
from lensrl.train.trainer import Training, train
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


# Five steps of two in an epoch: every case ends in its third epoch.
CASES: dict[str, tuple[Recipe, list[int] | None]] = {
    "full RL": (recipe(), None),
    "one layer, KL": (recipe(kl_beta=0.1), [3]),
    "full RL, KL, decay of rate and weights": (
        recipe(kl_beta=0.1, lr_scheduler_type="cosine", warmup_steps=1, weight_decay=0.1), None
    ),
    "micro-batches": (recipe(micro_batch=4), [7]),
    "two updates of two micro-batches": (recipe(updates_per_rollout=2, micro_batch=4), [7]),
    "epochs": (recipe(steps=None, epochs=3), [7]),
    "TRL's own sampling": (recipe().model_copy(update={"generation": "generate"}), [7]),
}  # fmt: skip


def checkpoints(folder: Path, lines: list[str] | None = None, *, every: int = 1, **origin: Any) -> Checkpoints:
    return Checkpoints(folder, ORIGIN | origin, every=every, note=([] if lines is None else lines).append)


def run(base: Base, settings: Recipe, layers: list[int] | None, **more: Any) -> Training:
    task: Task | AgentTask = more.pop("task", Nine())
    return train(base, task, settings, layers=layers, seed=3, **more)


def killed_after(step: int) -> Any:
    def on_step(curve: TrainingCurve) -> None:
        if len(curve) == step:
            raise Killed

    return on_step


def assert_same(one: Training, other: Training) -> None:
    for (name, a), b in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert same_bits(a.detach().numpy(), b.detach().numpy()), name
    curves = one.curve.arrays(), other.curve.arrays()
    assert curves[0].keys() == curves[1].keys()
    for name, values in curves[0].items():
        assert len(values) == len(curves[1][name])
        assert name in MEASURED or np.array_equal(values, curves[1][name], equal_nan=True), name


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_to_the_bits_of_a_run_that_was_not(base: Base, tmp_path: Path, case: str) -> None:
    """Killed in the second epoch, and again in the third: the kill comes before the checkpoint of its step."""
    settings, layers = CASES[case]
    whole = run(base, settings, layers)
    lines: list[str] = []
    for step in (4, 5, None):
        try:
            resumed = run(
                base, settings, layers, checkpoints=checkpoints(tmp_path, lines),
                on_step=None if step is None else killed_after(step),
            )  # fmt: skip
        except Killed:
            torch.rand(7), random.random(), np.random.rand(3)  # another process has other random states
    steps = settings.rl.steps_on(9)
    assert lines == ["goes on from step 3", "goes on from step 4"]
    assert (len(resumed.curve), resumed.resumed) == (steps, (3, 4))
    assert_same(resumed, whole)

"""The controls of RL: the same training with a coin for a reward, and supervised fine-tuning on the references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lensrl.models.base import Base
from lensrl.recipe import Recipe, Rl
from lensrl.tasks import Item
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.training import train
from tests.conftest import SMALL


class Watched:
    """Additions that keep what they were asked to reward."""

    def __init__(self) -> None:
        self.asked: list[tuple[Item, str]] = []

    def items(self, split: Any) -> list[Item]:
        return Arithmetic().items(split)

    def reward(self, item: Item, completion: str) -> float:
        self.asked.append((item, completion))
        return Arithmetic().reward(item, completion)

    score = reward


def recipe(**settings: Any) -> Recipe:
    return SMALL.model_copy(update={"rl": Rl.model_validate(SMALL.rl.model_dump() | settings)})


def test_fine_tuning_has_the_gradient_of_the_mean_log_probability_of_the_references(base: Base) -> None:
    task = Watched()
    curve = train(base, task, recipe(steps=1, algorithm="sft"), layers=[3], seed=0).curve
    assert len(task.asked) == 64
    assert all(completion == item.reference for item, completion in task.asked)
    model = base.fresh()
    losses = []
    for item in {item.id: item for item, _ in task.asked}.values():
        prompt, answer = (base.tokenizer(text)["input_ids"] for text in (item.prompt, str(item.reference)))
        answer = [*answer, base.tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        losses.append(model(torch.tensor([prompt + answer]), labels=labels).loss)  # pyright: ignore[reportOperatorIssue]
    torch.stack(losses).mean().backward()
    inside = [p.grad for name, p in model.named_parameters() if base.blocks.part(name) == 3]
    squares = [grad.square().sum() for grad in inside if grad is not None]
    assert len(losses) == 8
    assert curve.layer_grad_norm[0][3] == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-4)


def test_a_coin_is_fair_and_the_same_for_every_run_of_a_seed_and_no_task_is_asked(base: Base) -> None:
    task = Watched()
    means = [
        train(base, task, recipe(steps=3, reward="random"), layers=layers, seed=seed).curve.reward_mean
        for layers, seed in ((None, 0), ([3], 0), ([3], 1))
    ]
    assert not task.asked
    assert means[0] == means[1] != means[2]
    assert len({*means[0]}) > 1, "the coins of two steps differ"
    assert np.mean([means[0], means[2]]) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(2 * 3 * 64))

"""Several updates from a rollout, schedules and epochs: the weights of plain TRL, and what a curve says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from lensrl.errors import RecipeError
from lensrl.models.base import Base
from lensrl.models.blocks import train_only
from lensrl.models.sampler import SAMPLERS
from lensrl.recipe import CorridorTask, Recipe, Rl
from lensrl.tasks import Item
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from lensrl.train.algorithms import check_algorithm
from lensrl.train.recorder import Recorder
from lensrl.train.sampling import Completions
from lensrl.train.snapshots import Snapshots
from lensrl.train.training import quiet, train
from tests.conftest import SMALL

RATE = 2e-3  # so large that a second update of the same rollout leaves the clip


class Nine(Arithmetic):
    """Nine training items: two full steps of four in an epoch."""

    def items(self, split: Any) -> list[Item]:
        return super().items(split)[:9]


def recipe(**rl: Any) -> Recipe:
    settings = {"prompts_per_step": 4, "completions_per_prompt": 4, "max_completion_tokens": 5, "learning_rate": RATE}
    return SMALL.model_copy(update={"rl": Rl.model_validate(settings | rl)})


# What a recipe says, and the same in TRL's words. A step has 16 completions.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two updates, warm-up, decay": (
        {"steps": 2, "updates_per_rollout": 2, "micro_batch": 4, "lr_scheduler_type": "linear", "warmup_steps": 1},
        {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 4,
         "lr_scheduler_type": "linear", "warmup_steps": 2},
    ),
    "epochs, cut sampling": (
        {"epochs": 2, "top_p": 0.9, "top_k": 20, "lr_scheduler_type": "cosine", "warmup_steps": 0.5},
        {"num_train_epochs": 2, "per_device_train_batch_size": 16, "top_p": 0.9, "top_k": 20,
         "lr_scheduler_type": "cosine", "warmup_steps": 0.5},
    ),
    "dapo": (
        {"steps": 2, "algorithm": "dapo", "updates_per_rollout": 4, "clip_high": 0.28, "mask_truncated": True,
         "max_completion_tokens": 3},
        {"max_steps": 8, "loss_type": "dapo", "per_device_train_batch_size": 4, "steps_per_generation": 4,
         "epsilon_high": 0.28, "mask_truncated_completions": True, "max_completion_length": 3},
    ),
    "gspo": (
        {"steps": 2, "algorithm": "gspo", "updates_per_rollout": 2, "clip": 3e-3},
        {"max_steps": 4, "per_device_train_batch_size": 8, "steps_per_generation": 2,
         "importance_sampling_level": "sequence", "epsilon": 3e-3},
    ),
}  # fmt: skip


def plain_trl(base: Base, settings: Recipe, folder: Path, **arguments: Any) -> torch.nn.Module:
    """Train layer 7 with TRL's own trainer, with settings by hand. Prompts and rewards are the recipe's."""
    policy = base.fresh()
    train_only(policy, base.blocks, [7])
    sampling = Completions(
        Nine(), settings, policy, base.prompts, Recorder(base.blocks, group_size=4),
        sampler=SAMPLERS[settings.generation](policy, base.tokenizer), seed=0,
    )  # fmt: skip
    by_hand = {
        "loss_type": "grpo", "scale_rewards": "group", "beta": 0.0, "epsilon": 0.2, "num_generations": 4,
        "max_completion_length": 5, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "learning_rate": RATE,
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 0, "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "optim": "adamw_torch", "gradient_accumulation_steps": 1,
    }  # fmt: skip
    with quiet():
        trainer = GRPOTrainer(
            model=policy,
            args=GRPOConfig(output_dir=str(folder), **by_hand | arguments),
            processing_class=base.tokenizer,
            reward_funcs=sampling.reward,  # pyright: ignore[reportArgumentType]
            train_dataset=sampling.prompts(),
            rollout_func=sampling.rollout_func,
        )
        trainer.train()
    return policy


@pytest.mark.parametrize(("ours", "theirs"), CASES.values(), ids=CASES)
def test_the_weights_are_those_of_plain_trl(
    base: Base, tmp_path: Path, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    settings = recipe(**ours).model_copy(update={"generation": "generate"})  # both then sample as TRL does
    training = train(base, Nine(), settings, layers=[7], seed=0)
    assert training.status == "completed"
    expected = dict(plain_trl(base, settings, tmp_path, **theirs).named_parameters())
    moved = 0
    for name, weight in (base.weights | training.weights).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6, msg=name)
        moved += not torch.equal(weight, base.weights[name])
    assert moved > 5


def test_a_curve_has_a_row_a_rollout_and_several_updates_are_clipped(base: Base, tmp_path: Path) -> None:
    seen: list[int] = []
    snapshots = Snapshots(tmp_path / "kept", {1})
    several = train(
        base, Nine(), recipe(steps=2, updates_per_rollout=4), layers=[7], seed=0,
        on_step=lambda curve: seen.append(len(curve)), snapshots=snapshots,
    )  # fmt: skip
    assert seen == [1, 2]
    curve = several.curve.arrays()
    assert {len(values) for values in curve.values()} == {2}
    assert (curve["clipped_share"] > 0).all()
    assert (curve["layer_grad_norm"] ** 2).sum(1) == pytest.approx(curve["grad_norm"] ** 2)
    (kept,) = snapshots.weights({name: w.numpy() for name, w in base.weights.items()}).items()
    alone = train(base, Nine(), recipe(steps=1, updates_per_rollout=4), layers=[7], seed=0)
    assert kept[0] == 1  # after all updates of the first rollout
    for name, weight in (base.weights | alone.weights).items():
        assert torch.equal(torch.from_numpy(kept[1][name]), weight), name
    assert several.curve.reward_mean[0] == alone.curve.reward_mean[0]
    one = train(base, Nine(), recipe(steps=1), layers=[7], seed=0).curve
    assert "clipped_share" not in one.arrays()
    assert one.reward_mean == alone.curve.reward_mean  # the first rollout is the base's in both


def test_the_recorder_averages_the_updates_of_a_step(base: Base) -> None:
    recorder = Recorder(base.blocks, group_size=2, updates=2)
    model = base.fresh()
    parameter = dict(model.named_parameters())["model.norm.weight"]
    for value, loss, clipped in ((3.0, 1.0, 0.0), (4.0, 2.0, 0.5)):
        if value == 3.0:
            recorder.record_completions([1.0, 0.0], [2, 2], [False, False])
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[0] = value
        recorder.record_gradients(model)
        assert recorder.update_ends(loss, clipped_share=clipped) == (value == 4.0)
    curve = recorder.curve
    assert curve.grad_norm == [pytest.approx(12.5**0.5)]
    assert (curve.loss, curve.clipped_share, len(curve)) == ([1.5], [0.25], 1)


def test_epochs_count_full_steps_and_take_the_place_of_steps() -> None:
    assert [Rl.model_validate({"epochs": 4, "prompts_per_step": 8}).steps_on(items) for items in (7, 8, 100)] == [
        0,
        4,
        48,
    ]
    assert Rl().steps_on(3) == 60
    kept = Rl.model_validate({"epochs": 2})
    assert (kept.steps, Rl.model_validate(kept.model_dump()), kept.budget) == (None, kept, "2 epochs")


@pytest.mark.parametrize(
    ("rl", "says"),
    [
        ({"steps": 3, "epochs": 2}, r"steps \(3\) and epochs \(2\) both say how long; give one"),
        ({"steps": None}, "give steps or epochs"),
        ({"updates_per_rollout": 3}, r"updates_per_rollout \(3\) must divide the 64 completions"),
        (
            {"updates_per_rollout": 4, "micro_batch": 32},
            r"micro_batch \(32\) must divide the 16 completions of an update",
        ),
        ({"warmup_steps": 5}, "warmup_steps needs a schedule"),
        ({"warmup_steps": 1.5, "lr_scheduler_type": "linear"}, "a number of steps, or a share below 1"),
        ({"lr_scheduler_type": "greedy"}, "constant_with_warmup"),
    ],
)
def test_settings_that_do_not_fit_are_refused(rl: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Rl.model_validate(rl)


def test_truncated_completions_are_masked_where_a_prompt_has_one_completion() -> None:
    asked = Recipe.model_validate({"model": "tiny:qwen3", "task": "corridor", "rl": {"mask_truncated": True}})
    with pytest.raises(RecipeError, match=r"rl\.mask_truncated .* corridor is in turns"):
        check_algorithm(asked, Corridor(CorridorTask(name="corridor")))

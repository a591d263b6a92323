"""The RL itself: what TRL is asked for, what it does to frozen weights, and how a run ends."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import trl
from trl.trainer.grpo_trainer import GRPOTrainer

from lensrl.models.base import Base
from lensrl.recipe import Lora, Recipe, Rl
from lensrl.tasks import Item
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.checks import check_frozen
from lensrl.train.config import grpo_config
from lensrl.train.recorder import Recorder
from lensrl.train.trainer import Trainer
from lensrl.train.training import Training, train
from tests.conftest import SMALL

TASK = Arithmetic()


def with_rl(**settings: Any) -> Recipe:
    return SMALL.model_copy(update={"rl": Rl.model_validate(SMALL.rl.model_dump() | settings)})


def changed_parts(base: Base, training: Training) -> set[int | str]:
    return {base.blocks.part(n) for n, weight in training.weights.items() if not torch.equal(weight, base.weights[n])}


def test_full_rl_moves_every_part_and_one_layer_moves_only_itself(base: Base) -> None:
    task = TASK
    assert changed_parts(base, train(base, task, with_rl(steps=2), layers=None, seed=0)) == {
        *range(8), "embed", "final_norm",
    }  # fmt: skip
    assert changed_parts(base, train(base, task, with_rl(steps=2), layers=[2, 5], seed=0)) == {2, 5}


def test_runs_of_a_study_share_data_order_and_a_seed_repeats_itself(base: Base) -> None:
    class Spy:
        def __init__(self) -> None:
            self.prompts: list[str] = []

        def items(self, split: Any) -> list[Item]:
            return TASK.items(split)

        def reward(self, item: Item, completion: str) -> float:
            self.prompts.append(item.prompt)
            return TASK.reward(item, completion)

        score = reward

    spies = [Spy(), Spy(), Spy()]
    full = train(base, spies[0], with_rl(steps=2), layers=None, seed=0)
    again = train(base, spies[1], with_rl(steps=2), layers=None, seed=0)
    train(base, spies[2], with_rl(steps=2), layers=[4], seed=0)
    assert spies[0].prompts == spies[1].prompts == spies[2].prompts
    for (name, one), two in zip(full.weights.items(), again.weights.values(), strict=True):
        assert torch.equal(one, two), name


def test_the_curve_has_one_value_per_step_and_layer_norms_add_up(base: Base) -> None:
    curve = train(base, TASK, with_rl(steps=3), layers=None, seed=0).curve.arrays()
    assert {name: values.shape for name, values in curve.items() if values.ndim == 2} == {
        "layer_grad_norm": (3, 8), "outside_grad_norm": (3, 3),
    }  # fmt: skip
    assert all(len(values) == 3 for values in curve.values())
    total = (curve["layer_grad_norm"] ** 2).sum(1) + (curve["outside_grad_norm"] ** 2).sum(1)
    assert total == pytest.approx(curve["grad_norm"] ** 2)
    assert (curve["step_time"] > 0).all()
    assert (curve["truncated_share"] == 0).all()


def test_a_frozen_layer_has_no_gradient(base: Base) -> None:
    curve = train(base, TASK, with_rl(steps=1), layers=[3], seed=0).curve
    assert [norm > 0 for norm in curve.layer_grad_norm[0]] == [layer == 3 for layer in range(8)]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])  # TRL's advantages, and advantages that replace them
def test_micro_batches_give_the_same_update(base: Base, algorithm: str) -> None:
    """Accumulating four backward passes is the same step as one, up to rounding."""
    whole = train(base, TASK, with_rl(algorithm=algorithm, steps=1), layers=[7], seed=0)
    parts = train(base, TASK, with_rl(algorithm=algorithm, steps=1, micro_batch=16), layers=[7], seed=0)
    assert parts.curve.grad_norm[0] == pytest.approx(whole.curve.grad_norm[0], rel=1e-4)


def test_weights_that_explode_in_the_very_last_step_are_noticed(base: Base) -> None:
    training = train(base, TASK, with_rl(steps=1, learning_rate=1e18), layers=None, seed=0)
    assert training.status == "diverged"
    assert training.reason == "the weights or logits are not finite after step 1"


def test_a_reward_that_is_not_finite_at_once_leaves_an_empty_curve_that_can_be_stored(base: Base) -> None:
    training = train(base, Reward([float("nan")]), with_rl(steps=2), layers=None, seed=0)
    assert training.reason == "a reward is not finite at step 1"
    assert training.curve.arrays()["layer_grad_norm"].shape == (0, 8)


class Reward:
    """A task whose reward is scripted per call."""

    def __init__(self, rewards: list[float]) -> None:
        self.rewards = rewards
        self.calls = 0

    def items(self, split: Any) -> list[Item]:
        return TASK.items(split)

    def reward(self, item: Item, completion: str) -> float:
        self.calls += 1
        return self.rewards[min((self.calls - 1) // 64, len(self.rewards) - 1)] * (1 + self.calls % 2)

    score = reward


def test_a_reward_that_is_not_finite_ends_the_run(base: Base) -> None:
    training = train(base, Reward([0.5, float("inf")]), with_rl(steps=4), layers=None, seed=0)
    assert (training.status, training.reason) == ("diverged", "a reward is not finite at step 2")


def test_weights_that_explode_end_the_run_at_the_gradient(base: Base) -> None:
    training = train(base, TASK, with_rl(steps=9, learning_rate=1e18), layers=None, seed=0)
    assert training.status == "diverged"
    assert training.reason == f"the gradient is not finite at step {len(training.curve.grad_norm)}"
    assert 1 < len(training.curve.grad_norm) < 9


def test_a_reward_that_falls_under_half_of_its_start_is_a_collapse(base: Base) -> None:
    rewards = [1.0] * 10 + [0.1] * 30
    training = train(base, Reward(rewards), with_rl(steps=40), layers=[7], seed=0)
    assert training.status == "collapsed"
    assert len(training.curve) == 20
    assert "under half" in training.reason


def test_a_few_rewards_that_are_not_won_again_are_no_collapse(base: Base) -> None:
    rewards = [0.0, 1 / 16, 0.0, 0.0, 0.0, 1 / 16] + [0.0] * 16
    training = train(base, Reward(rewards), with_rl(steps=22), layers=[7], seed=0)
    assert (training.status, len(training.curve)) == ("completed", 22)


def test_a_training_that_moves_a_frozen_parameter_is_an_error(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer._compute_loss

    def nudge(self: Trainer, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        model.get_parameter("model.norm.weight").data[0] += 1e-3
        return original(self, model, inputs)

    monkeypatch.setattr(Trainer, "_compute_loss", nudge)
    lora = Lora(rank=2, targets=("q_proj",))
    for adapters in (None, lora):
        with pytest.raises(RuntimeError, match=r"model\.norm\.weight changed although only layers \[3\] were trained"):
            train(base, TASK, with_rl(steps=1), layers=[3], seed=0, lora=adapters)


def test_a_moved_frozen_parameter_is_an_error_even_if_only_the_sign_of_zero(base: Base) -> None:
    model = base.fresh()
    check_frozen(model, base, [1])
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.up_proj.weight").view(-1)[0] *= -1
    with pytest.raises(RuntimeError, match=r"layers\.0\.mlp\.up_proj\.weight changed although only layers \[1\]"):
        check_frozen(model, base, [1])


@pytest.mark.parametrize(
    ("algorithm", "loss_type", "scale_rewards"),
    [("grpo", "grpo", "group"), ("dr_grpo", "dr_grpo", "none"), ("rloo", "luspo", "none")],
)
def test_trl_is_asked_for_the_published_algorithm(
    tmp_path: Any, algorithm: str, loss_type: str, scale_rewards: str
) -> None:
    config = grpo_config(
        with_rl(algorithm=algorithm), seed=3, device="cpu", output_dir=str(tmp_path), max_grad_norm=1.0
    )
    assert (config.loss_type, config.scale_rewards, config.num_iterations) == (loss_type, scale_rewards, 1)
    assert (config.importance_sampling_level, config.epsilon, config.epsilon_high) == ("token", 0.2, None)
    assert config.max_completion_length == SMALL.rl.max_completion_tokens  # what Dr. GRPO divides by
    assert config.generation_batch_size == 64
    assert config.steps_per_generation == config.gradient_accumulation_steps  # on-policy
    assert (config.temperature, config.top_p, config.top_k) == (1.0, 1.0, 0)
    assert str(config.lr_scheduler_type).endswith("constant") or config.lr_scheduler_type == "constant"


def test_the_gradient_is_that_of_a_hand_written_grpo_loss(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same completions, same rewards: TRL's gradient norm is that of -mean_i mean_t A_i log p(token_t)."""
    seen: dict[str, Any] = {}
    original = Trainer._compute_loss

    def spy(self: Trainer, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.update({key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)})
        return original(self, model, inputs)

    monkeypatch.setattr(Trainer, "_compute_loss", spy)
    rewards: list[float] = []
    task = TASK

    class Recording:
        def items(self, split: Any) -> list[Item]:
            return task.items(split)

        def reward(self, item: Item, completion: str) -> float:
            rewards.append(task.reward(item, completion))
            return rewards[-1]

        score = reward

    norm = train(base, Recording(), with_rl(steps=1), layers=[7], seed=0).curve.grad_norm[0]

    group = torch.tensor(rewards).view(8, 8)
    advantages = ((group - group.mean(1, keepdim=True)) / (group.std(1, keepdim=True) + 1e-4)).view(-1)
    assert torch.allclose(seen["advantages"].sort().values, advantages.sort().values, atol=1e-5)

    model = base.fresh()
    ids = torch.cat([seen["prompt_ids"], seen["completion_ids"]], 1)
    mask = torch.cat([seen["prompt_mask"], seen["completion_mask"]], 1)
    start = seen["prompt_ids"].shape[1]
    logprobs = model(ids, attention_mask=mask).logits[:, start - 1 : -1].log_softmax(-1)
    chosen = logprobs.gather(-1, seen["completion_ids"][..., None]).squeeze(-1)
    weights = seen["completion_mask"] / seen["completion_mask"].sum(1, keepdim=True)
    loss = -(seen["advantages"] * (chosen * weights).sum(1)).mean()
    layer = [p for n, p in model.named_parameters() if base.blocks.layer(n) == 7]
    gradients = torch.autograd.grad(loss, layer)
    assert norm == pytest.approx(float(sum(g.square().sum() for g in gradients)) ** 0.5, rel=1e-3)


def broken(what: str) -> str:
    return f"trl {trl.__version__}: {what}. lensrl/train/trainer.py was written for trl 1.16 and relies on it."


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_generate_and_score_completions", ["inputs"]),  # where advantages can be replaced: there is no hook for them
        ("_compute_loss", ["model", "inputs"]),
        ("_clip_grad_norm", ["model"]),
    ],
)
def test_trl_has_the_methods_that_a_trainer_overrides(method: str, parameters: list[str]) -> None:
    assert method in dir(GRPOTrainer), broken(f"GRPOTrainer.{method} is gone")
    found = [*inspect.signature(getattr(GRPOTrainer, method)).parameters]
    assert found == ["self", *parameters], broken(f"GRPOTrainer.{method} takes {found}, no longer self, {parameters}")


def test_a_step_of_trl_goes_as_the_trainer_expects(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of four micro-batches: what is called when, with which shapes, and what travels with a row."""
    events: list[str] = []
    sampled: list[str] = []
    rewarded: list[str] = []
    scored: dict[str, torch.Tensor] = {}
    order: list[int] = []
    generate, compute_loss, clip = (
        Trainer._generate_and_score_completions, Trainer._compute_loss, Trainer._clip_grad_norm,
    )  # fmt: skip

    class Spy(Reward):
        def reward(self, item: Item, completion: str) -> float:
            rewarded.append(item.id)
            return super().reward(item, completion)

    def on_generate(self: Trainer, inputs: Any) -> Any:
        events.append("generate")
        sampled.extend(row["id"] for row in inputs)
        output = generate(self, inputs)
        scored.clear()
        scored.update({key: value for key, value in output.items() if isinstance(value, torch.Tensor)})
        return output | {"row": torch.arange(len(inputs))}

    def on_loss(self: Trainer, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        events.append("loss")
        assert "row" in inputs, broken("a tensor added to a step's batch no longer reaches the loss")
        rows = inputs["row"]
        order.extend(rows.tolist())
        for name in ("advantages", "completion_ids", "completion_mask"):
            assert torch.equal(inputs[name], scored[name][rows]), broken(f"{name} is not shuffled with its row")
        loss = compute_loss(self, model, inputs)
        spread = inputs["advantages"][:, None].expand(inputs["completion_mask"].shape)
        per_token = compute_loss(self, model, inputs | {"advantages": spread})
        assert torch.equal(loss, per_token), broken("advantages per token are not those per completion")
        return loss

    def on_clip(self: Trainer, model: torch.nn.Module) -> Any:
        events.append("clip")
        with_gradient = {base.blocks.part(n) for n, p in model.named_parameters() if p.grad is not None}
        assert with_gradient == {7}, broken(f"at _clip_grad_norm, {with_gradient} have a gradient, not layer 7 alone")
        return clip(self, model)

    monkeypatch.setattr(Trainer, "_generate_and_score_completions", on_generate)
    monkeypatch.setattr(Trainer, "_compute_loss", on_loss)
    monkeypatch.setattr(Trainer, "_clip_grad_norm", on_clip)
    training = train(base, Spy([0.5]), with_rl(steps=2, micro_batch=16), layers=[7], seed=0)

    assert events == ["generate", *["loss"] * 4, "clip"] * 2, broken(f"the order of a step is {events}")
    assert len(training.curve.loss) == 2, broken("the log of a step no longer has its loss")
    groups = [sampled[start : start + 8] for start in range(0, 128, 8)]
    assert all(len(set(group)) == 1 for group in groups), broken("completions of a prompt no longer stand together")
    assert rewarded == sampled, broken("rewards are not asked for once, in the order of the prompts")
    assert scored["advantages"].shape == (64,), broken(f"advantages have shape {tuple(scored['advantages'].shape)}")
    assert scored["completion_mask"].shape == scored["completion_ids"].shape, broken("the mask is not one per token")
    for step in (order[:64], order[64:]):
        assert sorted(step) == list(range(64)), broken("the loss does not see each completion of a step once")


def test_the_recorder_counts_zero_spread_groups_and_truncation(base: Base) -> None:
    recorder = Recorder(base.blocks, group_size=2)
    recorder.record_completions([1.0, 1.0, 0.0, 1.0], [2, 3, 3, 1], [False, True, False, False])
    curve = recorder.curve
    assert (curve.reward_mean, curve.zero_spread_share, curve.truncated_share) == ([0.75], [0.5], [0.25])
    assert curve.completion_length == [2.25]

"""The losses that TRL computes for a recipe, against the papers' formulas written out on plain logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from lensrl import run_study
from lensrl.models.base import Base
from lensrl.models.sampler import Pieces
from lensrl.recipe import Recipe, Rl
from lensrl.tasks import Item
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.advantages import dr_grpo_advantages, grpo_advantages, rloo_advantages
from lensrl.train.config import grpo_config
from lensrl.train.recorder import Recorder
from lensrl.train.sampling import Completions
from lensrl.train.trainer import Trainer
from lensrl.train.training import quiet, train
from tests.conftest import SMALL

LENGTH = 5  # SMALL's max_completion_tokens: Dr. GRPO's constant, whatever the longest completion of the batch is
TASK = Arithmetic()
ALGORITHMS = ("grpo", "dr_grpo", "rloo", "dapo", "gspo")


# log(new / old) of each token: outside the clip of 0.2 on either side, for a rewarded and for a punished completion
LOG_RATIO = torch.tensor([[0.3, -0.3, 0.1, 0.0], [-0.4, 0, 0, 0], [0.4, -0.3, -0.1, 0], [-0.1, 0.5, 0, 0]])


def with_rl(**settings: Any) -> Recipe:
    return SMALL.model_copy(update={"rl": Rl.model_validate(SMALL.rl.model_dump() | settings)})


def make_trainer(base: Base, policy: PreTrainedModel, recipe: Recipe, folder: Path) -> Trainer:
    recorder = Recorder(base.blocks, group_size=8)
    with quiet():
        return Trainer(
            model=policy,
            args=grpo_config(recipe, seed=0, device="cpu", output_dir=str(folder), max_grad_norm=1.0),
            processing_class=base.tokenizer,
            sampling=Completions(
                TASK, recipe, policy, base.prompts, recorder, sampler=Pieces(policy, base.tokenizer), seed=0
            ),
            recorder=recorder,
        )


def batch(base: Base) -> dict[str, torch.Tensor]:
    """Four completions of 4, 1, 3 and 2 tokens: prompts padded on the left, some ratios far enough to be clipped."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = len(base.tokenizer)
    ids = torch.randint(2, vocabulary, (4, 7), generator=generator)
    prompt_mask = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]])
    completion_mask = (torch.arange(4) < torch.tensor([4, 1, 3, 2])[:, None]).long()
    inputs = {
        "prompt_ids": ids[:, :3] * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": ids[:, 3:] * completion_mask,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([1.5, -0.5, -0.7, 1.0]),
        "num_items_in_batch": completion_mask.sum(),
    }
    with torch.no_grad():
        logprobs = token_logprobs(base.fresh(), inputs)
    inputs["old_per_token_logps"] = logprobs - LOG_RATIO
    inputs["ref_per_token_logps"] = logprobs + 0.4 * torch.randn(4, 4, generator=generator)
    return inputs


def token_logprobs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    start = inputs["prompt_ids"].shape[1]
    chosen = logits[:, start - 1 : -1].log_softmax(-1).gather(-1, inputs["completion_ids"][..., None])
    return chosen.squeeze(-1)


def by_hand(model: Any, inputs: dict[str, torch.Tensor], recipe: Recipe) -> torch.Tensor:
    """One token at a time: arXiv 2402.03300 eqs. 3 and 4, arXiv 2503.20783 listing 1, arXiv 2402.14740, arXiv
    2503.14476 eq. 8, arXiv 2507.18071 eqs. 5 to 7.
    """
    rl = recipe.rl
    logprobs = token_logprobs(model, inputs)
    of_completions: list[torch.Tensor] = []
    for i, mask in enumerate(inputs["completion_mask"]):
        of_tokens: list[torch.Tensor] = []
        for t in range(int(mask.sum())):
            advantage = inputs["advantages"][i]
            log_ratios = logprobs[i] - inputs["old_per_token_logps"][i]
            ratio = (log_ratios[: int(mask.sum())].mean() if rl.algorithm == "gspo" else log_ratios[t]).exp()
            surrogate = torch.min(ratio * advantage, ratio.clamp(1 - rl.clip, 1 + rl.clip) * advantage)
            to_reference = inputs["ref_per_token_logps"][i, t] - logprobs[i, t]
            kl = to_reference.exp() - to_reference - 1
            of_tokens.append(surrogate - rl.kl_beta * kl)
        per_completion = float(inputs["completion_mask"].sum()) / len(inputs["completion_mask"])  # tokens, on average
        divisor = {"dr_grpo": LENGTH, "rloo": 1, "dapo": per_completion}.get(rl.algorithm, len(of_tokens))
        of_completions.append(torch.stack(of_tokens).sum() / divisor)
    return -torch.stack(of_completions).sum() / len(of_completions)


@pytest.mark.parametrize("kl_beta", [0.0, 0.3])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_trls_loss_and_gradients_are_the_papers(base: Base, tmp_path: Path, algorithm: str, kl_beta: float) -> None:
    recipe = with_rl(algorithm=algorithm, kl_beta=kl_beta)
    inputs = batch(base)
    policy = base.fresh().train()
    trainer = make_trainer(base, policy, recipe, tmp_path)
    trainer.current_gradient_accumulation_steps = 1
    theirs = trainer.compute_loss(policy, inputs)
    theirs.backward()

    model = base.fresh()
    ours = by_hand(model, inputs, recipe)
    ours.backward()
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-4)
    expected = dict(model.named_parameters())
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=2e-5, rtol=1e-3, msg=name)


def test_the_batch_tells_formulas_apart(base: Base) -> None:
    """Otherwise the test above would pass on formulas without clipping, or with the two exchanged."""
    inputs, model = batch(base), base.fresh()
    with torch.no_grad():
        losses = [float(by_hand(model, inputs, with_rl(algorithm=algorithm))) for algorithm in ALGORITHMS]
        losses.append(float(by_hand(model, inputs, with_rl(clip=100.0))))
    assert len({round(loss, 2) for loss in losses}) == len(ALGORITHMS) + 1


def test_the_gradient_of_rloo_is_that_of_reinforce_and_of_trls_rloo_trainer(base: Base, tmp_path: Path) -> None:
    """On-policy. REINFORCE as in arXiv 2402.14740: a completion's log-probability times its advantage."""
    inputs = batch(base)
    with torch.no_grad():
        inputs["old_per_token_logps"] = token_logprobs(base.fresh(), inputs)
    inputs["old_logps"] = (inputs["old_per_token_logps"] * inputs["completion_mask"]).sum(1)

    policy = base.fresh().train()
    ours = make_trainer(base, policy, with_rl(algorithm="rloo"), tmp_path)
    ours.current_gradient_accumulation_steps = 1
    ours.compute_loss(policy, inputs).backward()

    theirs = base.fresh().train()
    with quiet():
        trainer = RLOOTrainer(
            model=theirs,
            args=RLOOConfig(output_dir=str(tmp_path), beta=0.0, use_cpu=True, bf16=False, report_to="none",
                            gradient_checkpointing=False, disable_tqdm=True),
            processing_class=base.tokenizer,
            reward_funcs=ours.reward_funcs,
            train_dataset=Dataset.from_list([{"prompt": "1+1="}]),
        )  # fmt: skip
    trainer.compute_loss(theirs, inputs).backward()

    model = base.fresh()
    of_completions = (token_logprobs(model, inputs) * inputs["completion_mask"]).sum(1)
    (-(inputs["advantages"] * of_completions).mean()).backward()
    reinforce, rloo_trainer = dict(model.named_parameters()), dict(theirs.named_parameters())
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, reinforce[name].grad, atol=5e-5, rtol=1e-3, msg=name)
        torch.testing.assert_close(parameter.grad, rloo_trainer[name].grad, atol=5e-5, rtol=1e-3, msg=name)


def test_the_first_gradient_of_rloo_is_that_of_dr_grpo_times_a_constant(base: Base) -> None:
    """Groups of 8: L n / (n - 1). The completions of the first step are the same."""
    rloo, dr_grpo = (
        train(base, TASK, with_rl(algorithm=algorithm, steps=1), layers=[7], seed=0).curve.grad_norm[0]
        for algorithm in ("rloo", "dr_grpo")
    )
    assert rloo == pytest.approx(LENGTH * 8 / 7 * dr_grpo, rel=1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_micro_batches_add_up_to_the_same_loss(base: Base, tmp_path: Path, algorithm: str) -> None:
    policy = base.fresh().train()
    trainer = make_trainer(base, policy, with_rl(algorithm=algorithm), tmp_path)
    inputs = batch(base)
    trainer.current_gradient_accumulation_steps = 1
    whole = trainer.compute_loss(policy, inputs).item()
    trainer.current_gradient_accumulation_steps = 2
    trainer.args.steps_per_generation = 2  # pyright: ignore[reportAttributeAccessIssue]
    halves = [
        {key: value[rows] if value.ndim else value for key, value in inputs.items()} for rows in (slice(2), slice(2, 4))
    ]
    parts = [trainer.compute_loss(policy, half).item() for half in halves]
    assert sum(parts) == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "ours"), [("grpo", grpo_advantages), ("dr_grpo", dr_grpo_advantages), ("rloo", rloo_advantages)]
)
def test_trls_advantages_are_ours(base: Base, monkeypatch: pytest.MonkeyPatch, algorithm: str, ours: Any) -> None:
    """What becomes of real rewards before TRL shuffles the step's completions: TRL's own, or what replaces them."""
    theirs: list[torch.Tensor] = []
    original = Trainer._generate_and_score_completions

    def spy(self: Trainer, inputs: Any) -> Any:
        output = original(self, inputs)
        theirs.append(output["advantages"].clone())
        return output

    rewards: list[float] = []

    class Recording:
        def items(self, split: Any) -> list[Item]:
            return TASK.items(split)

        def reward(self, item: Item, completion: str) -> float:
            # Eighths, so that TRL's fp32 mean is exact: equal rewards whose mean is rounded give it 1e-7 / 1e-4.
            rewards.append(TASK.reward(item, completion) + len(completion) / 8)
            return rewards[-1]

        score = reward

    monkeypatch.setattr(Trainer, "_generate_and_score_completions", spy)
    train(base, Recording(), with_rl(algorithm=algorithm, steps=1), layers=[7], seed=0)
    expected = ours(np.array(rewards), np.repeat(np.arange(8), 8))
    assert expected.any()
    assert theirs[0].numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_a_dr_grpo_study_runs_and_its_weights_are_not_those_of_grpo(tmp_path: Path) -> None:
    deltas: list[np.ndarray] = []
    for algorithm in ("grpo", "dr_grpo"):
        recipe = with_rl(algorithm=algorithm, steps=2).model_copy(update={"layers": [3], "sets": {}})
        with run_study(recipe, tmp_path / algorithm) as study:
            assert {study[name].status for name in ("full-rl", "layer-3")} == {"completed"}
            deltas.append(study["layer-3"].deltas[3]["mlp.down_proj.weight"][:])
    assert all(delta.any() for delta in deltas)
    assert (deltas[0] != deltas[1]).mean() > 0.5

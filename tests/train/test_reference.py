"""What a run that trains one layer computes and holds: the backward pass, the KL term's reference, frozen weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.models.blocks import train_only
from lensrl.models.lora import named_weights
from lensrl.models.precision import copy_in_bf16
from lensrl.models.sampler import Copied
from lensrl.recipe import Lora, Recipe, Rl
from lensrl.recipe.settings import Resources
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train import preflight
from lensrl.train.config import grpo_config, samples_with_copy
from lensrl.train.preflight import check_frozen_dtype, check_optim
from lensrl.train.reference import BaseInPlace
from lensrl.train.trainer import Trainer
from lensrl.train.training import train
from tests.conftest import SMALL

TASK = Arithmetic()
OF_VERSION_02 = [0.671875, 0.609375]  # layer 7, seed 0, `SMALL`; torch 2.13 on an x86-64 CPU


def with_rl(**settings: Any) -> Recipe:
    return SMALL.model_copy(update={"rl": Rl.model_validate(SMALL.rl.model_dump() | settings)})


@pytest.fixture(scope="module")
def bf16_base(base: Base) -> Base:
    """The embedded base as a checkpoint in bfloat16 would give it."""
    model = base.fresh()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    return Base("rounded", model, base.tokenizer, base.blocks)


def test_the_base_comes_back_exactly_and_so_does_what_was_trained(base: Base) -> None:
    model = base.fresh()
    train_only(model, base.blocks, [3])
    reference = BaseInPlace(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    with reference.put_back():
        assert all(torch.equal(p, base.weights[name]) for name, p in model.named_parameters())
    assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters())
    held = sum(values.numel() for values in reference._base.values())  # pyright: ignore[reportPrivateUsage]
    assert held == sum(w.numel() for name, w in base.weights.items() if base.blocks.layer(name) == 3)


@pytest.mark.parametrize("layers", [[5], None])
def test_the_reference_of_the_kl_term_is_the_base(
    base: Base, monkeypatch: pytest.MonkeyPatch, layers: list[int] | None
) -> None:
    """At every step, the reference's log-probabilities are those of the base on the step's tokens."""
    seen: list[dict[str, Any]] = []
    original = Trainer._compute_loss

    def spy(self: Trainer, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        seen.append(dict(inputs))
        return original(self, model, inputs)

    monkeypatch.setattr(Trainer, "_compute_loss", spy)
    train(base, TASK, with_rl(steps=3, kl_beta=0.5, learning_rate=1e-3), layers=layers, seed=0)
    gaps = []
    for step in seen:
        ids = torch.cat([step["prompt_ids"], step["completion_ids"]], 1)
        mask = torch.cat([step["prompt_mask"], step["completion_mask"]], 1)
        start = step["prompt_ids"].shape[1]
        with torch.no_grad():
            logits = base.model(ids, attention_mask=mask).logits[:, start - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, step["completion_ids"][..., None]).squeeze(-1)
        real = step["completion_mask"].bool()
        torch.testing.assert_close(step["ref_per_token_logps"][real], expected[real], atol=1e-4, rtol=0)
        gaps.append(float((step["ref_per_token_logps"] - step["sampling_per_token_logps"])[real].abs().max()))
    assert gaps[0] < 1e-4 < gaps[2], "the policy leaves the reference"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kl_beta", [0.0, 0.1])
def test_the_backward_pass_ends_at_the_lowest_trained_layer(
    base: Base, monkeypatch: pytest.MonkeyPatch, checkpointing: bool, kl_beta: float
) -> None:
    passed: Counter[int] = Counter()
    original = Trainer.__init__

    def hooked(self: Trainer, **arguments: Any) -> None:
        for layer, block in enumerate(arguments["model"].get_submodule(base.blocks.prefix)):
            block.register_full_backward_hook(lambda *_, layer=layer: passed.update([layer]))
        original(self, **arguments)

    monkeypatch.setattr(Trainer, "__init__", hooked)
    recipe = with_rl(steps=1, gradient_checkpointing=checkpointing, kl_beta=kl_beta)
    assert train(base, TASK, recipe, layers=[4, 6], seed=0).status == "completed"
    assert passed.keys() == {4, 5, 6, 7}


def test_gradient_checkpointing_changes_no_gradient(base: Base) -> None:
    norms = [
        train(base, TASK, with_rl(steps=2, gradient_checkpointing=on), layers=[4], seed=0).curve.grad_norm
        for on in (False, True)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_frozen_weights_in_bf16_start_where_full_rl_starts(bf16_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step: the same completions and the same gradient of layer 3, whatever else is frozen and how."""
    models: list[dict[str, torch.nn.Parameter]] = []
    seen: list[torch.Tensor] = []
    original = Trainer._compute_loss

    def spy(self: Trainer, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        models.append(dict(model.named_parameters()))
        seen.append(inputs["completion_ids"].sort(0).values)
        return original(self, model, inputs)

    monkeypatch.setattr(Trainer, "_compute_loss", spy)
    lowered = with_rl(steps=1, frozen_dtype="bfloat16")
    alone = train(bf16_base, TASK, lowered, layers=[3], seed=0)
    full = train(bf16_base, TASK, lowered, layers=None, seed=0)
    assert torch.equal(*seen)
    assert alone.curve.layer_grad_norm[0][3] == pytest.approx(full.curve.layer_grad_norm[0][3], rel=1e-3)
    assert all(norm < 0.01 for training in (alone, full) for norm in training.curve.sampler_mismatch)
    # Trained weights are fp32 and frozen matrices bf16. No frozen bit has moved.
    kinds = {(bf16_base.blocks.layer(name) == 3, p.ndim > 1): p.dtype for name, p in models[0].items()}
    assert kinds == {
        (True, True): torch.float32, (True, False): torch.float32,
        (False, True): torch.bfloat16, (False, False): torch.float32,
    }  # fmt: skip
    assert all(p.dtype == torch.float32 for p in models[1].values())
    assert {bf16_base.blocks.part(name) for name in alone.weights} == {3}


def test_a_frozen_type_that_would_round_is_refused(base: Base, bf16_base: Base) -> None:
    recipe = with_rl(frozen_dtype="bfloat16")
    check_frozen_dtype(bf16_base, recipe)
    with pytest.raises(LensrlError, match=r"would round model\.embed_tokens\.weight of tiny:qwen3, .*= 'float32'"):
        check_frozen_dtype(base, recipe)


def test_the_sampler_and_the_trainer_agree_in_fp32(base: Base) -> None:
    curve = train(base, TASK, with_rl(steps=2), layers=[7], seed=0).curve
    assert len(curve.sampler_mismatch) == 2
    assert 0 < max(curve.sampler_mismatch) < 1e-5


@pytest.mark.parametrize("layers", [[7], None])
def test_a_copy_that_samples_has_the_latest_weights(
    base: Base, monkeypatch: pytest.MonkeyPatch, layers: list[int] | None
) -> None:
    """At every step the copy is the model, rounded to bf16. A layer copies its 11 of 90 tensors again."""
    seen: list[tuple[int, bool]] = []
    original = Copied.refresh

    def spy(self: Copied) -> None:
        model, copies = self._model, self._copies  # pyright: ignore[reportPrivateUsage]
        before = {name: (values, values._version) for name, values in copies.items()}
        original(self)
        fresh = all(torch.equal(copies[name], weight.bfloat16()) for name, weight in named_weights(model))
        seen.append((sum(values._version > version for values, version in before.values()), fresh))

    monkeypatch.setattr(Copied, "refresh", spy)
    run = train(base, TASK, with_rl(steps=3, sampler_dtype="bfloat16", learning_rate=1e-3), layers=layers, seed=0)
    assert seen == [(11 if layers else 90, True)] * 3
    assert all(1e-4 < value < 0.05 for value in run.curve.sampler_mismatch)
    own = train(base, TASK, with_rl(steps=1), layers=layers, seed=0)
    said = train(base, TASK, with_rl(steps=1, sampler_dtype="float32"), layers=layers, seed=0)
    assert own.curve.grad_norm == said.curve.grad_norm, "the default on a CPU"


@pytest.mark.parametrize(
    "trained",
    [{"layers": [3]}, {"layers": [3], "outside": ["embed"]}, {"layers": [3], "lora": Lora(rank=2)}],
    ids=["layer", "layer and embedding", "adapters"],
)
def test_a_copy_that_samples_stores_no_frozen_matrix_again(
    bf16_base: Base, monkeypatch: pytest.MonkeyPatch, trained: dict[str, Any]
) -> None:
    """Three steps, with the KL term that puts the base's weights into the model, are those with a whole copy."""
    seen: list[dict[str, tuple[int, int, int]]] = []
    kept: list[bool] = []
    original = Copied.refresh

    def spy(self: Copied) -> None:
        original(self)
        model, copies = self._model, self._copies  # pyright: ignore[reportPrivateUsage]
        shared = {p.data_ptr() for p in model.parameters()}
        own = {name: p for name, p in copies.items() if p.data_ptr() not in shared}
        seen.append({name: (p.numel(), p.element_size(), p.ndim) for name, p in own.items()})
        kept.append(all(torch.equal(copies[name], weight.bfloat16()) for name, weight in named_weights(model)))

    monkeypatch.setattr(Copied, "refresh", spy)
    half = {"frozen_dtype": "bfloat16", "sampler_dtype": "bfloat16"}
    lowered = with_rl(steps=3, kl_beta=0.1, learning_rate=1e-3, **half)
    alone = train(bf16_base, TASK, lowered, seed=0, **trained)
    parts = {3, *trained.get("outside", ())}
    doubled = {n: w for n, w in bf16_base.weights.items() if bf16_base.blocks.part(n) in parts or w.ndim < 2}
    assert seen == [{name: (weight.numel(), 2, weight.ndim) for name, weight in doubled.items()}] * 3
    assert kept == [True] * 3
    monkeypatch.setattr("lensrl.train.training.copy_in_bf16", lambda model, device, _: copy_in_bf16(model, device))
    whole = train(bf16_base, TASK, lowered, seed=0, **trained)
    assert len(seen[-1]) == len(bf16_base.weights), "nothing is shared"
    for column in ("reward_mean", "grad_norm", "sampler_mismatch"):
        assert getattr(alone.curve, column) == getattr(whole.curve, column)
    for (name, one), other in zip(alone.weights.items(), whole.weights.values(), strict=True):
        assert torch.equal(one, other), name


def test_a_copy_is_for_pieces_and_whole_weights() -> None:
    with pytest.raises(ValueError, match="is for generation = 'pieces', and this is 'vllm'"):
        Recipe.model_validate(with_rl(sampler_dtype="bfloat16").model_dump() | {"generation": "vllm"})
    assert not samples_with_copy(SMALL, "cpu")
    assert samples_with_copy(SMALL, "cuda")
    assert not samples_with_copy(with_rl(algorithm="sft"), "cuda")
    assert not samples_with_copy(SMALL.model_copy(update={"engine": Resources(shard=True)}), "cuda")


@pytest.mark.parametrize("rollout_batch", [1, 24])
def test_a_rollout_in_parts_is_the_same_rollout(base: Base, rollout_batch: int) -> None:
    whole = train(base, TASK, with_rl(steps=1), layers=[7], seed=0)
    parts = train(base, TASK, with_rl(steps=1, rollout_batch=rollout_batch), layers=[7], seed=0)
    assert parts.curve.reward_mean == whole.curve.reward_mean
    assert parts.curve.grad_norm == pytest.approx(whole.curve.grad_norm, rel=1e-4)


def test_studies_of_older_versions_sample_as_they_did(base: Base) -> None:
    """TRL samples, as then. The reward of each step was measured with version 0.2."""
    older = with_rl(steps=2).model_copy(update={"generation": "generate"})
    curve = train(base, TASK, older, layers=[7], seed=0).curve
    assert curve.sampler_mismatch == []
    assert curve.reward_mean == pytest.approx(OF_VERSION_02, abs=1e-9)


def test_an_optimizer_of_bitsandbytes_is_handed_to_trl_and_refused_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = with_rl(optim="paged_adamw_8bit")
    asked = grpo_config(recipe, seed=0, device="cpu", output_dir=str(tmp_path), max_grad_norm=1.0)
    assert asked.optim == "paged_adamw_8bit"
    monkeypatch.setattr(preflight, "find_spec", lambda _: object())
    check_optim(recipe)
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    check_optim(with_rl())
    with pytest.raises(LensrlError, match=r"rl.optim = 'paged_adamw_8bit' needs bitsandbytes: pip install"):
        check_optim(recipe)

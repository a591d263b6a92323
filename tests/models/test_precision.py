"""Frozen weights in bf16: nothing is rounded, and a model computes in bf16 what it did from fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lensrl.models.base import Base
from lensrl.models.blocks import train_only
from lensrl.models.generation import sampling_settings, token_ids
from lensrl.models.histories import Histories
from lensrl.models.precision import autocast, in_parts, inexact, is_exact, lower_frozen, own_weights
from tests.families import FAMILIES, opened


def rounded(base: Base) -> Base:
    """A base whose matrices are bf16 numbers, as one that was stored in bf16."""
    for parameter in base.model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    return base


@pytest.fixture(params=["qwen3", "qwen2.5-untied", "gpt2", "gemma3", "opt", "gpt-neox"])
def some_base(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    return rounded(opened(FAMILIES[request.param], tmp_path))


def test_logits_are_those_of_fp32_storage_bit_for_bit(some_base: Base) -> None:
    ids = torch.tensor([[3, 40, 50, 60, 7]])
    whole, lowered = some_base.fresh(), some_base.fresh()
    for model in (whole, lowered):
        train_only(model, some_base.blocks, [1])
    lower_frozen(lowered)
    assert any(p.dtype == torch.bfloat16 for p in lowered.parameters())
    assert all(p.dtype == torch.float32 for p in lowered.parameters() if p.requires_grad or p.ndim == 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = whole(ids).logits
    with torch.no_grad(), autocast(lowered):
        assert torch.equal(lowered(ids).logits, expected)


def test_nothing_is_rounded(some_base: Base) -> None:
    model = some_base.fresh()
    train_only(model, some_base.blocks, [0])
    lower_frozen(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.detach().float().view(torch.int32), some_base.weights[name].view(torch.int32)), (
            name
        )


def test_a_matrix_that_bf16_cannot_hold_stays_in_fp32(tmp_path: Path) -> None:
    base = rounded(opened(FAMILIES["qwen3"], tmp_path))
    assert inexact(base.weights) is None
    name = "model.layers.0.mlp.up_proj.weight"
    base.weights[name][0, 0] = 0.1
    assert inexact(base.weights) == name
    model = base.fresh()
    train_only(model, base.blocks, [1])
    lower_frozen(model)
    kinds = {n: p.dtype for n, p in model.named_parameters() if n.endswith("up_proj.weight")}
    assert kinds == {name: torch.float32, name.replace("0", "1"): torch.float32}
    assert model.get_parameter("model.layers.0.mlp.down_proj.weight").dtype == torch.bfloat16


@pytest.mark.parametrize("lowered", [False, True])
def test_a_model_that_shared_the_weights_of_the_base_has_its_own(some_base: Base, lowered: bool) -> None:
    model = some_base.reading()
    theirs = {weight.data_ptr() for weight in some_base.weights.values()}
    assert {parameter.data_ptr() for parameter in model.parameters()} == theirs
    train_only(model, some_base.blocks, [1])
    if lowered:
        lower_frozen(model)
    own_weights(model)
    assert not theirs & {parameter.data_ptr() for parameter in model.parameters()}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.detach().float(), some_base.weights[name]), name


def test_a_large_tensor_is_looked_at_in_parts_and_as_a_whole() -> None:
    tensor = torch.zeros(2, 2**23 + 1)
    assert [len(part) for part in in_parts(tensor)] == [2**24, 2]
    assert is_exact(tensor)
    tensor[-1, -1] = 1 / 3
    assert not is_exact(tensor)


@pytest.mark.parametrize(("value", "exact"), [(0.0, True), (-1.5, True), (1 / 3, False), (float("inf"), True)])
def test_exact_numbers_are_those_whose_lower_half_is_zero(value: float, exact: bool) -> None:
    tensor = torch.tensor([1.0, value])
    assert is_exact(tensor) is exact
    assert is_exact(tensor) is bool((tensor.to(torch.bfloat16).float() == tensor).all())


def test_keys_and_values_are_kept_in_bf16_under_bf16_compute(tmp_path: Path) -> None:
    base = rounded(opened(FAMILIES["gemma3"], tmp_path))
    model = base.fresh()
    train_only(model, base.blocks, [1])
    lower_frozen(model)
    histories = Histories(model, 0, [token_ids(base.tokenizer, "12+3=")], [(0, 0)])
    settings = sampling_settings([1], base.tokenizer, max_tokens=12, temperature=1.0)
    histories.continued(settings)
    cache = histories._cache  # pyright: ignore[reportPrivateUsage]
    assert cache is not None
    kinds = {(layer.keys.dtype, layer.values.dtype) for layer in cache.layers}  # pyright: ignore
    assert kinds == {(torch.bfloat16, torch.bfloat16)}
    assert {type(layer).__name__ for layer in cache.layers} >= {"DynamicSlidingWindowLayer"}

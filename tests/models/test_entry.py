"""A model entered in the middle computes what a whole pass computes, and leaves the blocks below out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch

from lensrl.compare.patching.graft import graft_logprobs, holding
from lensrl.models.base import Base, load_base
from lensrl.models.entry import entering, enters, recording
from lensrl.models.references import (
    answer_logprobs,
    answer_mean,
    keeps_logits,
    reference_logprobs,
    references,
)
from lensrl.tasks import Item

ITEMS = [Item(id=f"{a}", prompt=f"{a}+38=", reference=str(a + 38), benchmark="b") for a in (10, 47, 99, 5)]


def noisy(base: Base, parts: Collection[int | str]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + 0.01 * torch.randn(weight.shape, generator=generator)
        for name, weight in base.weights.items()
        if base.blocks.part(name) in parts
    }


def test_each_layer_can_be_entered_bit_for_bit(base: Base) -> None:
    model, teacher, ran = base.fresh(), references(base.prompts, ITEMS), []
    for layer in range(base.blocks.n_layers):
        model.get_submodule(f"{base.blocks.prefix}.{layer}.mlp").register_forward_hook(
            lambda *_, layer=layer: ran.append(layer)
        )
    with torch.no_grad(), recording(model, base.blocks) as outputs:
        whole = answer_logprobs(model, teacher)
    for layer in range(base.blocks.n_layers):
        ran.clear()
        with torch.no_grad(), entering(model, base.blocks, layer, outputs):
            assert torch.equal(answer_logprobs(model, teacher), whole)
        assert ran == [*range(layer, base.blocks.n_layers)]
    ran.clear()
    with torch.no_grad():
        assert torch.equal(answer_logprobs(model, teacher), whole)
    assert ran == [*range(base.blocks.n_layers)]  # whole passes are whole again


def test_grafts_that_enter_are_those_of_whole_passes(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    grafts = [noisy(base, parts) for parts in ({0}, {3}, {7}, {2, 5}, {"embed"}, {4, "lm_head", "final_norm"}, set())]
    model = base.fresh()
    found = graft_logprobs(model, base, ITEMS, grafts, batch=3)
    for values, weights in zip(found, grafts, strict=True):
        np.testing.assert_array_equal(values, reference_logprobs(base.fresh(weights), base.prompts, ITEMS, batch=3))
    assert len({values.tobytes() for values in found}) == len(grafts)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, base.weights[name]), "the receiver has its own weights again"
    monkeypatch.setattr("lensrl.compare.patching.graft.enters", lambda *_: False)
    for values, plain in zip(found, graft_logprobs(model, base, ITEMS, grafts, batch=3), strict=True):
        np.testing.assert_array_equal(values, plain)


def test_a_model_whose_blocks_share_more_than_the_stream_is_not_entered(base: Base) -> None:
    model: Any = base.fresh()
    teacher = references(base.prompts, ITEMS)
    assert enters(model, base.blocks, teacher)
    # Each block adds the output that the first block's MLP had in this pass: skipping it loses that.
    told: list[torch.Tensor] = []
    layers = model.get_submodule(base.blocks.prefix)
    layers[0].mlp.register_forward_hook(lambda *given: told.append(given[2]))
    layers[7].register_forward_pre_hook(lambda _, args: (args[0] + told.pop(), *args[1:]))
    assert not enters(model, base.blocks, teacher)


def test_weights_are_held_for_a_while_and_not_copied(base: Base) -> None:
    model, weights = base.fresh(), noisy(base, {3})
    with holding(model, weights):
        parameters = dict(model.named_parameters())
        assert all(parameters[name].data_ptr() == weight.data_ptr() for name, weight in weights.items())
    assert all(torch.equal(parameter, base.weights[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("name", ["tiny:qwen3", "tiny:qwen2.5"])
def test_logits_at_answers_alone_give_the_log_probabilities_of_all_logits(name: str) -> None:
    base = load_base(name)
    assert keeps_logits(type(base.model))
    teacher = references(base.prompts, ITEMS)
    widths = []
    base.model.lm_head.register_forward_hook(lambda *given: widths.append(given[2].shape[1]))
    with torch.no_grad():
        found = answer_logprobs(base.model, teacher)
        logits = base.model(input_ids=teacher.ids, attention_mask=teacher.mask).logits
    assert widths[0] == int(teacher.answer.any(0).sum()) < widths[1]
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, teacher.ids[:, 1:, None]).squeeze(-1)
    expected = answer_mean(logprobs, teacher.answer)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

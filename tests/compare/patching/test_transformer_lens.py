"""Activation patching against the sweeps that TransformerLens ships, and against hooks on the plain model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.patching import generic_activation_patch, layer_head_vector_patch_setter

from lensrl.compare.patching.activations import FORCED_METRICS, Patch, patch_activations
from lensrl.models.base import Base
from lensrl.models.bridge import boot
from lensrl.models.references import References, answer_mean, references
from lensrl.store.patch import PatchComponent
from tests.compare.patching.planted import ITEMS, Weights

LOGPROB = FORCED_METRICS.index("reference_logprob")


@pytest.fixture(scope="module")
def donor(base: Base) -> Weights:
    """Every matrix moved a little."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + 0.02 * weight.std() * torch.randn(weight.shape, generator=generator)
        for name, weight in base.weights.items()
        if weight.ndim > 1
    }


def answers(logits: torch.Tensor, teacher: References) -> torch.Tensor:
    """The mean log-probability of each answer, from logits at all positions."""
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, teacher.ids[:, 1:, None]).squeeze(-1)
    return answer_mean(logprobs, teacher.answer)


def whole_site(activation: torch.Tensor, index: Any, clean: Any) -> torch.Tensor:
    return clean


@pytest.mark.parametrize(
    ("component", "name", "axes"),
    [("attn", "attn_out", ["layer"]), ("mlp", "mlp_out", ["layer"]), ("stream", "resid_post", ["layer"]),
     ("head", "z", ["layer", "head_index"])],
)  # fmt: skip
def test_patching_agrees_with_transformer_lens(
    base: Base, donor: Weights, component: PatchComponent, name: str, axes: list[Any]
) -> None:
    """Their sweep passes no attention mask, so the padding is on the right, where no earlier token can see it."""
    into, giver = (boot(base.fresh(weights), base.tokenizer) for weights in ({}, donor))
    items = ITEMS[:6]
    heads = range(4) if component == "head" else [None]
    patches = [Patch((layer,), head) for layer in range(8) for head in heads]
    _, _, ours = patch_activations(into, giver, base, items, patches, component)

    teacher = references(base.prompts, items)
    with torch.no_grad():
        _, cache = giver.run_with_cache(teacher.ids)
        theirs = generic_activation_patch(
            into, teacher.ids, cache,
            lambda logits: answers(logits, teacher),
            layer_head_vector_patch_setter if component == "head" else whole_site,
            name, index_axis_names=axes, reduce="none",
        )  # fmt: skip
    expected = theirs.values.reshape(len(patches), len(items)).numpy()
    found = np.stack([ours[patch][LOGPROB] for patch in patches])
    assert np.abs(found - found[:1]).max() > 1e-3, "patches differ, so there is something to agree on"
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_patching_agrees_with_hooks_on_the_plain_model(base: Base, donor: Weights) -> None:
    """No TransformerLens on the other side: two MLP outputs at once, kept and put in by forward hooks."""
    plain, giver = base.fresh(), base.fresh(donor)
    for model in (plain, giver):
        model.set_attn_implementation("eager")
    items = ITEMS[:6]
    teacher = references(base.prompts, items)
    kept: dict[str, torch.Tensor] = {}
    modules = ["model.layers.2.mlp", "model.layers.5.mlp"]
    for name in modules:

        def keep(_: object, __: object, out: torch.Tensor, name: str = name) -> None:
            kept[name] = out

        giver.get_submodule(name).register_forward_hook(keep)
        plain.get_submodule(name).register_forward_hook(lambda _, __, ___, name=name: kept[name])
    with torch.no_grad():
        giver(teacher.ids, attention_mask=teacher.mask)
        logits = plain(teacher.ids, attention_mask=teacher.mask).logits
    expected = answers(logits, teacher).numpy()
    into, other = (boot(base.fresh(weights), base.tokenizer) for weights in ({}, donor))
    _, _, patched = patch_activations(into, other, base, items, [Patch((2, 5))], "mlp")
    np.testing.assert_allclose(patched[Patch((2, 5))][LOGPROB], expected, atol=2e-5)

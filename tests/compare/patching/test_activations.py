"""TransformerLens hooks: captured activations and activation patching, against plain forward passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lensrl.compare.patching import activations
from lensrl.compare.patching.activations import FORCED_METRICS, Patch, PerItem, logit_difference, patch_activations
from lensrl.compare.patching.wrong_items import draw_partners, kinds
from lensrl.models.base import Base
from lensrl.models.bridge import boot, capture, probe_set
from lensrl.models.references import reference_logprobs, references
from lensrl.store.patch import PatchComponent
from lensrl.tasks import evaluation_items, load_task
from tests.conftest import SMALL

ITEMS = evaluation_items(load_task(SMALL), SMALL)[:10]
Weights = dict[str, torch.Tensor]
LOGPROB, MARGIN = FORCED_METRICS.index("reference_logprob"), FORCED_METRICS.index("logit_difference")


def moved(base: Base, *parts: int | str, scale: float = 0.05) -> Weights:
    """The base's weights with noise added in the given parts."""
    torch.manual_seed(1)
    return {
        name: weight + scale * weight.std() * torch.randn_like(weight) if base.blocks.part(name) in parts else weight
        for name, weight in base.weights.items()
        if weight.ndim > 1
    }


def run_patch(
    base: Base, into: Weights, donor: Weights, layers: list[int], component: PatchComponent = "block"
) -> tuple[PerItem, PerItem, dict[int, PerItem]]:
    receiver, giver = (boot(base.fresh(weights), base.tokenizer) for weights in (into, donor))
    patches = [Patch((layer,)) for layer in layers]
    unpatched, whole, patched = patch_activations(
        receiver, giver, base, ITEMS, patches, component, batch=4
    )  # fmt: skip
    return unpatched, whole, {patch.layers[0]: values for patch, values in patched.items()}


def test_captured_activations_are_those_of_the_plain_model(base: Base) -> None:
    captured = capture(base.fresh(), base.prompts, ITEMS, 8, batch=4)
    model = base.fresh()
    model.set_attn_implementation("eager")
    teacher = references(base.prompts, ITEMS)
    outputs: dict[str, torch.Tensor] = {}
    modules = {"block_out": "model.layers.3", "attn_out": "model.layers.3.self_attn", "mlp_out": "model.layers.3.mlp"}
    for name, module in modules.items():

        def keep(_: object, __: object, out: Any, name: str = name) -> None:
            outputs[name] = out[0] if isinstance(out, tuple) else out

        model.get_submodule(module).register_forward_hook(keep)
    with torch.no_grad():
        model(teacher.ids, attention_mask=teacher.mask)
    for name, out in outputs.items():
        np.testing.assert_allclose(captured[name][3], out[teacher.mask.bool()].numpy(), atol=1e-5)


def test_a_block_adds_its_attention_and_its_mlp(base: Base) -> None:
    captured = capture(base.fresh(), base.prompts, ITEMS, 8)
    added = captured["block_out"][5] - captured["block_out"][4]
    np.testing.assert_allclose(captured["attn_out"][5] + captured["mlp_out"][5], added, atol=1e-5)


def test_the_probe_set_names_the_tokens_that_were_captured(base: Base) -> None:
    probe = probe_set(base.prompts, ITEMS)
    assert capture(base.fresh(), base.prompts, ITEMS, 8)["mlp_out"].shape[1] == len(probe.token_id)
    first = "".join(text for text, prompt in zip(probe.text, probe.prompt, strict=True) if prompt == 0)
    assert first == f"{ITEMS[0].prompt}{ITEMS[0].reference}<eos>"


@pytest.mark.parametrize("component", ["block", "attn", "mlp"])
def test_base_into_base_changes_nothing(base: Base, component: PatchComponent) -> None:
    into, donor, patched = run_patch(base, {}, {}, [0, 4], component)
    for values in (donor, patched[0], patched[4]):
        np.testing.assert_array_equal(values, into)


def test_a_layer_that_sees_the_same_input_and_has_the_same_weights_changes_nothing(base: Base) -> None:
    into, _, patched = run_patch(base, {}, moved(base, 5), [2, 4])
    np.testing.assert_array_equal(patched[2], into)
    np.testing.assert_array_equal(patched[4], into)


@pytest.mark.parametrize("layer", [0, 5, 7])
def test_a_change_planted_in_one_block_is_recovered_there(base: Base, layer: int) -> None:
    """The donor differs in one block alone, so that block's output is all that there is to hand over."""
    into, donor, patched = run_patch(base, {}, moved(base, layer), [layer])
    assert np.abs(donor - into).max() > 1e-3
    np.testing.assert_allclose(patched[layer], donor, atol=2e-5)


def test_attention_and_mlp_are_told_apart(base: Base) -> None:
    donor_weights = {name: w for name, w in moved(base, 5).items() if "self_attn" not in name}
    _, donor, block = run_patch(base, {}, donor_weights, [5], "block")
    into, _, attn = run_patch(base, {}, donor_weights, [5], "attn")
    _, _, mlp = run_patch(base, {}, donor_weights, [5], "mlp")
    np.testing.assert_array_equal(attn[5], into)
    np.testing.assert_allclose(mlp[5], donor, atol=2e-5)
    np.testing.assert_allclose(block[5], donor, atol=2e-5)


def test_all_blocks_together_are_the_donor(base: Base) -> None:
    """Only layers differ, so handing over every block's output hands over the whole model."""
    into, donor = (boot(base.fresh(weights), base.tokenizer) for weights in ({}, moved(base, *range(8), scale=0.02)))
    together, some = Patch(tuple(range(8))), Patch(tuple(range(7)))
    _, whole, patched = patch_activations(into, donor, base, ITEMS, [together, some], batch=4)
    np.testing.assert_allclose(patched[together], whole, atol=2e-4)
    assert np.abs(patched[some] - whole).max() > 1e-3


def test_the_stream_hands_over_all_that_came_before(base: Base) -> None:
    """Layer 5 alone differs: before it both streams are the same, after it nothing but the donor's is left."""
    into, donor, patched = run_patch(base, {}, moved(base, 5), [4, 5, 7], "stream")
    np.testing.assert_array_equal(patched[4], into)
    np.testing.assert_array_equal(patched[5], donor)
    np.testing.assert_array_equal(patched[7], donor)


def adds(model: torch.nn.Module, teacher: Any, layer: int) -> dict[str, torch.Tensor]:
    """The outputs of attention and MLP of a layer, and the last stream before the final norm, of a plain model."""
    outputs: dict[str, torch.Tensor] = {}
    places = {"attn": f"model.layers.{layer}.self_attn", "mlp": f"model.layers.{layer}.mlp", "last": "model.layers.7"}

    def keep(name: str, out: Any) -> None:
        outputs[name] = out[0] if isinstance(out, tuple) else out

    hooks = [
        model.get_submodule(place).register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name, place in places.items()
    ]
    with torch.no_grad():
        model(teacher.ids, attention_mask=teacher.mask)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("layer", [2, 7])
def test_a_direct_effect_is_what_the_final_norm_makes_of_the_receivers_stream_and_the_change(
    base: Base, layer: int
) -> None:
    weights = moved(base, 1, 2, 7)
    into, _, direct = run_patch(base, {}, weights, [layer], "direct")
    _, _, block = run_patch(base, {}, weights, [layer])
    teacher = references(base.prompts, ITEMS)
    own, given = (adds(eager(base, each), teacher, layer) for each in ({}, weights))
    model = eager(base, {})
    change = given["attn"] + given["mlp"] - own["attn"] - own["mlp"]
    with torch.no_grad():
        logits = model.lm_head(model.model.norm(own["last"] + change)).log_softmax(-1)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    chosen = logits[:, :-1].gather(-1, teacher.ids[:, 1:, None]).squeeze(-1)
    expected = (chosen * teacher.answer).sum(-1) / teacher.answer.sum(-1)
    np.testing.assert_allclose(direct[layer][LOGPROB], expected.numpy(), atol=2e-5)
    assert np.abs(direct[layer] - into).max() > 1e-3
    if layer == 7:  # no layer comes later
        np.testing.assert_array_equal(direct[layer], block[layer])
    else:
        assert np.abs(direct[layer] - block[layer]).max() > 1e-3


def eager(base: Base, weights: Weights) -> Any:
    model = base.fresh(weights)
    model.set_attn_implementation("eager")
    return model.eval()


def test_the_donor_may_read_other_items_and_each_is_patched_with_its_own(base: Base) -> None:
    """Item by item with hooks of torch, without padding."""
    weights, layer = moved(base, *range(8)), 4
    partner = draw_partners(kinds(base.prompts, ITEMS))
    items, others = ITEMS, [ITEMS[i] for i in partner]
    into, donor = (boot(base.fresh(each), base.tokenizer) for each in ({}, weights))
    patch = Patch((layer,))
    _, _, wrong = patch_activations(into, donor, base, items, [patch], batch=4, donor_items=others)
    _, _, right = patch_activations(into, donor, base, items, [patch], batch=4)
    receiver, giver = eager(base, {}), eager(base, weights)
    for i, (item, other) in enumerate(zip(items, others, strict=True)):
        given = adds(giver, references(base.prompts, [other]), layer)
        hooks = [
            receiver.model.layers[layer].self_attn.register_forward_hook(
                lambda _, __, out, given=given: (given["attn"], *out[1:])
            ),
            receiver.model.layers[layer].mlp.register_forward_hook(lambda _, __, out, given=given: given["mlp"]),
        ]
        logprob = reference_logprobs(receiver, base.prompts, [item], batch=1)[0]
        for hook in hooks:
            hook.remove()
        assert wrong[patch][LOGPROB, i] == pytest.approx(logprob, abs=2e-5)
    assert np.abs(wrong[patch] - right[patch])[:, partner != np.arange(len(items))].max() > 0.1


@pytest.mark.parametrize("head", [0, 2])
def test_a_change_planted_in_one_head_is_recovered_there(base: Base, head: int) -> None:
    """The query projection of one head alone differs."""
    name = "model.layers.3.self_attn.q_proj.weight"
    width = base.weights[name].shape[0] // 4
    weights = base.weights[name].clone()
    weights[head * width : (head + 1) * width] *= -1  # of another size alone it would be normalised away
    into, donor, patched = run_heads(base, {name: weights}, 3)
    assert np.abs(donor - into).max() > 1e-3
    for other, values in enumerate(patched):
        np.testing.assert_allclose(values, donor if other == head else into, atol=2e-5)


def test_a_head_leaves_a_change_of_the_output_projection_behind(base: Base) -> None:
    name = "model.layers.3.self_attn.o_proj.weight"
    into, donor, patched = run_heads(base, {name: 2 * base.weights[name]}, 3)
    assert np.abs(donor - into).max() > 1e-3
    for values in patched:
        np.testing.assert_array_equal(values, into)


def run_heads(base: Base, donor: Weights, layer: int) -> tuple[PerItem, PerItem, list[PerItem]]:
    receiver, giver = (boot(base.fresh(weights), base.tokenizer) for weights in ({}, donor))
    patches = [Patch((layer,), head) for head in range(4)]
    into, whole, patched = patch_activations(receiver, giver, base, ITEMS, patches, "head", batch=4)
    return into, whole, [patched[patch] for patch in patches]


def test_the_metrics_through_the_bridge_agree_with_the_plain_model(base: Base) -> None:
    into, _, _ = run_patch(base, {}, {}, [0])
    np.testing.assert_allclose(into[LOGPROB], reference_logprobs(base.model, base.prompts, ITEMS, batch=4), atol=1e-4)


def test_the_logit_difference_is_positive_where_greedy_decoding_writes_the_reference(base: Base) -> None:
    into, _, _ = run_patch(base, {}, {}, [0])
    for item, margin in zip(ITEMS, into[MARGIN], strict=True):
        prompt = base.tokenizer(item.prompt, return_tensors="pt")
        output = base.model.generate(**prompt, do_sample=False, max_new_tokens=5)  # pyright: ignore[reportCallIssue]
        written = base.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert (margin > 0) == (written == item.reference), item


@pytest.mark.parametrize("component", ["block", "head", "direct", "stream"])
def test_a_patch_that_enters_at_its_layer_is_that_of_a_whole_pass(
    base: Base, monkeypatch: pytest.MonkeyPatch, component: PatchComponent
) -> None:
    into, donor = (boot(base.fresh(weights), base.tokenizer) for weights in ({}, moved(base, 2, 5)))
    patches = [Patch((layer,), 1 if component == "head" else None) for layer in (0, 5)]
    ran: list[int] = []
    into.original_model.get_submodule("model.layers.1.mlp").register_forward_hook(lambda *_: ran.append(1))
    entered = patch_activations(into, donor, base, ITEMS, patches, component)[2]
    once = len(ran)
    monkeypatch.setattr(activations, "enters", lambda *_: False)
    whole = patch_activations(into, donor, base, ITEMS, patches, component)[2]
    assert len(ran) - once == 3, "the receiver, and each patch"
    assert once == 2 + 2, "two of the trials, the receiver, and the patch of layer 0"
    for patch in patches:
        np.testing.assert_array_equal(entered[patch], whole[patch])


def test_logit_difference_by_hand() -> None:
    logits = torch.tensor([[[1.0, 5.0, 2.0], [0.0, 3.0, 9.0]]])
    assert logit_difference(logits, torch.tensor([[1, 0]])).tolist() == [[3.0, -9.0]]

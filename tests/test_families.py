"""Every family takes the whole path: found, frozen, trained, grafted, captured, patched, bypassed; or is refused."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import CTRLConfig, Gemma3Config, MambaConfig, PretrainedConfig, SiglipVisionConfig

from lensrl import LensrlError, run_study
from lensrl.compare.patching.activations import FORCED_METRICS, Patch, patch_activations
from lensrl.compare.patching.graft import graft
from lensrl.compare.sensitivity import bypass, metric_gradients
from lensrl.models.base import Base
from lensrl.models.bridge import boot, capture
from lensrl.models.entry import entering, enters, recording
from lensrl.models.generation import learned_positions
from lensrl.models.references import reference_logprobs, references
from lensrl.recipe import Evaluation, Recipe, Rl, Store
from lensrl.recipe.layers import OUTSIDE
from lensrl.tasks import Item, Split
from lensrl.train import checks
from lensrl.train.preflight import check_checkpointing, check_fits
from lensrl.train.training import train
from tests.families import CAPPED, FAMILIES, HYBRID, N_LAYERS, TOKENS, opened, save

LOGPROB = FORCED_METRICS.index("reference_logprob")
ITEMS = [Item(f"{n}", "ab" * n + ":", "xyz"[: 1 + n % 3], "even") for n in range(1, 5)]  # of several lengths
EMBED: dict[str, set[str]] = {  # what is not the one token embedding
    "gpt2": {"wte", "wpe"}, "gpt2-untied": {"wte", "wpe"}, "bloom": {"word_embeddings", "word_embeddings_layernorm"},
    "opt": {"embed_tokens", "embed_positions"}, "opt-projected": {"embed_tokens", "embed_positions", "project_in"},
    "opt-post-norm": {"embed_tokens", "embed_positions", "project_in"}, "gpt-neox": {"embed_in"},
}  # fmt: skip
FINAL: dict[str, set[str]] = {
    "gpt2": {"ln_f"}, "gpt2-untied": {"ln_f"}, "bloom": {"ln_f"}, "opt": {"final_layer_norm"},
    "opt-projected": {"final_layer_norm", "project_out"}, "opt-post-norm": {"project_out"},
    "gpt-neox": {"final_layer_norm"},
}  # fmt: skip


class EvenCharacters:
    """Rewards characters of even code, so that the completions of a random model differ in reward."""

    def items(self, split: Split) -> list[Item]:
        return ITEMS

    def reward(self, item: Item, completion: str) -> float:
        return sum(ord(c) % 2 == 0 for c in completion) / max(1, len(completion))

    def score(self, item: Item, completion: str) -> float:
        return self.reward(item, completion)


class Case:
    """One family's base, and what training made of it, each made once."""

    def __init__(self, family: str, base: Base) -> None:
        self.family, self.base = family, base
        self.recipe = recipe(base.name)

    def train(self, layers: list[int] | None) -> dict[str, torch.Tensor]:
        """Return every weight of the model in training, after its last step."""
        live: dict[str, torch.Tensor] = {}
        check = checks.check_frozen

        def look(model: Any, *rest: Any) -> None:
            live.update((name, weight.detach().clone()) for name, weight in model.named_parameters())
            check(model, *rest)

        with patch("lensrl.train.training.check_frozen", look):
            training = train(self.base, EvenCharacters(), self.recipe, layers=layers, seed=0)
        assert training.status == "completed", training.reason
        assert all(torch.equal(live[name], weight) for name, weight in training.weights.items())
        return live

    @cached_property
    def full(self) -> dict[str, torch.Tensor]:
        return self.train(None)


def recipe(model: str) -> Recipe:
    return Recipe.model_validate({
        "model": model, "task": {"name": "arithmetic"},
        "rl": Rl(steps=2, prompts_per_step=2, completions_per_prompt=4, max_completion_tokens=4, learning_rate=1e-2),
        "evaluation": Evaluation(items=2, samples=1), "store": Store(probe_items=2),
    })  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, opened(FAMILIES[request.param], tmp_path_factory.mktemp("family")))


def test_every_parameter_is_in_its_part(case: Case) -> None:
    blocks, family = case.base.blocks, case.family
    owners: dict[int | str, set[str]] = {}
    for name in case.base.weights:
        owners.setdefault(blocks.part(name), set()).add(name.split(".")[-2])
    assert blocks.n_layers == N_LAYERS
    assert blocks.prefix.rpartition(".")[2] in {"layers", "h"}
    assert owners["embed"] == EMBED.get(family, {"embed_tokens"})
    assert owners["final_norm"] == FINAL.get(family, {"norm"})
    assert owners.get("lm_head", set()) == (set() if case.base.model.config.tie_word_embeddings else {"lm_head"})
    for name in (n for n in case.base.weights if blocks.layer(n) is not None):
        inner = blocks.inner(name)
        top = inner.partition(".")[0]
        is_norm = "norm" in top or top.startswith("ln_")
        assert blocks.component(name) == ("norm" if is_norm else "attn" if "att" in top else "mlp"), inner


def test_training_one_layer_leaves_every_other_bit_alone(case: Case) -> None:
    trained = case.train([1])
    moved = {name for name, w in trained.items() if not torch.equal(w, case.base.weights[name])}
    assert moved
    assert {case.base.blocks.part(name) for name in moved} == {1}


def test_all_layers_and_the_rest_are_the_trained_model_bit_for_bit(case: Case) -> None:
    base, full = case.base, case.full
    whole = graft(base, base.weights, full, [*range(N_LAYERS), *OUTSIDE])
    assert all(torch.equal(whole[name].view(torch.int32), full[name].view(torch.int32)) for name in base.weights)
    teacher = references(base.prompts, ITEMS)
    with torch.no_grad():
        logits = [base.fresh(w)(teacher.ids, attention_mask=teacher.mask).logits for w in (whole, full, {})]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_captured_blocks_are_those_of_the_plain_model(case: Case) -> None:
    base = case.base
    captured = capture(base.fresh(), base.prompts, ITEMS, N_LAYERS)
    model = base.fresh()
    model.set_attn_implementation("eager")
    outputs: list[torch.Tensor] = []

    def keep(_: object, __: object, out: Any) -> None:
        outputs.append(out[0] if isinstance(out, tuple) else out)

    for layer in range(N_LAYERS):
        model.get_submodule(f"{base.blocks.prefix}.{layer}").register_forward_hook(keep)
    teacher = references(base.prompts, ITEMS)
    with torch.no_grad():
        model(teacher.ids, attention_mask=teacher.mask)
    assert {*captured} == {"block_out", "mlp_out"} | ({"attn_out"} if case.family not in HYBRID else set())
    for layer, out in enumerate(outputs):
        np.testing.assert_allclose(captured["block_out"][layer], out[teacher.mask.bool()].numpy(), atol=1e-4, rtol=1e-4)


def test_all_layers_patched_are_the_donor(case: Case) -> None:
    """Only layers differ. Heads are handed over too; whole blocks of a post-norm model are refused."""
    base = case.base
    donor = graft(base, base.weights, case.full, range(N_LAYERS))
    into, giver = (boot(base.fresh(weights), base.tokenizer) for weights in ({}, donor))
    patch = Patch(tuple(range(N_LAYERS)))
    if case.family == "opt-post-norm":
        with pytest.raises(LensrlError, match="not attention \\+ MLP added to the residual stream"):
            patch_activations(into, giver, base, ITEMS, [patch])
        return
    if case.family in HYBRID:  # the outputs of linear attention are not known, the stream is
        with pytest.raises(LensrlError, match=r"TransformerLens finds no blocks\.0\.hook_attn_out"):
            patch_activations(into, giver, base, ITEMS, [patch])
        last = Patch((N_LAYERS - 1,))
        _, whole, patched = patch_activations(into, giver, base, ITEMS, [last], "stream")
        np.testing.assert_allclose(patched[last], whole, atol=2e-4)
        return
    unpatched, whole, patched = patch_activations(into, giver, base, ITEMS, [patch])
    assert np.abs(unpatched - whole).max() > 1e-3
    np.testing.assert_allclose(patched[patch], whole, atol=2e-4)
    plain = reference_logprobs(base.model, base.prompts, ITEMS, batch=4)
    np.testing.assert_allclose(unpatched[LOGPROB], plain, atol=1e-3)
    _, _, by_head = patch_activations(into, into, base, ITEMS, [Patch((1,), 0)], "head")
    np.testing.assert_allclose(by_head[Patch((1,), 0)], unpatched, atol=1e-5)


def test_a_bypassed_block_adds_nothing_and_gradients_reach_every_layer(case: Case) -> None:
    base, model = case.base, case.base.fresh()
    streams: list[torch.Tensor] = []

    def keep(_: object, args: tuple, kwargs: dict, out: Any) -> None:
        streams.extend([args[0] if args else kwargs["hidden_states"], out[0] if isinstance(out, tuple) else out])

    with bypass(model, base.blocks, 1):
        hook = model.get_submodule(f"{base.blocks.prefix}.1").register_forward_hook(keep, with_kwargs=True)
        without = reference_logprobs(model, base.prompts, ITEMS, batch=4)
        hook.remove()
    assert torch.equal(streams[0], streams[1])
    assert np.abs(without - reference_logprobs(model, base.prompts, ITEMS, batch=4)).max() > 1e-4
    gradients = metric_gradients(base.fresh(), base.blocks, base.prompts, ITEMS, batch=2)
    assert {base.blocks.layer(name) for name, slope in gradients.items() if slope.abs().sum() > 0} == {0, 1}


def test_each_layer_can_be_entered_bit_for_bit(case: Case) -> None:
    """Logits, not only those of answers, are the whole pass's; and the blocks below did not run."""
    base, model, ran = case.base, case.base.fresh(), list[int]()
    teacher = references(base.prompts, ITEMS)
    assert enters(model, base.blocks, teacher)
    with torch.no_grad(), recording(model, base.blocks) as outputs:
        whole = model(teacher.ids, attention_mask=teacher.mask).logits
    for layer in range(N_LAYERS):
        first = next(iter(model.get_submodule(f"{base.blocks.prefix}.{layer}").children()))
        first.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    for layer in range(N_LAYERS):
        ran.clear()
        with torch.no_grad(), entering(model, base.blocks, layer, outputs):
            assert torch.equal(model(teacher.ids, attention_mask=teacher.mask).logits, whole)
        assert sorted({*ran}) == [*range(layer, N_LAYERS)]


UNKNOWN = CTRLConfig(vocab_size=99, n_positions=64, n_embd=16, dff=24, n_layer=N_LAYERS, n_head=2, pad_token_id=0)
NO_ATTENTION = MambaConfig(**TOKENS, hidden_size=16, num_hidden_layers=N_LAYERS, state_size=4)
MULTIMODAL = Gemma3Config(
    text_config=CAPPED,
    vision_config=SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14
    ).to_dict(),
)


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        (UNKNOWN, "TransformerLens cannot open CTRLLMHeadModel"),
        (NO_ATTENTION, "TransformerLens finds no blocks.0.hook_attn_out in MambaForCausalLM"),
        (MULTIMODAL, "has parts that text does not run through, such as model.vision_tower"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_training(
    configuration: PretrainedConfig, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_NO_INDEX", "UV_OFFLINE"):  # opened by TransformerLens, a model with images would have torchvision
        monkeypatch.setenv(name, "1")  # installed into this environment, and with it another torch
    with pytest.raises(LensrlError) as caught:
        run_study(recipe(save(configuration, tmp_path / "model")), tmp_path / "study")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not list((tmp_path / "study").glob("*.h5"))


@pytest.mark.parametrize("family", ["gpt2", "opt", "opt-projected"])
def test_completions_must_fit_into_a_table_of_positions(family: str, tmp_path: Path) -> None:
    asked = recipe(save(FAMILIES[family], tmp_path / "model"))
    long = asked.rl.model_copy(update={"max_completion_tokens": 59})
    with pytest.raises(LensrlError, match=r"has 64 positions, fewer than the 6 of the longest prompt and the 59"):
        run_study(asked.model_copy(update={"rl": long}), tmp_path / "study")


def test_gradient_checkpointing_is_refused_where_there_is_none(tmp_path: Path) -> None:
    base = opened(UNKNOWN, tmp_path)
    asked = recipe(base.name)
    check_checkpointing(base, asked)
    asked = asked.model_copy(update={"rl": asked.rl.model_copy(update={"gradient_checkpointing": True})})
    with pytest.raises(LensrlError, match=r"CTRLLMHeadModel.* set rl.gradient_checkpointing = false"):
        check_checkpointing(base, asked)


def test_only_learned_positions_are_a_table(tmp_path: Path) -> None:
    tables = {f: learned_positions(opened(c, tmp_path / f).model) for f, c in FAMILIES.items()}
    assert {f for f, limit in tables.items() if limit is not None} == {
        "gpt2", "gpt2-untied", "opt", "opt-projected", "opt-post-norm",
    }  # fmt: skip


def test_a_reference_that_outgrows_learned_positions_is_refused(tmp_path: Path) -> None:
    """It is read by the model whole, for its log-probability and the probe set."""
    base = opened(FAMILIES["gpt2"], tmp_path)
    written = [Item("1", "ab:", "x" * 60, "even"), Item("2", "ab:", "x" * 61, "even")]
    check_fits(base, EvenCharacters(), [*ITEMS, written[0]], recipe(base.name))
    assert reference_logprobs(base.model, base.prompts, [written[0]], batch=1).shape == (1,)
    with pytest.raises(LensrlError, match="has 64 positions, fewer than the 65 of a prompt with its reference"):
        check_fits(base, EvenCharacters(), [*ITEMS, *written], recipe(base.name))

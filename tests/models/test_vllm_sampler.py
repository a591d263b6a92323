"""`generation = "vllm"` up to the call of vLLM, on a stand-in of its interface (the real one: `runs/GPU.md`)."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

from lensrl import patch, verify
from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.models.blocks import train_only
from lensrl.models.generation import sampling_settings, stop_tokens, token_ids
from lensrl.models.lora import add_lora, named_weights
from lensrl.models.rollouts import play
from lensrl.models.sampler import SAMPLERS, Pieces
from lensrl.models.vllm_sampler import Vllm, check_vllm, seed_of
from lensrl.recipe import CorridorTask, Evaluation, Lora, Recipe, Rl
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from lensrl.train.ranks import check_ranks
from lensrl.train.study import run_study
from lensrl.train.training import train
from tests import vllm_stand_in
from tests.conftest import SMALL
from tests.models import test_sampler
from tests.models.test_sampler import rows, tokens

FEW = 8  # the stand-in computes one row at a time
VLLM = Recipe.model_validate(
    SMALL.model_dump(exclude={"sets"})
    | {"generation": "vllm", "layers": [3], "evaluation": Evaluation(items=FEW, samples=1)}
    | {"rl": Rl(steps=2, prompts_per_step=2, completions_per_prompt=4, max_completion_tokens=5)}
)


def asked(base: Base, *, temperature: float = 4.0) -> tuple[list[list[int]], GenerationConfig]:
    prompts, settings = test_sampler.asked(base, temperature=temperature)
    return prompts[:FEW], settings


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[vllm_stand_in.LLM]:
    return vllm_stand_in.install(monkeypatch)


def test_greedy_completions_are_those_of_pieces(base: Base, vllm: type[vllm_stand_in.LLM]) -> None:
    prompts, settings = asked(base, temperature=0.0)
    expected = Pieces(base.model, base.tokenizer).generate(prompts, settings, rows(FEW))
    before = torch.random.get_rng_state()
    assert SAMPLERS["vllm"](base.model, base.tokenizer).generate(prompts, settings, rows(FEW)) == expected
    assert torch.equal(torch.random.get_rng_state(), before), "vLLM sets the random state when it starts"


def test_a_completion_follows_from_the_key_of_its_row(base: Base, vllm: type[vllm_stand_in.LLM]) -> None:
    prompts, settings = asked(base)
    sampler = Vllm(base.model, base.tokenizer)
    whole = sampler.generate(prompts, settings, rows(FEW))
    assert sampler.generate(prompts[5:7], settings, rows(FEW)[5:7]) == whole[5:7]
    assert tokens(sampler.generate(prompts, settings, [(4, i) for i in range(FEW)])) != tokens(whole), (
        "another run seed"
    )
    assert len({seed_of((seed, 0, step, row)) for seed in (0, 1, -1) for step in range(9) for row in range(9)}) == 243
    with torch.no_grad():
        logits = base.model(torch.tensor([prompts[0] + whole[0].tokens])).logits[0, len(prompts[0]) - 1 : -1] / 4
    expected = logits.log_softmax(-1)[torch.arange(len(whole[0].tokens)), whole[0].tokens]
    np.testing.assert_allclose(whole[0].logprobs, expected, atol=1e-4)


def test_a_step_loads_what_trains_and_the_next_run_all_of_its_own(base: Base, vllm: type[vllm_stand_in.LLM]) -> None:
    curve = train(base, Arithmetic(), VLLM, layers=[3], seed=0).curve
    train(base, Arithmetic(), VLLM, layers=[5], seed=0)
    (engine,) = vllm.started
    counts = [len(names) for names in engine.pushed]
    steps = len(curve)
    assert counts == [90, *[11] * steps, 90, *[11] * steps]
    assert {name.split(".")[2] for name in engine.pushed[1]} == {"3"}
    assert 0 < max(curve.sampler_mismatch) < 1e-5, "the trained weights have arrived"
    assert len({one.seed for one in engine.requests}) == len(engine.requests) / 2, "both runs have one seed"


def test_two_models_in_turn_get_their_own_completions(base: Base, vllm: type[vllm_stand_in.LLM]) -> None:
    other = base.fresh({"model.norm.weight": -base.weights["model.norm.weight"]})
    prompts, settings = asked(base)
    samplers = [Vllm(model, base.tokenizer) for model in (base.model, other)]
    first = [sampler.generate(prompts, settings, rows(FEW)) for sampler in samplers]
    assert first[0] != first[1]
    assert [sampler.generate(prompts, settings, rows(FEW)) for sampler in samplers] == first


def test_a_model_that_is_done_leaves_the_memory(base: Base, vllm: type[vllm_stand_in.LLM]) -> None:
    model = base.fresh()
    sampler, gone = Vllm(model, base.tokenizer), weakref.ref(model)
    del model, sampler
    gc.collect()
    assert gone() is None


def test_turns_continue_the_tokens_of_an_episode(base: Base, vllm: type[vllm_stand_in.LLM]) -> None:
    task = Corridor(CorridorTask(name="corridor"))
    items = task.items("test")[:6]
    greedy = sampling_settings(base.prompts.turn_ends(base.model), base.tokenizer, max_tokens=4, temperature=0.0)
    played = [play(Vllm(base.model, base.tokenizer), base.prompts, task, items, greedy, rows(6))]
    played.append(play(Pieces(base.model, base.tokenizer), base.prompts, task, items, greedy, rows(6)))
    assert played[0] == played[1]
    settings = sampling_settings(base.prompts.turn_ends(base.model), base.tokenizer, max_tokens=4, temperature=2.0)
    vllm.started[0].requests.clear()
    found = play(Vllm(base.model, base.tokenizer), base.prompts, task, items, settings, rows(6))
    seeds = [one.seed for one in vllm.started[0].requests]
    assert len(seeds) == len({*seeds}) == sum(len(rollout.rewards) for rollout in found), "each turn has its own noise"


def test_adapters_arrive_merged(base: Base, vllm: type[vllm_stand_in.LLM]) -> None:
    model = base.fresh()
    train_only(model, base.blocks, [3])
    add_lora(model, base.blocks, [3], Lora(rank=2, targets=("q_proj", "down_proj")), seed=0)
    sampler = Vllm(model, base.tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    sampler.refresh()
    merged = {
        f"{name}.weight": base.weights[f"{name}.weight"] + module.get_delta_weight("default")  # pyright: ignore[reportCallIssue]
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert vllm.started[0].pushed[-1] == [*merged]
    assert len(merged) == 2
    for name, tensor in named_weights(model):
        torch.testing.assert_close(tensor, merged.get(name, base.weights[name]))
    prompts, settings = asked(base, temperature=0.0)
    expected = Pieces(base.fresh(merged), base.tokenizer).generate(prompts, settings, rows(FEW))
    assert sampler.generate(prompts, settings, rows(FEW)) == expected


def test_a_study_says_how_it_was_sampled(vllm: type[vllm_stand_in.LLM], tmp_path: Path) -> None:
    with run_study(VLLM, tmp_path / "study") as study:
        provenance = study["layer-3"].provenance
        assert provenance["generation"] == study.recipe.generation == "vllm"
        assert "vllm" in provenance["versions"]  # pyright: ignore
        before = len(vllm.started[0].requests)
        table = patch(study, layers=[3], from_run="layer-3", what="weights", metric="score")
        assert len(vllm.started[0].requests) == before + FEW
        assert table["patched_value"].item() == pytest.approx(study["layer-3"].score), "a graft of all that was trained"
    assert {check.status for check in verify(tmp_path / "study")} == {"good"}
    pieces = VLLM.model_copy(update={"generation": "pieces"})
    assert pieces.conflict(VLLM) == "generation is 'vllm' there and 'pieces' here"


def test_without_vllm_one_line_says_what_to_type(base: Base) -> None:
    with pytest.raises(LensrlError, match=r"pip install 'lensrl\[vllm\]'"):
        check_vllm(base.model)
    with pytest.raises(LensrlError, match="needs vLLM"):
        run_study(VLLM, "never-made")


def test_what_vllm_cannot_do_is_refused(
    base: Base, vllm: type[vllm_stand_in.LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = Qwen3MoeConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
        intermediate_size=8, moe_intermediate_size=8, num_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    with pytest.raises(LensrlError, match="experts"):
        check_vllm(Qwen3MoeForCausalLM(experts))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LensrlError, match="generation = 'vllm' samples on one device; 2 ranks need 'pieces'"):
        check_ranks(VLLM)
    monkeypatch.delenv("WORLD_SIZE")

    def fails(*_: object, **__: object) -> None:
        raise ValueError("No available memory for the cache blocks.\nmore")

    monkeypatch.setattr(vllm, "__init__", fails)
    with pytest.raises(LensrlError, match=r"does not start with .* \(No available memory .*\); write generation"):
        Vllm(base.model, base.tokenizer)


def test_only_the_ends_of_the_settings_end_a_completion(base: Base, vllm: type[vllm_stand_in.LLM]) -> None:
    prompt = token_ids(base.tokenizer, "1+1=")
    settings = sampling_settings(stop_tokens(base.model, base.tokenizer), base.tokenizer, max_tokens=1, temperature=1.0)
    (one,) = Vllm(base.model, base.tokenizer).generate([prompt], settings, [(0, 0)])
    assert (one.ended, len(one.tokens), len(one.logprobs)) == (False, 1, 1)
    request = vllm.started[0].requests[-1]
    assert (request.ignore_eos, request.stop_token_ids) == (True, stop_tokens(base.model, base.tokenizer))

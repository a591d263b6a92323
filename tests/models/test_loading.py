"""Folders as people really have them: each is refused in one line before anything is trained, or works and says so."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from lensrl import run_study
from lensrl.errors import LensrlError
from lensrl.models import base as base_module
from lensrl.models.base import load_base
from lensrl.models.loading import check_drives
from lensrl.recipe import Recipe
from lensrl.train.job import Job
from lensrl.train.watch import NoWatcher, Watcher
from tests.families import FAMILIES, TOKENIZER, TOKENS, opened, save

MATRIX = "model.layers.1.mlp.up_proj.weight"
Tensors = dict[str, torch.Tensor]


def model_folder(
    family: str, folder: Path, *, tensors: Callable[[Tensors], Tensors] | None = None, **config: Any
) -> str:
    """A family's folder, with other tensors and with other values in its config.json."""
    save(FAMILIES[family], folder)
    if tensors is not None:
        changed = tensors(load_file(folder / "model.safetensors"))
        changed = {name: tensor.clone().contiguous() for name, tensor in changed.items()}
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | config))
    return str(folder)


def refusal(folder: str | Path) -> str:
    """The one line with which a folder is refused."""
    with pytest.raises(LensrlError) as caught:
        load_base(str(folder))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"model {str(folder)!r}")
    return line


def command(line: str) -> list[str]:
    """The arguments of the command that a refusal ends with."""
    return shlex.split(line[line.index("python -c ") :])


@pytest.fixture
def reported(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs, whose messages do not go to the root logger."""
    caplog.set_level(logging.WARNING, logger="transformers")
    logging.getLogger("transformers").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("transformers").removeHandler(caplog.handler)


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def with_tensors(**more: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name.replace("__", "."): tensor for name, tensor in more.items()}


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if not any(part in n for part in parts)}


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: change(tensors[name])}


def a_third_layer(tensors: Tensors) -> Tensors:
    return tensors | {n.replace("layers.1.", "layers.2."): t for n, t in tensors.items() if "layers.1." in n}


def wrapped_mlp(tensors: Tensors) -> Tensors:
    return {n.replace(".mlp.", "._checkpoint_wrapped_module.mlp."): t for n, t in tensors.items()}


def gptq_matrix(tensors: Tensors) -> Tensors:
    packed = {MATRIX.replace("weight", "qweight"): torch.zeros(2, 24, dtype=torch.int32)}
    return {n: t for n, t in tensors.items() if n != MATRIX} | packed


def unmerged_lora(tensors: Tensors) -> Tensors:
    return tensors | {MATRIX.replace("weight", "lora_A.default.weight"): torch.zeros(2, 16)}


def classifier(tensors: Tensors) -> Tensors:
    return without("lm_head")(tensors) | {"score.weight": torch.zeros(2, 16)}


def huge_head(tensors: Tensors) -> Tensors:
    return tensors | {name: tensors[name] * 1e30 for name in ("model.norm.weight", "lm_head.weight")}


@pytest.mark.parametrize(
    ("family", "tensors", "config", "words"),
    [
        ("llama", prefixed("_orig_mod."), {}, ["lacks lm_head.weight and 20 more", "_orig_mod.", "torch.compile"]),
        ("llama-tied", prefixed("module."), {}, ["lacks", "module.model.", "DistributedDataParallel"]),
        ("gpt2", prefixed("_fsdp_wrapped_module."), {}, ["lacks", "_fsdp_wrapped_module.", "FSDP"]),
        ("llama", wrapped_mlp, {}, ["lacks model.layers.0.mlp.", "activation checkpointing"]),
        ("llama", without("lm_head"), {}, ["lacks lm_head.weight:", "without its head", "tie_word_embeddings"]),
        ("llama-tied", None, {"tie_word_embeddings": False}, ["lacks lm_head.weight:", "tie_word_embeddings"]),
        ("gpt-neox", without("embed_out", "lm_head"), {}, ["lacks", "without its head"]),
        ("llama", without(MATRIX), {}, [f"lacks {MATRIX}:", "in part"]),
        ("llama", without("layers.1.mlp"), {}, ["lacks model.layers.1.mlp.down_proj.weight and 2 more", "in part"]),
        ("llama", without("model.norm"), {}, ["lacks model.norm.weight", "in part"]),
        ("llama", None, {"num_hidden_layers": 3}, ["lacks model.layers.2.", "have 2 layers", "config.json says 3"]),
        ("llama", a_third_layer, {}, ["model.layers.2.", "have 3 layers", "config.json says 2"]),
        ("llama-tied", with_tensors(score__weight=torch.zeros(2, 16)), {}, ["score.weight", "classifier"]),
        ("llama", classifier, {}, ["lacks lm_head.weight", "score.weight", "classifier"]),
        ("llama", changed(MATRIX, lambda w: w[:-1]), {}, [MATRIX, "(23, 16)", "(24, 16)", "config.json"]),
        ("llama", None, {"intermediate_size": 32}, ["shape (16, 24) in the weights and (16, 32) by config.json"]),
        ("llama", gptq_matrix, {}, ["lacks " + MATRIX, "qweight", "quantised"]),
        ("llama", unmerged_lora, {}, ["lora_A", "merge"]),
        ("llama", prefixed("policy.net."), {}, ["policy.net.lm_head.weight, with policy.net. before each name"]),
        ("llama", lambda t: {"h." + n[5:]: w for n, w in t.items()}, {}, ["another architecture", "files hold h."]),
        ("llama", changed(MATRIX, lambda w: w * float("nan")), {}, [MATRIX, "NaN"]),
        ("gpt2", changed("transformer.h.1.ln_1.bias", lambda w: w + float("inf")), {}, ["h.1.ln_1.bias", "infinite"]),
        ("llama", huge_head, {}, ["logits that are not finite"]),
    ],
)  # fmt: skip
def test_weights_that_are_not_those_of_the_config_are_refused(
    family: str, tensors: Any, config: dict[str, Any], words: list[str], tmp_path: Path,
    reported: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    line = refusal(model_folder(family, tmp_path / "model", tensors=tensors, **config))
    assert all(word in line for word in words), line
    assert not reported.records, "transformers' own report would hide the line"


def test_layers_that_a_configuration_itself_refuses(tmp_path: Path) -> None:
    line = refusal(model_folder("qwen3", tmp_path / "model", num_hidden_layers=3))
    assert "`num_hidden_layers` (3) must be equal to the number of `layer_types` (2)" in line
    assert "config.json" in line


def test_the_reward_model_of_a_policy_is_refused(tmp_path: Path) -> None:
    config = deepcopy(FAMILIES["qwen3"])
    assert isinstance(config, Qwen3Config)
    Qwen3ForSequenceClassification(config).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    assert "Qwen3ForSequenceClassification" in refusal(tmp_path)


def test_a_wrapped_model_loads_after_the_command_of_the_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refusal(model_folder("llama", tmp_path / "model", tensors=prefixed("_orig_mod.")))
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, *command(line)[1:]], check=True, capture_output=True)
    original = opened(FAMILIES["llama"], tmp_path / "original")
    assert load_base(str(tmp_path / "OUT")).fingerprint == original.fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_shards_of_any_precision_load_to_the_same_fp32_masters(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    whole = opened(FAMILIES[family], tmp_path / "whole")
    whole.fresh().to(dtype).save_pretrained(tmp_path / "shards", max_shard_size="4KB")  # pyright: ignore[reportArgumentType]
    TOKENIZER.save_pretrained(tmp_path / "shards")
    assert len([*(tmp_path / "shards").glob("model-*.safetensors")]) > 2
    loaded = load_base(str(tmp_path / "shards"))
    assert loaded.weights.keys() == whole.weights.keys()
    for name, weight in loaded.weights.items():
        assert torch.equal(weight, whole.weights[name].to(dtype).float())
    assert loaded.notes == ()


def test_a_tied_head_that_is_saved_with_its_model_stays_tied(tmp_path: Path) -> None:
    def both(tensors: Tensors) -> Tensors:
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}

    base = load_base(model_folder("llama-tied", tmp_path / "model", tensors=both))
    assert "lm_head.weight" not in base.weights
    assert base.notes == ()


def test_a_head_that_is_called_tied_and_differs_is_used_and_said(tmp_path: Path) -> None:
    def apart(tensors: Tensors) -> Tensors:
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] * 1.5}

    base = load_base(model_folder("llama-tied", tmp_path / "model", tensors=apart))
    assert torch.equal(base.weights["lm_head.weight"], base.weights["model.embed_tokens.weight"] * 1.5)
    assert not base.model.config.tie_word_embeddings, "saved again, it would be tied"
    assert "ties the head" in base.notes[0]


@pytest.mark.parametrize(
    ("family", "table"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"), ("gpt2", "transformer.h.0.attn.bias"),
        ("gpt2", "transformer.h.1.attn.masked_bias"), ("gpt-neox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
        ("gpt-neox", "gpt_neox.layers.1.attention.bias"), ("gpt-neox", "gpt_neox.layers.1.attention.masked_bias"),
    ],
)  # fmt: skip
def test_tables_that_a_model_computes_are_no_weights(family: str, table: str, tmp_path: Path) -> None:
    more = with_tensors(**{table.replace(".", "__"): torch.ones(4)})
    assert load_base(model_folder(family, tmp_path / "model", tensors=more)).notes == ()


def test_the_value_head_of_ppo_is_left_out_and_said(tmp_path: Path) -> None:
    more = with_tensors(v_head__summary__weight=torch.ones(1, 16), v_head__summary__bias=torch.ones(1))
    base = load_base(model_folder("llama", tmp_path / "model", tensors=more))
    assert base.fingerprint == opened(FAMILIES["llama"], tmp_path / "plain").fingerprint
    assert "v_head.summary.bias" in base.notes[0]


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("gptq", {"bits": 4}), ("awq", {"bits": 4}), ("bitsandbytes", {"load_in_4bit": True}), ("fp8", {}),
        ("compressed-tensors", {"format": "pack-quantized"}), ("mxfp4", {}),
    ],
)  # fmt: skip
def test_quantised_folders_are_refused(method: str, more: dict[str, Any], tmp_path: Path) -> None:
    line = refusal(model_folder("llama", tmp_path / "model", quantization_config={"quant_method": method, **more}))
    assert "quantised" in line
    assert method in line


@pytest.mark.parametrize(("dtype", "word"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
def test_quantised_weights_are_refused_where_the_configuration_is_silent(
    dtype: torch.dtype, word: str, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    line = refusal(model_folder("llama", tmp_path / "model", tensors=changed(name, lambda w: w.to(dtype))))
    assert f"is quantised ({name} is stored as {word})" in line


class Nothing:
    """An engine that makes no run."""

    def make(self, jobs: Sequence[Job], watcher: Watcher) -> None: ...


class Noted(NoWatcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def noted(self, line: str) -> None:
        self.lines.append(line)


def test_a_study_says_what_loading_changed_and_refuses_before_it_writes(tmp_path: Path) -> None:
    more = with_tensors(v_head__summary__weight=torch.ones(1, 16))
    for name, tensors in (("ppo", more), ("cut", without(MATRIX))):
        model_folder("llama", tmp_path / name, tensors=tensors)
    recipe = {"task": {"name": "arithmetic"}, "rl": {"steps": 1}, "evaluation": {"items": 2}}
    noted = Noted()
    run_study(Recipe.model_validate(recipe | {"model": str(tmp_path / "ppo")}), tmp_path / "a", noted, engine=Nothing())
    said = "left out v_head.summary.weight: a value head is no part of the policy"
    assert noted.lines == [f"{tmp_path / 'ppo'}: {said}"]
    with pytest.raises(LensrlError, match="lacks model"):
        run_study(Recipe.model_validate(recipe | {"model": str(tmp_path / "cut")}), tmp_path / "b", engine=Nothing())
    assert not [*(tmp_path / "b").glob("*")]


def test_an_encoder_is_refused_because_its_tokens_see_what_follows(tmp_path: Path) -> None:
    config = BertConfig(**TOKENS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    assert "is not causal" in refusal(save(config, tmp_path / "model"))


def test_a_cache_that_changes_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = opened(FAMILIES["llama"], tmp_path)
    check_drives("fine", base.model)
    forward = base.model.forward

    def forgetful(*args: Any, past_key_values: Any = None, position_ids: Any = None, **named: Any) -> Any:
        if position_ids is not None and named["input_ids"].shape[1] == 1:
            position_ids = position_ids + 7
        return forward(*args, past_key_values=past_key_values, position_ids=position_ids, **named)

    monkeypatch.setattr(base.model, "forward", forgetful)
    with pytest.raises(LensrlError, match="other logits with its cache"):
        check_drives("broken", base.model)


def test_a_model_that_cannot_run_is_refused_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = opened(FAMILIES["llama"], tmp_path)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel\nfor this machine")

    monkeypatch.setattr(base.model, "forward", broken)
    with pytest.raises(LensrlError, match=r"cannot be sampled \(RuntimeError: no kernel\)"):
        check_drives("broken", base.model)


def test_loading_leaves_the_report_of_others_alone(tmp_path: Path, reported: pytest.LogCaptureFixture) -> None:
    folder = model_folder("llama", tmp_path / "model", tensors=without(MATRIX))
    refusal(folder)
    assert not reported.records
    AutoModelForCausalLM.from_pretrained(folder)
    assert any(MATRIX in record.getMessage() for record in reported.records)


def test_an_adapter_of_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_module, "_hub_has", lambda name, file: file == "adapter_config.json")
    assert "is an adapter" in refusal("somebody/lora")

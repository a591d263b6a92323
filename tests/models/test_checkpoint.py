"""Model folders as people have them: which are read, tensor by tensor, and which are refused, in which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from lensrl.errors import LensrlError
from lensrl.models import checkpoint_files
from lensrl.models.base import Base
from lensrl.models.blocks import find_blocks
from lensrl.models.checkpoint import CheckpointWeights
from lensrl.recipe import ModelPlace
from tests.families import FAMILIES, TOKENIZER

MATRIX = "model.layers.1.mlp.up_proj.weight"
EMBED = "model.embed_tokens.weight"


def read(place: Path | str, base: Base, **more: Any) -> CheckpointWeights:
    return CheckpointWeights(ModelPlace(model=str(place), **more), base)


def written(
    base: Base, folder: Path, *, change: Callable[[dict[str, torch.Tensor]], object] = dict, **config: Any
) -> Path:
    """The base as a folder, with changed tensors and settings."""
    base.model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def renamed(prefix: str) -> Callable[[dict[str, torch.Tensor]], object]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [*tensors]:
            tensors[prefix + name] = tensors.pop(name)

    return change


WRONG: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], dict[str, Any], str]] = {
    "compiled": (
        renamed("_orig_mod."),
        {},
        r"lacks model\.embed_tokens\.weight and 89 more: .*a name that torch\.compile gave; rename: python -c",
    ),
    "parallel": (
        renamed("module."),
        {},
        "lacks model.embed_tokens.weight and 89 more: .*a name that DistributedDataParallel gave; rename: python -c",
    ),
    "missing": (lambda t: t.pop(MATRIX), {}, f"lacks {MATRIX}: it was saved or copied in part"),
    "shape": (
        lambda t: t.update({MATRIX: t[MATRIX][:-1]}),
        {},
        f"{MATRIX} has the shape .*, the base's has .*\\); give the folder",
    ),
    "transposed": (
        lambda t: t.update({MATRIX: t[MATRIX].T.contiguous()}),
        {},
        "the base's has .*, which is its transpose; give the folder as transformers saves it",
    ),
    "padded": (
        lambda t: t.update({EMBED: torch.cat([t[EMBED]] * 2)}),
        {},
        "embed_tokens.weight has 198 rows, and .* vocab_size = 99",
    ),
    "deeper": (dict, {"num_hidden_layers": 9}, "another model than tiny:qwen3: num_hidden_layers is 9 there and 8"),
    "other": (dict, {"model_type": "llama"}, "model_type is 'llama' there and 'qwen3' in the base"),
    "rope": (dict, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, "rope_parameters is .* there"),
    "heads": (dict, {"num_attention_heads": 2, "num_key_value_heads": 1}, "num_attention_heads is 2 there and 4"),
    "classifier": (
        lambda t: t.update({"score.weight": torch.zeros(2, 96)}),
        {},
        "does not know, score.weight: the head of a classifier",
    ),
    "quantised": (dict, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"is quantised \(gptq,"),
    "integers": (lambda t: t.update({MATRIX: t[MATRIX].to(torch.int8)}), {}, "is quantised .* stored as I8"),
    "no head": (dict, {"tie_word_embeddings": False}, "lacks lm_head.weight, .* = false; give the folder"),
    "two heads": (
        lambda t: t.update({"lm_head.weight": t[EMBED] * 1.01}),
        {},
        "lm_head.weight differ, and they are one parameter",
    ),
    "a pad outside": (dict, {"pad_token_id": 500}, "pad_token_id 500 in its config.json is outside the vocabulary"),
    "fp8": (
        lambda t: t.update({MATRIX + "_scale_inv": torch.ones(1)}),
        {},
        "weight_scale_inv belongs to quantised weights",
    ),
    "no type": (dict, {"model_type": "nothing"}, "model_type is 'nothing'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_another_model_is_refused_in_one_line(base: Base, kind: str, tmp_path: Path) -> None:
    change, config, complaint = WRONG[kind]
    folder = written(base, tmp_path / "model", change=change, **config)
    with pytest.raises(LensrlError, match=complaint) as caught:
        read(folder, base)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_settings_that_change_no_logit_may_differ(base: Base, tmp_path: Path) -> None:
    harmless = {
        "max_position_embeddings": 1024, "attention_dropout": 0.1, "use_cache": False, "eos_token_id": 2,
        "dtype": "bfloat16", "transformers_version": "4.1.0", "architectures": ["Other"], "of_another_trainer": 3,
    }  # fmt: skip
    assert len(read(written(base, tmp_path / "model", **harmless), base)) == len(base.weights)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (["config.json"], r"has no model\.safetensors; give a folder with config\.json"),
        ([], r"has no config\.json; give a folder"),
        (["config.json", "adapter_config.json"], r"is an adapter .*merge_and_unload"),
        (["adapter_config.json", "adapter_model.safetensors"], r"is an adapter .*merge_and_unload"),
        (["config.json", "pytorch_model.bin"], "holds its weights as pickle"),
        (
            ["config.json", "model_world_size_8_rank_0.pt"],
            r"verl's FSDP shards .*; merge them: python -m verl\.model_merger",
        ),
        (["huggingface/config.json", "model_world_size_8_rank_0.pt"], "verl's FSDP shards .*; merge them"),
        (
            ["config.json", "pytorch_model_fsdp_0/__0_0.distcp"],
            "FSDP or DCP shards .* accelerate merge-weights .*pytorch_model_fsdp_0",
        ),
        (["config.json", "model-00001-of-00002.safetensors"], r"shards without model\.safetensors\.index\.json"),
        (["config.json", "model.safetensors"], r"model\.safetensors is damaged or cut short"),
        (["checkpoint-10/adapter_config.json"], "give one of its folders, such as .*checkpoint-10"),
        (["actor/dist_ckpt/__0_0.distcp"], "verl.model_merger merge --backend megatron --local_dir .*actor "),
        (["config.json", "global_step9/mp_rank_00_model_states.pt"], "zero_to_fp32.py"),
        (["config.json", "m-Q4_K_M.gguf"], "holds a GGUF file"),
    ],
)
def test_other_folders_are_refused_in_one_line(base: Base, files: list[str], complaint: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    if "config.json" in files:
        base.model.config.save_pretrained(tmp_path)
    with pytest.raises(LensrlError, match=complaint) as caught:
        read(tmp_path, base)
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_not_there_is_named(base: Base, tmp_path: Path) -> None:
    base.model.save_pretrained(tmp_path, max_shard_size="200KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3
    weights = read(tmp_path, base)
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in base.weights.items())
    shards[1].unlink()
    with pytest.raises(LensrlError, match=rf"its model\.safetensors\.index\.json names {shards[1].name}, which is not"):
        read(tmp_path, base)


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_stored_types_are_widened_and_recorded(
    base: Base, dtype: torch.dtype, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = base.fresh()
    model.to(dtype).save_pretrained(tmp_path)
    weights = read(tmp_path, base)
    assert weights.dtype == word
    for block in (checkpoint_files.BLOCK, 1000):  # whole, and in rows that do not divide it
        monkeypatch.setattr(checkpoint_files, "BLOCK", block)
        assert all(np.array_equal(weights[n], t.to(dtype).float().numpy()) for n, t in base.weights.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tensors_of_every_family_are_found(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    base = Base(family, model, TOKENIZER, find_blocks(model))
    model.save_pretrained(tmp_path)
    weights = read(tmp_path, base)
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in base.weights.items())
    # The model inside the head alone, as some trainers save it: whole only where the head is tied.
    inner = getattr(model, model.base_model_prefix)
    inner.save_pretrained(tmp_path / "inner")
    if model.config.tie_word_embeddings:
        weights = read(tmp_path / "inner", base)
        assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in base.weights.items())
    else:
        with pytest.raises(LensrlError, match=r"lacks lm_head\.weight"):
            read(tmp_path / "inner", base)


def test_a_mixture_that_lacks_an_expert_is_refused(tmp_path: Path) -> None:
    config = FAMILIES["qwen3-moe"]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    base = Base("experts", model, TOKENIZER, find_blocks(model))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gate, down = (f"model.layers.1.mlp.experts.3.{part}_proj.weight" for part in ("gate", "down"))
    for lost, complaint in ((gate, "make no|has the shape"), (down, "has the shape")):
        save_file({n: t for n, t in tensors.items() if n != lost}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(LensrlError, match=complaint) as caught:
            read(tmp_path, base)
        assert "\n" not in str(caught.value)


def test_the_value_head_of_ppo_is_left_out(base: Base, tmp_path: Path) -> None:
    head = {"v_head.summary.weight": torch.zeros(1, 96), "v_head.summary.bias": torch.zeros(1)}
    weights = read(written(base, tmp_path / "model", change=lambda tensors: tensors.update(head)), base)
    assert weights.left_out == sorted(head)
    assert {*weights} == {*base.weights}


def qwen3(*, tied: bool) -> Base:
    torch.manual_seed(0)
    values: dict[str, Any] = FAMILIES["qwen3"].to_dict() | {"tie_word_embeddings": tied}
    config = Qwen3Config(**values)
    model = Qwen3ForCausalLM(config).eval()
    return Base(f"tied {tied}", model, TOKENIZER, find_blocks(model))


def test_a_tied_checkpoint_of_an_untied_base_has_the_embeddings_as_its_head(tmp_path: Path) -> None:
    tied, untied = qwen3(tied=True), qwen3(tied=False)
    tied.model.save_pretrained(tmp_path / "tied")
    weights = read(tmp_path / "tied", untied)
    np.testing.assert_array_equal(weights["lm_head.weight"], weights[EMBED])
    untied.model.save_pretrained(tmp_path / "untied")
    with pytest.raises(LensrlError, match=r"model\.embed_tokens\.weight and lm_head\.weight differ"):
        read(tmp_path / "untied", tied)


def test_a_hub_name_is_downloaded_at_its_revision(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "0123abc"  # the hub's cache names a snapshot by its commit
    base.fresh({MATRIX: base.weights[MATRIX] + 1e-3}).save_pretrained(folder)
    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"], options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(checkpoint_files, "snapshot_download", download)
    weights = read("org/model-GRPO", base, revision="step-100")
    assert asked == [("org/model-GRPO", "step-100", ["*.safetensors", "*.json"])]
    assert weights.commit == "0123abc"
    assert {name for name, w in weights.items() if not np.array_equal(w, base.weights[name].numpy())} == {MATRIX}


@pytest.mark.parametrize(
    ("model", "more", "complaint"),
    [
        ("./nowhere", {}, "no checkpoint folder at ./nowhere"),
        ("a/b/c", {}, "no checkpoint folder at a/b/c"),
        ("org/nothing", {}, "checkpoint org/nothing cannot be loaded"),
        (str(Path(__file__).parent), {"revision": "main"}, "is a folder, and revision = 'main' is of a hub name"),
    ],
)
def test_a_place_without_a_model_is_refused(
    base: Base, model: str, more: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def offline(*_: object, **__: object) -> str:
        raise OSError("offline")

    monkeypatch.setattr(checkpoint_files, "snapshot_download", offline)
    with pytest.raises(LensrlError, match=complaint):
        read(model, base, **more)

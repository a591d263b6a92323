"""LoRA adapters of PEFT: merged one parameter at a time as PEFT merges them at once, or refused in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config

from lensrl import compare_model_activations, compare_models
from lensrl.errors import LensrlError
from lensrl.models.adapter import MergedAdapter, open_weights
from lensrl.models.base import Base, load_base
from lensrl.recipe import ModelPlace
from tests.families import FAMILIES, opened, save

ATTENTION = ["q_proj", "v_proj"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> family, settings of LoRA
    "plain": ("qwen3", {"r": 4, "lora_alpha": 16, "target_modules": ATTENTION}),
    "rank-stabilised": ("qwen3", {"r": 4, "lora_alpha": 16, "use_rslora": True, "target_modules": ATTENTION}),
    "dora": ("qwen3", {"r": 2, "lora_alpha": 8, "use_dora": True, "target_modules": "all-linear"}),
    "ranks by module": (
        "qwen3", {"r": 2, "rank_pattern": {"v_proj": 5}, "alpha_pattern": {"q_proj": 9}, "target_modules": ATTENTION},
    ),
    "one layer": ("qwen3", {"r": 3, "layers_to_transform": [1], "target_modules": ATTENTION}),
    "head and embeddings": ("qwen3-untied", {"r": 3, "target_modules": ["embed_tokens", "lm_head", "up_proj"]}),
    "transposed": ("gpt2", {"r": 3, "target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "experts": ("qwen3-moe", {"r": 2, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}),
}  # fmt: skip


def adapter(base: Base, folder: Path, **settings: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    """A random adapter in `folder`, and what PEFT makes of the base with it."""
    torch.manual_seed(1)
    model: Any = get_peft_model(base.fresh(), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter) + ("magnitude" in name) * parameter)
    model.save_pretrained(folder)
    merged: Any = PeftModel.from_pretrained(base.fresh(), str(folder)).merge_and_unload()
    return folder, {name: parameter.detach() for name, parameter in merged.named_parameters()}


def merge(folder: Path, base: Base) -> MergedAdapter:
    found = open_weights(ModelPlace(model=str(folder)), base, before=base.weights)
    assert isinstance(found, MergedAdapter)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_as_peft_merges_it(kind: str, tmp_path: Path) -> None:
    family, settings = KINDS[kind]
    base = opened(FAMILIES[family], tmp_path / "base")
    folder, expected = adapter(base, tmp_path / "adapter", **settings)
    weights = merge(folder, base)
    assert [*weights] == [*base.weights]
    moved = {name for name in weights if not np.array_equal(weights[name], base.weights[name].numpy())}
    assert moved == {name for name, tensor in expected.items() if not torch.equal(tensor, base.weights[name])}
    assert moved
    for name in moved:
        np.testing.assert_allclose(weights[name], expected[name].numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(weights[name], weights[name])  # merged again, from the base again
    assert weights.merged is not None
    assert (weights.merged["r"], weights.merged["use_dora"]) == (settings["r"], settings.get("use_dora", False))


def test_two_models_may_be_a_base_and_its_adapter(tmp_path: Path) -> None:
    base = opened(FAMILIES["qwen3"], tmp_path / "base")
    half: Any = base.fresh()
    half.bfloat16().save_pretrained(tmp_path / "base")  # stored rounded; the adapter begins at what is stored
    folder, _ = adapter(base, tmp_path / "adapter", r=2, target_modules=["down_proj"])
    table = compare_models(tmp_path / "base", folder)
    assert set(table["parameter"]) == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    tensors = load_file(folder / "adapter_model.safetensors")
    for layer, row in table.set_index("layer").iterrows():
        a, b = (
            tensors[f"base_model.model.model.layers.{layer}.mlp.down_proj.lora_{part}.weight"] for part in ("A", "B")
        )
        change = (8 / 2) * (b.double() @ a.double())  # alpha is 8 unless it is given
        assert row["frobenius"] == pytest.approx(float(change.norm()), rel=1e-5)
        assert row["effective_rank"] < 2.01
    assert set(table["base_dtype"]) == {"bfloat16"}
    assert table.attrs["rounding_norm"] == 0  # nothing was rounded on the way from the base to the merged weights
    assert table.attrs["merged"]["r"] == 2


def rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})

    return apply


def configure(**settings: Any) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return apply


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "another kind": (configure(peft_type="LOHA"), "is a LOHA adapter, and lensrl merges LoRA alone: merge it with"),
    "biases": (configure(bias="all"), "is a LORA adapter with bias = 'all'"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"no adapter_model\.safetensors"),
    "damaged": (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    "no such module": (configure(target_modules=["c_attn"]), "does not fit .*c_attn.*; give the base it was made on"),
    "another shape": (rewrite(lambda t: t.update({FIRST: t[FIRST][:, :-1].contiguous()})), "does not fit .*"),
    "missing": (rewrite(lambda t: t.pop(FIRST)), r"lacks .*layers\.0\.self_attn\.q_proj\.lora_A"),
    "left over": (
        rewrite(lambda t: t.update({"base_model.model.model.norm.weight": torch.zeros(16)})),
        r"holds base_model\.model\.model\.norm\.weight, which is no LoRA tensor",
    ),
    "no numbers": (rewrite(lambda t: t[FIRST].fill_(torch.nan)), "holds a NaN or an infinity"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_adapter_that_cannot_be_merged_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    base = opened(FAMILIES["qwen3"], tmp_path / "base")
    folder, _ = adapter(base, tmp_path / "adapter", r=2, target_modules=ATTENTION)
    change, complaint = WRONG[kind]
    change(folder)
    with pytest.raises(LensrlError, match=complaint) as caught:
        merge(folder, base)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base = opened(FAMILIES["qwen3"], tmp_path / "base")
    folder, _ = adapter(base, tmp_path / "adapter", r=2, target_modules=ATTENTION)
    values: dict[str, Any] = FAMILIES["qwen3"].to_dict() | {"head_dim": 16}
    wider = opened(Qwen3Config(**values), tmp_path / "other")
    with pytest.raises(LensrlError, match=r"does not fit .*size mismatch"):
        merge(folder, wider)


def test_an_adapter_with_the_embeddings_of_another_base_is_refused(tmp_path: Path) -> None:
    base = opened(FAMILIES["qwen3-untied"], tmp_path / "base")
    folder, _ = adapter(base, tmp_path / "adapter", r=2, target_modules=["embed_tokens"])
    other: Any = base.fresh({name: 1.01 * tensor for name, tensor in base.weights.items()})
    other.save_pretrained(tmp_path / "base")
    with pytest.raises(LensrlError, match=r"was made on another base .* it holds another model\.embed_tokens\.weight"):
        merge(folder, load_base(str(tmp_path / "base")))


def test_an_adapter_of_a_tied_head_is_refused(tmp_path: Path) -> None:
    base = opened(FAMILIES["qwen3"], tmp_path / "base")
    folder, _ = adapter(base, tmp_path / "adapter", r=2, target_modules=["embed_tokens"])
    with pytest.raises(LensrlError, match=r"changes model\.embed_tokens\.weight, which .* also uses as lm_head"):
        merge(folder, base)


def test_without_peft_one_line_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = opened(FAMILIES["qwen3"], tmp_path / "base")
    folder, _ = adapter(base, tmp_path / "adapter", r=2, target_modules=ATTENTION)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        LensrlError, match=r"is a LoRA adapter, and merging it needs PEFT: pip install 'lensrl\[peft\]'"
    ):
        merge(folder, base)


def test_an_adapter_beside_a_full_model_may_mean_either(tmp_path: Path) -> None:
    base = opened(FAMILIES["qwen3"], tmp_path / "base")
    adapter(base, tmp_path / "base", r=2, target_modules=ATTENTION)
    with pytest.raises(LensrlError, match="beside a full model, so it may mean either"):
        compare_models(save(FAMILIES["qwen3"], tmp_path / "clean"), tmp_path / "base")


def test_activations_of_a_base_and_its_adapter_are_those_of_the_merged_model(tmp_path: Path) -> None:
    base = opened(FAMILIES["qwen3"], tmp_path / "base")
    folder, merged = adapter(base, tmp_path / "adapter", r=2, target_modules=ATTENTION)
    base.fresh(merged).save_pretrained(tmp_path / "merged")
    (tmp_path / "texts.txt").write_text("".join(f"{n}+{n + 3}={2 * n + 3}\n" for n in range(10, 18)))
    one, other = (
        compare_model_activations(tmp_path / "base", place, texts=tmp_path / "texts.txt")
        for place in (folder, tmp_path / "merged")
    )
    assert (one["relative_l2"] > 1e-3).all()
    np.testing.assert_allclose(one["relative_l2"], other["relative_l2"], rtol=1e-4)
    np.testing.assert_allclose(one["cka"], other["cka"], atol=1e-4)

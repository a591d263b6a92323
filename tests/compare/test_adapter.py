"""Runs and grafts as LoRA adapters, where the change has a low rank."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lensrl
from lensrl import LensrlError, Study, open_study
from lensrl.compare.patching.graft import graft
from lensrl.models.base import Base
from tests.compare.test_export import card_of, plant
from tests.store.synthetic import make_study

Weights = dict[str, torch.Tensor]
RANKS = {
    "model.layers.1.mlp.up_proj.weight": 3,
    "model.layers.1.self_attn.q_proj.weight": 5,
    "model.layers.6.mlp.down_proj.weight": 2,
}


@pytest.fixture(scope="module")
def low(base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """A study whose `full-rl` has changes of low rank in three matrices, and its weights."""
    generator = torch.Generator().manual_seed(1)
    weights = dict(base.weights)
    for name, rank in RANKS.items():
        rows, columns = weights[name].shape
        left, right = (torch.randn(shape, generator=generator) for shape in ((rows, rank), (rank, columns)))
        weights[name] = weights[name] + 1e-3 * (left @ right)
    folder = make_study(tmp_path_factory.mktemp("low") / "planted")
    plant(folder, base, "base", None, [])
    plant(folder, base, "full-rl", weights, [*range(8)])
    return folder, weights


def merged(base: Base, folder: Path) -> Weights:
    """The base with an adapter in it, by the definition of LoRA: W + alpha / r B A."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    weights = dict(base.weights)
    for module in config["target_modules"]:
        down, up = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
        assert len(down) == config["rank_pattern"][module]
        scale = config["alpha_pattern"][module] / config["rank_pattern"][module]
        weights[f"{module}.weight"] = weights[f"{module}.weight"] + scale * (up @ down)
    return weights


def close(found: Weights, expected: Weights, base: Base) -> bool:
    """Whether weights are equal up to rounding, and bit for bit where nothing was changed."""
    for name, weight in expected.items():
        if torch.equal(weight, base.weights[name]):
            assert torch.equal(found[name], weight), name
        assert float((found[name].double() - weight).norm()) <= 2.0**-22 * float(weight.double().norm()), name
    return True


def test_an_adapter_gives_the_weights_back_up_to_rounding(
    base: Base, low: tuple[Path, Weights], tmp_path: Path
) -> None:
    with open_study(low[0]) as study:
        folder = lensrl.save_adapter(study, "full-rl", tmp_path / "adapter")
    assert sorted(os.listdir(folder)) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {name.removesuffix(".weight"): rank for name, rank in RANKS.items()}
    assert close(merged(base, folder), low[1], base)
    front, text = card_of(folder)
    assert (front["library_name"], front["base_model"]) == ("peft", "tiny:qwen3")
    assert "a LoRA adapter of 3 matrices, rank 2 to 5, in fp32" in text
    assert "by **rounding**" in text


def test_peft_opens_an_adapter(base: Base, low: tuple[Path, Weights], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    with open_study(low[0]) as study:
        folder = lensrl.save_adapter(study, "full-rl", tmp_path / "adapter")
    wrapped = peft.PeftModel.from_pretrained(base.fresh(), folder)
    adapted = [name for name, _ in wrapped.named_modules() if name.endswith("lora_A.default")]
    assert len(adapted) == len(RANKS)
    assert close(dict(wrapped.merge_and_unload().named_parameters()), low[1], base)


def test_a_graft_of_low_rank(base: Base, low: tuple[Path, Weights], tmp_path: Path) -> None:
    with open_study(low[0]) as study:
        folder = lensrl.save_adapter(study, "full-rl", tmp_path / "adapter", layers=[0, 1], into_run="base")
    assert close(merged(base, folder), graft(base, base.weights, low[1], [1]), base)
    assert "rank 3 to 5" in card_of(folder)[1]


def test_the_change_of_whole_matrices_is_refused_with_rank_and_error(small_study: Study, tmp_path: Path) -> None:
    with pytest.raises(LensrlError, match=r"layers\.3\.\S+ has rank \d+ of \d+: .* would miss \d+\.\d% of it"):
        lensrl.save_adapter(small_study, "layer-3", tmp_path / "out")
    with pytest.raises(LensrlError, match="no matrix of a linear layer"):
        lensrl.save_adapter(small_study, "full-rl", tmp_path / "out", layers="embed")
    with pytest.raises(LensrlError, match="nothing to put into an adapter"):
        lensrl.save_adapter(small_study, "base", tmp_path / "out")
    assert os.listdir(tmp_path) == []

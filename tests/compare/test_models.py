"""Two model folders and nothing else: the same numbers as by hand, one tensor at a time, and what rounding hides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensrl import LensrlError, Study, compare_models, compare_weights, save_pretrained
from lensrl.measures.weights import delta_metrics
from lensrl.models.base import Base, load_base
from tests.families import FAMILIES, save

MEASURES = ["frobenius", "relative", "spectral", "stable_rank", "weight_cosine", "changed_share", "overlap_largest"]


@pytest.fixture
def pair(base: Base, tmp_path: Path) -> tuple[Path, Path]:
    """The embedded base, and the same with noise in the MLPs of layers 2 and 5 and in the last norm."""
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: weights + 1e-3 * torch.randn(weights.shape, generator=generator)
        for name, weights in base.weights.items()
        if name.startswith(("model.layers.2.mlp", "model.layers.5.mlp", "model.norm"))
    }
    base.model.save_pretrained(tmp_path / "base")
    base.fresh(moved).save_pretrained(tmp_path / "trained")
    return tmp_path / "base", tmp_path / "trained"


def test_every_parameter_that_moved_is_measured_as_by_hand(pair: tuple[Path, Path]) -> None:
    table = compare_models(*pair).set_index("parameter")
    before, after = (load_file(folder / "model.safetensors") for folder in pair)
    assert set(table.index) == {name for name in before if not torch.equal(before[name], after[name])}
    for name, row in table.iterrows():
        found = delta_metrics(before[str(name)].numpy(), after[str(name)].numpy())._asdict()
        np.testing.assert_allclose(row[MEASURES].astype(float), [found[key] for key in MEASURES], rtol=1e-12)
    assert (table[["base_dtype", "trained_dtype"]] == "float32").all(axis=None)
    assert (table["rounding_norm"] == 0).all()
    moved = sum(int((before[name] != after[name]).sum()) for name in before)
    assert table.attrs["changed_share"] == pytest.approx(moved / sum(w.numel() for w in before.values()))
    assert table.attrs["frobenius"] == pytest.approx(
        np.sqrt(sum(float(((after[name] - before[name]).double() ** 2).sum()) for name in before)), rel=1e-4
    )


@pytest.mark.parametrize("by", ["parameter", "component", "layer"])
def test_two_folders_give_the_table_of_the_study(by: Any, small_study: Study, tmp_path: Path) -> None:
    save_pretrained(small_study, "full-rl", tmp_path / "trained")
    theirs, own = compare_weights(small_study, by=by), compare_models("tiny:qwen3", tmp_path / "trained", by=by)
    pd.testing.assert_frame_equal(own[theirs.columns], theirs)


def test_models_that_are_one_model_have_no_row(pair: tuple[Path, Path]) -> None:
    table = compare_models(pair[0], pair[0], by="layer")
    assert table.empty
    assert (table.attrs["changed_share"], table.attrs["frobenius"]) == (0, 0)


def test_shards_are_read_as_one_file(pair: tuple[Path, Path], base: Base, tmp_path: Path) -> None:
    base.fresh(load_file(pair[1] / "model.safetensors")).save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 3
    pd.testing.assert_frame_equal(compare_models(pair[0], tmp_path / "shards"), compare_models(*pair))


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_rounding_alone_is_known_beforehand(base: Base, dtype: torch.dtype, word: str, tmp_path: Path) -> None:
    base.model.save_pretrained(tmp_path / "base")
    rounded: Any = base.fresh()
    rounded.to(dtype).save_pretrained(tmp_path / "rounded")
    table = compare_models(tmp_path / "base", tmp_path / "rounded", by="component")
    assert set(table["trained_dtype"]) == {word}
    assert set(table["base_dtype"]) == {"float32"}
    assert table.attrs["frobenius"] == pytest.approx(table.attrs["rounding_norm"], rel=0.02)
    matrices = table[table["component"].isin(["attn", "mlp"])]
    np.testing.assert_allclose(
        matrices["frobenius"], matrices["rounding_norm"], rtol=0.1
    )  # few gains, large, weigh much
    assert np.sum(table["rounding_norm"] ** 2) == pytest.approx(table.attrs["rounding_norm"] ** 2)


def test_each_row_says_how_its_own_parameters_are_stored(pair: tuple[Path, Path]) -> None:
    tensors = load_file(pair[1] / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].bfloat16()}, pair[1] / "model.safetensors", {"format": "pt"})
    table = compare_models(*pair, by="layer").set_index("layer")
    assert table.loc[2, "trained_dtype"] == "bfloat16 and float32"
    assert table.loc[5, "trained_dtype"] == "float32"
    assert table.loc[5, "rounding_norm"] == 0 < float(table.loc[2, "rounding_norm"])  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_parts_that_it_has_when_loaded(family: str, tmp_path: Path) -> None:
    loaded = load_base(save(FAMILIES[family], tmp_path / "base"))
    loaded.fresh({name: weights * 1.01 for name, weights in loaded.weights.items()}).save_pretrained(tmp_path / "new")
    for file in (tmp_path / "base").glob("*token*"):
        file.unlink()  # weights are compared without a tokenizer
    table = compare_models(tmp_path / "base", tmp_path / "new")
    moved = [name for name, weights in loaded.weights.items() if weights.any()]
    assert sorted(table["parameter"]) == sorted(moved)
    layers = table.set_index("parameter")["layer"].astype(object)
    assert all(layers[name] == loaded.blocks.layer(name) or pd.isna(layers[name]) for name in moved)
    np.testing.assert_allclose(table["relative"], 0.01, rtol=1e-3)


def test_parameters_that_did_not_move_have_no_errors_of_rounding(base: Base, tmp_path: Path) -> None:
    names = [name for name in base.weights if name.startswith("model.layers.2.mlp")]
    for folder, scale in (("base", 1.0), ("trained", 1.1)):
        model: Any = base.fresh({name: scale * base.weights[name] for name in names})
        model.to(torch.bfloat16).save_pretrained(tmp_path / folder)
    tables = [compare_models(tmp_path / "base", tmp_path / "trained", by=by) for by in ("parameter", "layer")]
    assert set(tables[0]["parameter"]) == {*names}
    assert list(tables[1]["layer"]) == [2]
    for table in tables:
        assert np.sqrt(np.sum(table["rounding_norm"] ** 2)) == pytest.approx(table.attrs["rounding_norm"])
        assert table.attrs["rounding_norm"] < 0.1 * table.attrs["frobenius"]


def test_another_model_is_refused_in_one_line(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = save(FAMILIES["llama"], tmp_path / "llama")
    deeper = json.loads((pair[1] / "config.json").read_text()) | {"num_hidden_layers": 9}
    lacking = load_file(pair[1] / "model.safetensors")
    del lacking["model.norm.weight"]
    (tmp_path / "empty").mkdir()
    wrong = [
        (pair[0], other, "model_type is 'llama' there and 'qwen3'"),
        (other, pair[0], "model_type is 'qwen3' there and 'llama'"),
        ("", pair[1], "empty name"),
        (tmp_path / "empty", pair[1], r"empty has no config\.json"),
        (pair[0], tmp_path / "nowhere", "no checkpoint folder at .*nowhere"),
    ]
    for base, trained, complaint in wrong:
        with pytest.raises(LensrlError, match=complaint) as caught:
            compare_models(base, trained)
        assert "\n" not in str(caught.value)
    save_file(lacking, pair[1] / "model.safetensors")
    for one, two in (pair, pair[::-1]):  # whichever of the two it is
        with pytest.raises(LensrlError, match=r"trained lacks model\.norm\.weight"):
            compare_models(one, two)
    (pair[1] / "config.json").write_text(json.dumps(deeper))
    with pytest.raises(LensrlError, match="num_hidden_layers is 9 there and 8"):
        compare_models(*pair)


def test_a_head_that_only_the_config_ties_is_one_of_its_own(pair: tuple[Path, Path]) -> None:
    for folder, scale in zip(pair, (1.01, 1.02), strict=True):
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.weight"] = scale * tensors["model.embed_tokens.weight"]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    table = compare_models(*pair, by="layer").set_index("component")
    assert table.loc["lm_head", "relative"] == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert "embed" not in table.index


def test_weights_that_are_no_numbers_are_refused(pair: tuple[Path, Path]) -> None:
    tensors = load_file(pair[1] / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, pair[1] / "model.safetensors")
    with pytest.raises(LensrlError, match=r"trained: model\.norm\.weight holds a NaN or an infinity"):
        compare_models(*pair)

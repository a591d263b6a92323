"""Exports that are large, interrupted or refused: no half folder is left, and no other one is touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import lensrl
from lensrl import LensrlError, Study, open_study
from lensrl.compare import export
from lensrl.compare.patching.graft import graft, run_weights
from lensrl.models.base import Base, load_base
from tests.compare.test_export import opened, planted_study, same
from tests.families import FAMILIES, save
from tests.store.synthetic import add_run, make_study


def test_large_weights_are_written_in_shards(
    base: Base, small_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PreTrainedModel.save_pretrained
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", lambda m, to: whole(m, to, max_shard_size="1MB"))
    folder = lensrl.save_pretrained(small_study, "full-rl", tmp_path / "out")
    assert len([*folder.glob("model-*.safetensors")]) > 2
    assert same(opened(folder), run_weights(small_study["full-rl"], base))


def test_an_interrupted_export_leaves_nothing(
    small_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> str:
        assert any(path.suffix == ".safetensors" for path in tmp_path.rglob("*")), "the weights are written by now"
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "model_card", stop)
    with pytest.raises(KeyboardInterrupt):
        lensrl.save_pretrained(small_study, "full-rl", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_files_that_open_to_other_weights_are_not_exported(
    small_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PreTrainedModel.save_pretrained

    def wrong(model: PreTrainedModel, folder: Path) -> None:
        with torch.no_grad():
            model.get_parameter("model.norm.weight")[0] += 1
        whole(model, folder)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", wrong)
    with pytest.raises(LensrlError, match="other weights than were written"):
        lensrl.save_pretrained(small_study, "full-rl", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_left_alone(small_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(LensrlError, match="is not empty: name a new folder"):
        lensrl.save_pretrained(small_study, "full-rl", tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["mine.txt"]
    with pytest.raises(LensrlError, match="is a file: name a new folder"):
        lensrl.save_pretrained(small_study, "full-rl", tmp_path / "full" / "mine.txt")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(LensrlError, match="is the folder you are in"):
        lensrl.save_pretrained(small_study, "full-rl", ".")
    monkeypatch.chdir(tmp_path)
    assert lensrl.save_pretrained(small_study, "layer-3", "empty") == tmp_path / "empty"
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_a_run_that_diverged_has_no_weights(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s")
    add_run(folder, "base", {"only": [0.0, 1.0]})
    add_run(folder, "full-rl", None, status="diverged", reason="the loss is not a number in step 3")
    with open_study(folder) as study:
        with pytest.raises(LensrlError, match=r"no weights .* the loss is not a number in step 3"):
            lensrl.save_pretrained(study, "full-rl", tmp_path / "out")
        with pytest.raises(LensrlError, match="no weights: the loss is not a number in step 3"):
            lensrl.load_model(study["full-rl"])
        with pytest.raises(LensrlError, match="the loss is not a number"):
            lensrl.graft(study, 0)
    assert os.listdir(tmp_path) == ["s"]


def test_another_base_is_refused(tmp_path: Path) -> None:
    source = Path(save(FAMILIES["qwen3"], tmp_path / "base"))
    study, _ = planted_study(tmp_path, load_base(str(source)))
    other = load_base(str(source)).fresh()
    with torch.no_grad():
        other.get_parameter("model.norm.weight")[0] += 1
    other.save_pretrained(source)
    with study:
        with pytest.raises(LensrlError, match="was made from another base model"):
            lensrl.save_pretrained(study, "full-rl", tmp_path / "out")
        shutil.rmtree(source)
        with pytest.raises(LensrlError, match="no model folder at"):
            lensrl.load_model(study["full-rl"])
    assert not (tmp_path / "out").exists()


def test_seeds_are_found_by_the_rule_of_all_functions(uneven_seeds: Study, base: Base) -> None:
    """full-rl has seeds 0 and 1, layer-3 seed 1 alone: layer 3 of layer-3 can only be put into full-rl's seed 1."""
    grafted = lensrl.graft(uneven_seeds, 3, from_run="layer-3", into_run="full-rl").model
    donor, into = (run_weights(uneven_seeds[name, 1], base) for name in ("layer-3", "full-rl"))
    assert same(grafted, graft(base, into, donor, [3]))


def test_what_is_not_there_is_refused(small_study: Study, tmp_path: Path) -> None:
    for arguments, expected in (
        ({"layers": 9}, "layer 9 is out of range"),
        ({"layers": []}, "no layers are named"),
        ({"layers": "3,embd"}, "'embd' is not a layer"),
        ({"layers": "lm_head"}, "have the same weights in lm_head: the graft would be 'base'"),
        ({"layers": 3, "into_run": "full-rl"}, "choose another run with --into"),
        ({"into_run": "base"}, "needs the layers to put there"),
        ({"seed": 4}, "no full-rl with seed 4"),
        ({"dtype": "int8"}, "dtype='int8'"),
    ):
        with pytest.raises(LensrlError, match=expected):
            lensrl.save_pretrained(small_study, "full-rl", tmp_path / "out", **arguments)  # pyright: ignore
    assert os.listdir(tmp_path) == []

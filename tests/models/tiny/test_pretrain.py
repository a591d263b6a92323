"""The shipped model is what the script makes, and as good at each world as its record says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from lensrl.models.base import load_base
from lensrl.models.tiny import pretrain
from lensrl.models.tiny.pretrain import SIZES, batch, character_tokenizer, configuration, sampled_accuracy

FOLDERS = {family: Path(str(resources.files("lensrl.models.tiny") / family)) for family in SIZES}
RECORDS = {family: json.loads((folder / "pretraining.json").read_text()) for family, folder in FOLDERS.items()}
CLASSES = {"qwen3": "Qwen3ForCausalLM", "qwen2.5": "Qwen2ForCausalLM", "qwen3-deep": "Qwen3ForCausalLM"}
families = pytest.mark.parametrize("family", FOLDERS)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A second thread gains little on so small a model, and on a busy machine costs tenfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@families
def test_the_shipped_tokenizer_is_the_character_tokenizer(tmp_path: Path, family: str) -> None:
    tokenizer = character_tokenizer()
    assert len(tokenizer) == 3 + 1 + 95  # special tokens, newline, printable ASCII
    tokenizer.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    for made in tmp_path.iterdir():
        written, shipped = (json.loads(path.read_text()) for path in (made, FOLDERS[family] / made.name))
        assert shipped == written


@families
def test_the_shipped_configuration_is_the_scripts(tmp_path: Path, family: str) -> None:
    configuration(family, character_tokenizer()).save_pretrained(tmp_path)
    made, shipped = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, FOLDERS[family]))
    of_saving = {"architectures", "dtype", "transformers_version"}  # written with the weights
    assert {k: v for k, v in shipped.items() if k not in of_saving} == {
        k: v for k, v in made.items() if k not in of_saving
    }
    assert (shipped["architectures"], shipped["dtype"]) == ([CLASSES[family]], "float32")


@families
def test_the_shipped_weights_are_those_of_the_configuration(family: str) -> None:
    model = AutoModelForCausalLM.from_config(configuration(family, character_tokenizer()))
    expected = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    with safe_open(FOLDERS[family] / "model.safetensors", "pt") as file:
        tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == expected
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values())


def test_an_unknown_model_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain", "qwen4", "--out", "x"])
    with pytest.raises(SystemExit):
        pretrain.main()
    assert re.search("invalid choice: 'qwen4'.*qwen3.*qwen2.5.*qwen3-deep", capsys.readouterr().err)


def test_prompts_carry_loss_only_where_they_should() -> None:
    tokenizer, documents = character_tokenizer(), ["47+38=75", "10+10=20"]
    whole, answers = batch(tokenizer, documents)["labels"], batch(tokenizer, documents, "=")["labels"]
    assert [tokenizer.decode(row[row >= 0]) for row in whole] == [f"{text}<eos>" for text in documents]
    assert [tokenizer.decode(row[row >= 0]) for row in answers] == ["75<eos>", "20<eos>"]
    (lines,) = batch(tokenizer, ["1:5 4:11 7:17 x:2*x+3"], " x:")["labels"]
    assert tokenizer.decode(lines[lines >= 0]) == "2*x+3<eos>"


@pytest.mark.usefixtures("one_thread")
def test_the_script_writes_a_folder_that_loads_and_has_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "made"
    fewer = replace(SIZES["qwen3"], documents={"addition": 8, "expression": 4, "corridor": 1})
    monkeypatch.setitem(SIZES, "qwen3", fewer)
    monkeypatch.setattr(pretrain, "sampled_accuracy", lambda model, tokenizer, *, seed: {"addition": seed / 4})
    monkeypatch.setattr(sys, "argv", ["pretrain", "qwen3", "--out", str(out), "--steps", "2", "--seed", "3"])
    pretrain.main()
    assert {path.name for path in out.iterdir()} == {path.name for path in FOLDERS["qwen3"].iterdir()}
    record: dict[str, Any] = json.loads((out / "pretraining.json").read_text())
    assert record.keys() == RECORDS["qwen3"].keys()
    assert record["command"] == "python -m lensrl.models.tiny.pretrain qwen3 --steps 2 --seed 3"
    assert record["documents_per_step"] == {"addition": 8, "expression": 4, "corridor": 1}
    assert record["sampled_accuracy"] == {"addition": 0.75}
    made = load_base(str(out))
    torch.manual_seed(3)
    start = dict(AutoModelForCausalLM.from_config(configuration("qwen3", character_tokenizer())).named_parameters())
    assert made.weights.keys() == start.keys()
    for name, weights in made.weights.items():
        assert weights.isfinite().all()
        assert not torch.equal(weights, start[name]), f"{name} was not trained"
        torch.testing.assert_close(weights, start[name], atol=1e-3, rtol=0)  # two steps of the warm-up are small


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@families
def test_the_shipped_model_is_as_right_as_its_record_and_has_room_to_improve(family: str) -> None:
    base = load_base(f"tiny:{family}")
    tokenizer: Any = base.tokenizer
    accuracy = sampled_accuracy(base.model, tokenizer, seed=0)
    assert accuracy == pytest.approx(RECORDS[family]["sampled_accuracy"], abs=0.03)
    assert set(accuracy) == {"addition", "expression", "corridor"}
    least = {("qwen3-deep", "expression"): 0.1}  # it was pre-trained on few expressions
    assert all(least.get((family, world), 0.3) <= share <= 0.65 for world, share in accuracy.items()), accuracy

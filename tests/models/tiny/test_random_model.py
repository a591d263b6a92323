"""runs/gsm8k-random.toml as a person runs it, on ten problems: every step is taken, and nothing is claimed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lensrl.models.base import load_base
from lensrl.models.tiny.random_model import random_qwen3
from lensrl.store.study import open_study
from tests.cli.typed import lensrl

ROOT = Path(__file__).parents[3]
PROBLEMS = ROOT / "tests" / "data" / "gsm8k-10.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/` with the recipe, the data where its comment says, and the model made by the command that it gives."""
    runs = tmp_path_factory.mktemp("gsm8k")
    data = runs / "data" / "gsm8k"
    data.mkdir(parents=True)
    for name in ("train", "test"):
        shutil.copy(PROBLEMS, data / f"{name}.jsonl")
    shutil.copy(ROOT / "runs" / "gsm8k-random.toml", runs)
    command = [sys.executable, "-m", "lensrl.models.tiny.random_model", "--text", data / "train.jsonl"]
    subprocess.run([*command, "--out", runs / "data" / "random-qwen3"], check=True, capture_output=True)
    return runs


def test_the_tokenizer_writes_every_problem_and_reads_it_back(folder: Path) -> None:
    tokenizer = load_base(str(folder / "data" / "random-qwen3")).tokenizer
    for line in PROBLEMS.read_text(encoding="utf-8").splitlines():
        for text in json.loads(line).values():
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.decode(tokenizer("né ≠ 数")["input_ids"]) == "né ≠ 数", "bytes that were not in the text"


def test_the_same_text_and_seed_give_the_same_model(folder: Path, tmp_path: Path) -> None:
    random_qwen3(PROBLEMS, tmp_path / "again")
    random_qwen3(PROBLEMS, tmp_path / "other", seed=1)
    folders = (folder / "data" / "random-qwen3", tmp_path / "again", tmp_path / "other")
    one, again, other = (load_base(str(path)) for path in folders)
    assert one.fingerprint == again.fingerprint != other.fingerprint


def test_a_text_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lensrl.models.tiny.random_model",
        "--text",
        tmp_path / "no.jsonl",
        "--out",
        tmp_path / "model",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"text file {tmp_path / 'no.jsonl'} cannot be read: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_recipe_runs_to_its_end_and_the_contributions_are_undefined(folder: Path) -> None:
    study = folder / "study"
    done = lensrl("run", folder / "gsm8k-random.toml", "--out", study)
    assert (done.returncode, done.stderr) == (0, "")
    with open_study(study) as opened:
        names = [name for name, _ in opened.runs]
        assert sorted(names) == ["base", "full-rl", *(f"layer-{layer}" for layer in range(4))]
        assert {run.status for run in opened.runs.values()} == {"completed"}
    shown = lensrl("contribution", study)
    assert shown.returncode == 0
    assert "all layers undefined: the interval of S_full - S_base contains 0" in shown.stdout

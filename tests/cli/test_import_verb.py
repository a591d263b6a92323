"""`lensrl import` and two models in place of a study, as a person types them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensrl.models.base import load_base
from tests.cli.typed import lensrl

BASE = "tiny:qwen3"
SCORES = {"base": [0, 1, 0, 0, 1, 0, 0, 0] * 5, "full-rl": [1, 1, 1, 0, 1, 1, 1, 0] * 5, "layer-3": [1, 1, 0, 0] * 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained models, and the results that a harness made of them and of the base: two metrics of 40 items."""
    folder, good = tmp_path_factory.mktemp("elsewhere"), load_base(BASE)
    generator = torch.Generator().manual_seed(0)
    noise = {n: 0.02 * torch.randn(w.shape, generator=generator) for n, w in good.weights.items() if w.ndim > 1}
    for name, layers in (("full", range(8)), ("l3", [3])):
        moved = {n: good.weights[n] + by for n, by in noise.items() if good.blocks.layer(n) in layers}
        model: Any = good.fresh(moved)
        model.save_pretrained(folder / name)
    for run, scores in SCORES.items():
        rows = [
            {"doc_id": i, "filter": "none", "metrics": ["acc", "acc_norm"], "doc_hash": f"d{i}", "prompt_hash": f"p{i}",
             "target_hash": f"t{i}", "acc": score, "acc_norm": 0.5}
            for i, score in enumerate(scores)
        ]  # fmt: skip
        (folder / f"{run}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "t.txt").write_text("a first text\nthe second\nand a third\n")
    return folder


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    done = lensrl("import", BASE, "full", "--layer-3", "l3", "--out", "runs/x", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "study runs/x: tiny:qwen3, texts, 2 runs from checkpoints" in done.stdout
    assert "all 3 runs done in runs/x" in done.stdout
    assert "next: lensrl deltas runs/x --run full-rl, lensrl cka runs/x --into full-rl" in done.stdout
    return folder / "runs" / "x"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["show"], "layer-3"),
        (["deltas"], "Weight deltas of full-rl, x"),
        (["cka", "--into", "layer-3"], "base and layer-3 at block_out, x"),
        (["patch", "--layer", "3", "--what", "weights"], "A graft is measured by log p alone, without a score"),
        (["report"], "report.html"),
        (["verify"], "files are good"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_verbs_work_without_scores(study: Path, typed: list[str], said: str) -> None:
    done = lensrl(typed[0], study, *typed[1:])
    assert done.returncode == 0, done.stderr
    assert said in " ".join(done.stdout.split())


@pytest.mark.parametrize("verb", ["contribution", "correlate", "bottleneck", "agree"])
def test_verbs_that_need_scores_say_what_to_type(study: Path, verb: str) -> None:
    done = lensrl(verb, study, *([study] if verb == "agree" else []))
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1
    assert re.search("has no scores.* lensrl import tiny:qwen3 TRAINED --task math --test FILE --out DIR", done.stderr)


def test_cka_of_two_models_is_that_of_their_study(study: Path, folder: Path) -> None:
    files = sorted(path.name for path in folder.rglob("*"))
    kept = lensrl("cka", study, "--json").stdout
    assert json.loads(lensrl("cka", BASE, "full", "--json", cwd=folder).stdout) == json.loads(kept)
    table = lensrl("cka", BASE, "full", cwd=folder).stdout.split("\n", 1)
    assert table[0].strip() == "tiny:qwen3 and full at block_out, on built-in texts"
    assert table[1] == lensrl("cka", study).stdout.split("\n", 1)[1]
    other = lensrl("cka", BASE, "full", "--texts", "t.txt", "--pairs", "token", "--json", cwd=folder).stdout
    assert json.loads(other) != json.loads(kept)
    assert sorted(path.name for path in folder.rglob("*")) == files


def test_scores_of_the_harness_give_the_contribution(folder: Path) -> None:
    scores = [word for run in SCORES for word in ("--scores", f"{run}={run}.jsonl")]
    typed = ["import", BASE, "full", "--layer-3=l3", *scores, "--out", "runs/harness"]
    done = lensrl(*typed, cwd=folder)
    assert done.returncode == 2
    assert "base.jsonl: 2 metrics: acc, acc_norm; choose one: --metric acc" in done.stderr
    done = lensrl(*typed, "--metric", "acc", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "full-rl seed 0 score 0.750" in " ".join(done.stdout.split())
    (row,) = json.loads(lensrl("contribution", folder / "runs" / "harness", "--json").stdout)["layers"]
    base, full, layer = (np.mean(SCORES[run]) for run in SCORES)
    assert row["contribution"] == pytest.approx((layer - base) / (full - base), abs=1e-6)
    assert row["low"] < row["contribution"] < row["high"]
    # One layer has a contribution: no predictor differs between layers.
    done = lensrl("report", folder / "runs" / "harness")
    assert (done.returncode, done.stderr) == (0, "")
    done = lensrl("correlate", folder / "runs" / "harness", "--panels", "--figure", folder / "panels.png")
    assert done.returncode == 2
    assert "no predictor differs between layers" in done.stderr
    # Results that changed are another study's: their hash is kept.
    file = folder / "layer-3.jsonl"
    file.write_text(file.read_text().replace('"acc": 0', '"acc": 1'))
    again = lensrl(*typed, "--metric", "acc", cwd=folder)
    assert again.returncode == 2
    assert "with scores" in again.stderr
    assert "move it away and run again" in again.stderr


def test_with_a_task_the_models_are_scored(folder: Path) -> None:
    done = lensrl("import", BASE, "l3", "--as", "layer-3", "--task", "arithmetic", "--out", "runs/task", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"layer-3 +seed 0 +score 0\.\d+", done.stdout)
    rows = lensrl("patch", folder / "runs" / "task", "--from", "layer-3", "--layer", "3", "--what", "weights", "--json")
    assert {row["metric"] for row in json.loads(rows.stdout)} == {"score", "reference_logprob"}
    done = lensrl("contribution", folder / "runs" / "task")
    assert done.returncode == 2
    assert "has no run 'full-rl'" in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["full"], "Missing option '--out'"),
        (["full", "--out", ""], "the name is empty"),
        (["full", "--out", "x", "--layer-3"], "--layer-3 needs a model: --layer-3 FOLDER"),
        (["full", "--out", "x", "--layer-3", "l3", "--layer-3", "l3"], "two models are layer-3: seeds of one run need"),
        (["full", "--out", "x", "--run", "l3"], "--run l3: write --run RUN=MODEL"),
        (["full", "--out", "x", "--scores", "s.jsonl"], "write --scores RUN=FILE, such as --scores layer-20=FILE"),
        (["l3", "--out", "x", "--as", "layer-2"], "said to train layer 2, and in .* moved, too"),
        (["nowhere", "--out", "x"], "no checkpoint folder at nowhere"),
        (["full/model.safetensors", "--out", "x"], "full/model.safetensors is a file; give the folder"),
        (["full", "--out", "full/config.json"], "full/config.json is a file and the study needs a folder"),
        (["full", "--out", "l3"], "l3 is the folder of a model"),
        (["full", "--out", "x", "--layer-9", "l3"], "layer 9 is out of range"),
    ],
)
def test_what_is_wrong_is_one_line(folder: Path, words: list[str], complaint: str) -> None:
    done = lensrl("import", BASE, *words, cwd=folder)
    assert done.returncode == 2
    assert re.search(complaint, done.stderr.replace("\n", " "))
    assert done.stderr.count("\n") == 1
    assert not (folder / "x").exists()


@pytest.mark.parametrize("words", [["show", ""], ["contribution", ""], ["deltas", ""], ["run", "x.toml", "--out", ""]])
def test_an_empty_name_is_not_the_working_folder(words: list[str]) -> None:
    done = lensrl(*words)
    assert done.returncode == 2
    assert "the name is empty: give a folder or a file" in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["full", "--into", "full-rl"], "two models have no runs: leave out --into"),
        (["full", "--seed", "0"], "two models have no runs: leave out --seed"),
        (["full", "--site", "blok_out"], "no activations at 'blok_out'; did you mean 'block_out'"),
        (["full", "--texts", "no.txt"], "texts no.txt cannot be read"),
        (["--texts", "t.txt"], "--texts is for two models"),
    ],
)
def test_cka_of_two_models_refuses_in_one_line(folder: Path, words: list[str], complaint: str) -> None:
    done = lensrl("cka", BASE, *words, cwd=folder)
    assert done.returncode == 2
    assert re.search(complaint, done.stderr)
    assert done.stderr.count("\n") == 1

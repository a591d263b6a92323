"""Two models in place of a study, as a person types them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lensrl.models.base import load_base
from tests.cli.typed import lensrl


def test_deltas_of_two_models_need_no_study(tmp_path: Path) -> None:
    model: Any = load_base("tiny:qwen3").fresh()
    model.resize_token_embeddings(112, mean_resizing=False)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "trained")
    done = lensrl("deltas", "tiny:qwen3", "trained", "--csv", "deltas.csv", "--figure", "deltas.png", cwd=tmp_path)
    assert "Weight deltas from tiny:qwen3 to trained" in done.stdout
    assert re.search(r"Stored in float32 \(base\) and bfloat16 \(trained\).* of the entries moved", done.stdout)
    said = " ".join(done.stdout.split())
    assert "The base has 99 rows of embeddings and the trained model 112: the first 99 are compared" in said
    assert "Rounding alone: the norm of the errors of rounding to the stored types" in said
    assert done.stderr.splitlines() == ["table: deltas.csv", "figure: deltas.png"]
    with (tmp_path / "deltas.csv").open() as file:
        assert [row["layer"] for row in csv.DictReader(file)] == [*map(str, range(8)), "", ""]
    rows = json.loads(lensrl("deltas", "tiny:qwen3", "trained", "--by", "component", "--json", cwd=tmp_path).stdout)
    assert {row["trained_dtype"] for row in rows} == {"bfloat16"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deltas.csv", "deltas.png", "trained"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["tiny:qwen3", "--run", "full-rl"], "two models have no runs: leave out --run"),
        (["tiny:qwen3", "--seed", "0"], "two models have no runs: leave out --seed"),
        (["nowhere"], "no checkpoint folder at nowhere"),
        (["tiny:qwen2.5"], "is another model than checkpoint .*qwen3: model_type is 'qwen2' there"),
    ],
)
def test_deltas_of_two_models_refuse_in_one_line(words: list[str], complaint: str) -> None:
    done = lensrl("deltas", "tiny:qwen3", *words)
    assert done.returncode == 2
    assert re.search(complaint, done.stderr)
    assert done.stderr.count("\n") == 1


def test_a_model_beside_itself_is_named_so(tmp_path: Path) -> None:
    for verb in ("deltas", "cka"):
        done = lensrl(verb, "tiny:qwen3", "tiny:qwen3")
        assert done.returncode == 0, done.stderr
        assert "tiny:qwen3 equals tiny:qwen3 in every tensor." in done.stdout
    load_base("tiny:qwen3").model.save_pretrained(tmp_path / "same")
    done = lensrl("import", "tiny:qwen3", "same", "--out", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search("checkpoints.full-rl: .*same equals the base, tiny:qwen3, in every tensor", done.stderr)
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["same"]

"""`lensrl show RUN --completions`, as a person types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lensrl_cli import completions, output
from rich.console import Console

from lensrl import open_study
from lensrl.store.completions import Completions
from tests.cli.test_verbs import assert_one_line
from tests.cli.typed import lensrl
from tests.store.synthetic import PARAMETERS, before_weights, header, score_arrays, write_run

RELEASED = Path(__file__).parents[1] / "store" / "released"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(highlight=False, width=80, force_terminal=True, color_system=None)
    for module in (output, completions):
        monkeypatch.setattr(module, "console", console)


def printed(*arguments: object) -> str:
    done = lensrl("show", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_changed_stands_beside_the_base(small_study_folder: Path) -> None:
    path = small_study_folder / "full-rl.seed-0.h5"
    with open_study(small_study_folder) as study:
        table = study.completions("full-rl")
        base, run = (
            study["base"].scores_by_item().set_index("item")["score"],
            study["full-rl"].scores_by_item().set_index("item")["score"],
        )
    changed = run.index[run != base]
    text = printed(path, "--completions", "--changed", "--full")
    assert f"{(run > base).sum()} items of 48 score higher, {(run < base).sum()} lower" in text
    blocks = text.split("\n\n")[1:]
    assert len(blocks) == len(changed) > 2
    steps = [abs(run[block.split("=")[0]] - base[block.split("=")[0]]) for block in blocks]
    assert steps == sorted(steps, reverse=True)
    for block in blocks:
        head, of_base, of_run = block.strip().splitlines()
        item = head.split("=")[0]
        assert f"score {base[item]:.2f} → {run[item]:.2f}" in head
        rows = table[table["item"] == item]
        for line, prefix in ((of_base, "base_"), (of_run, "")):
            for answer, score in zip(rows[f"{prefix}completion"], rows[f"{prefix}score"], strict=True):
                assert f"{answer} {'✓' if score else '✗'}" in line


def test_rows_as_json_and_csv_are_those_of_python(small_study_folder: Path, tmp_path: Path) -> None:
    path = small_study_folder / "layer-3.seed-0.h5"
    with open_study(small_study_folder) as study:
        table = study.completions("layer-3")
    rows = json.loads(printed(path, "--completions", "--json", "--csv", tmp_path / "all.csv"))
    assert rows == json.loads(table.to_json(orient="records"))
    assert len(pd.read_csv(tmp_path / "all.csv")) == 48 * 2
    wrong = json.loads(printed(path, "--completions", "--wrong", "--json"))
    assert {row["item"] for row in wrong} == {*table.loc[table["score"] < 1, "item"]}
    one = json.loads(printed(path, "--completions", "--item", table.loc[0, "item"], "--json"))
    assert [row["sample"] for row in one] == [0, 1]


def test_long_texts_are_folded_and_cut(tmp_path: Path, narrow: None, capsys: pytest.CaptureFixture[str]) -> None:
    long = "therefore x = 4, and so \x1b[31mit goes on " * 60
    scores = score_arrays(np.array([[0.0, 1.0], [1.0, 1.0]]))
    object.__setattr__(scores, "completions", Completions(["Find x.\nNow."] * 2, ["4"] * 2, [[long, "4"], ["4", "4"]]))
    write_run(tmp_path / "base.h5", header("base"), PARAMETERS, before_weights(), scores=scores)
    text = printed(tmp_path / "base.h5", "--completions", "--wrong") + capsys.readouterr().out
    assert "item-0   score 0.50" in text
    assert "base, sample 0 ✗ 1 tokens:" in text
    assert "more lines of 2,400 characters: --full" in text
    assert "1 more sample: --full" in text
    assert "\x1b[31m" not in text
    assert max(map(len, text.splitlines())) <= 80
    whole = printed(tmp_path / "base.h5", "--completions", "--wrong", "--full") + capsys.readouterr().out
    assert " ".join(whole.split()).count("goes on") == 60
    assert "item-1" not in whole


def test_a_run_without_its_base_stands_alone(small_study_folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(small_study_folder / "full-rl.seed-0.h5", tmp_path))
    text = printed(path, "--completions")
    assert f"alone: there is no {tmp_path}/base.h5" in text
    assert "38 more items: --item ID for one, --full for all" in text
    shutil.copy(RELEASED / "run-2.h5", tmp_path / "base.h5")
    assert "base.h5 is another base model" in printed(path, "--completions")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("base.h5", ["--changed"], "--changed compares a run with its base, and this is the base"),
        ("base.h5", ["--item", "47+"], "no item '47+'"),
        (".", [], "--completions are of one run, and"),
        ("base.h5/scores", [], "--completions are of one run, and"),
    ],
)
def test_a_mistake_is_one_line(small_study_folder: Path, name: str, options: list[str], said: str) -> None:
    assert_one_line(lensrl("show", small_study_folder / name, "--completions", *options), said)


def test_options_of_completions_need_it(small_study_folder: Path) -> None:
    path = small_study_folder / "base.h5"
    assert_one_line(lensrl("show", path, "--wrong"), "--wrong is an option of --completions")
    assert_one_line(lensrl("show", RELEASED / "run-2.h5", "--completions"), "has no completions: its format version 2")

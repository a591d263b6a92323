"""`lensrl agree` as a person types it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.typed import lensrl
from tests.judge.test_verdict_of_studies import write_study

PUBLISHED = Path(__file__).parents[2] / "runs" / "published" / "qwen3-1.7b-grpo-math.csv"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("agree") / "rise", np.linspace(0.2, 1.0, 8), 2)


def test_a_study_and_a_table_have_a_row_an_interval_and_whose_errors_it_carries(study: Path) -> None:
    done = lensrl("agree", study, "--contributions", PUBLISHED)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2].split()[:4] == ["1", "rise", "8", "2"]
    row = next(line for line in lines if line.lstrip().startswith("1–2 "))
    pair = json.loads(lensrl("agree", study, "--contributions", PUBLISHED, "--json").stdout)["pairs"][0]
    ends = "spearman", "spearman_low", "spearman_high"
    assert "{:.2f} [{:.2f}, {:.2f}]".format(*(pair[end] for end in ends)) in row
    assert row.split()[-1] == "–", "eight layers are too few beyond a trend in depth"
    assert pair["beyond_depth"] is None
    assert "the errors of 2 are those of its columns low and high" in done.stdout
    assert "Profiles with different layers are compared at the relative depths of the shorter profile." in lines


def test_the_table_and_the_heat_map_are_saved_and_json_has_no_nan(study: Path, tmp_path: Path) -> None:
    files = [tmp_path / "pairs.csv", tmp_path / "map.png"]
    nothing = write_study(tmp_path / "nothing", np.linspace(0.2, 1.0, 8), 2, gain=0.0)
    done = lensrl("agree", study, nothing, "--contributions", PUBLISHED, "--json", "--csv", files[0],
                  "--figure", files[1])  # fmt: skip
    found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [s["study"] for s in found["studies"]] == ["rise", "nothing", "qwen3-1.7b-grpo-math"]
    assert [pair["status"] for pair in found["pairs"]] == ["undefined", "defined", "undefined"]
    assert found["pairs"][0]["spearman"] is None
    with files[0].open() as file:
        assert [(row["first"], row["second"]) for row in csv.DictReader(file)] == [
            (pair["first"], pair["second"]) for pair in found["pairs"]
        ]
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert done.stderr.splitlines() == [f"table: {files[0]}", f"figure: {files[1]}"]
    shown = lensrl("agree", study, nothing).stdout
    assert "2 has no profile to compare: undefined: the interval of S_full - S_base contains 0" in shown


def test_what_cannot_be_compared_is_one_line_and_exit_code_2(study: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("layer,contribution\n0,0.5\n")
    for given, expected in (
        ([study], "1 profile given, agreement needs at least two"),
        ([], "0 profiles given"),
        ([study, "nowhere"], "no study folder at nowhere"),
        ([study, tmp_path], "is not a study"),
        ([study, "--contributions", tmp_path / "one.csv"], "needs at least three layers, numbered from 0"),
        ([study, study], "is given twice"),
        ([study, study, "--figure", "map.gif"], "cannot save a figure as 'map.gif'"),
    ):
        done = lensrl("agree", *given)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert expected in done.stderr


def test_the_verdict_on_a_table_may_stand_beside_a_study(study: Path, tmp_path: Path) -> None:
    done = lensrl("bottleneck", "--contributions", PUBLISHED, "--beside", study, "--json")
    claim = next(c for c in json.loads(done.stdout)["claims"] if c["claim"] == "stability")
    assert claim["reason"].startswith("rise: 8 layers with both values: beyond a trend in depth at least 24")
    done = lensrl("bottleneck", "--contributions", PUBLISHED, "--beside", tmp_path / "gone.csv")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "gone.csv cannot be read as a table" in done.stderr

"""`lensrl bottleneck` as a person types it: on the published table, on a study, on what it cannot judge."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from lensrl import Study, open_study
from lensrl.errors import LensrlError
from lensrl.judge.claims import CLAIMS
from lensrl.judge.verdict import Verdict, verdict
from tests.cli.typed import lensrl

PUBLISHED = Path(__file__).parents[2] / "runs" / "published" / "qwen3-1.7b-grpo-math.csv"


def test_the_published_profile_falls_and_its_rise_is_not_certain() -> None:
    done = lensrl("bottleneck", "--contributions", PUBLISHED, "--json")
    found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    claims = {claim["claim"]: claim for claim in found["claims"]}
    assert list(claims) == [claim.name for claim in CLAIMS]
    shape = claims["shape"]
    assert shape["verdict"] == "undetermined"
    assert shape["low"] < 0 < shape["value"] < shape["high"]
    assert shape["details"]["fall"]["low"] > 0.3
    assert claims["middle"]["verdict"] == "supported"
    assert 0 < claims["middle"]["low"] < 0.05
    untested = [claim for claim in claims.values() if claim["reason"]]
    assert {claim["value"] for claim in untested} == {None}
    assert len(untested) == 5


def test_the_terminal_states_every_claim_before_its_numbers() -> None:
    done = lensrl("bottleneck", "--contributions", PUBLISHED)
    assert done.returncode == 0, done.stderr
    found = verdict(PUBLISHED)
    lines = done.stdout.splitlines()
    for claim in found.claims:
        (at,) = (i for i, line in enumerate(lines) if claim.statement in line)
        assert lines[at].split()[0] == claim.verdict
        assert lines[at].split()[-1] == (
            "–" if math.isnan(claim.p) else "<0.001" if claim.p < 0.001 else f"{claim.p:.3f}"
        )
        assert lines[at + 1].startswith(claim.name)
        assert (claim.reason or claim.measure) in lines[at + 1]
    assert all(sentence in done.stdout for sentence in found.robustness)
    assert all(limit in done.stdout for limit in found.limits)


def test_the_table_and_the_figure_are_saved(tmp_path: Path) -> None:
    files = [tmp_path / "verdict.csv", tmp_path / "verdict.png"]
    done = lensrl("bottleneck", "--contributions", PUBLISHED, "--json", "--csv", files[0], "--figure", files[1])
    assert json.loads(done.stdout)
    assert done.stderr.splitlines() == [f"table: {files[0]}", f"figure: {files[1]}"]
    with files[0].open() as file:
        rows = {row["claim"]: row for row in csv.DictReader(file)}
    assert list(rows) == [claim.name for claim in CLAIMS]
    assert rows["shape"]["verdict"] == "undetermined"
    assert float(rows["shape"]["value"]) == pytest.approx(0.24, abs=0.01)
    assert rows["causal"]["value"] == ""
    assert "details" not in rows["shape"]
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_the_profile_of_a_table_says_where_its_intervals_come_from(tmp_path: Path) -> None:
    done = lensrl("contribution", "--contributions", PUBLISHED, "--figure", tmp_path / "c.png")
    assert "estimated from the roughness of the profile" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines()[2:5]] == ["0.89", "0.87", "1.03"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads(lensrl("contribution", "--contributions", PUBLISHED, "--json").stdout)["layers"]
    assert [row["layer"] for row in rows] == list(range(28))
    given = tmp_path / "given.csv"
    given.write_text("layer,contribution,low,high\n0,0.5,0.4,0.6\n1,0.7,0.6,0.8\n2,0.9,0.8,1.0\n")
    done = lensrl("contribution", "--contributions", given)
    assert "0.40 … 0.60" in done.stdout
    assert "Intervals come from the file." in done.stdout


@pytest.fixture
def without_a_base_model() -> Iterator[None]:
    with patch("lensrl.base_rivals", side_effect=LensrlError("no model folder at ./gone"), create=True):
        yield


@pytest.mark.usefixtures("without_a_base_model")
def test_a_small_study_is_judged_or_refused_in_one_line(small_study_folder: Path) -> None:
    done = lensrl("bottleneck", small_study_folder, "--json")
    with open_study(small_study_folder) as study:
        expected, refused = judged_or_refused(study)
    if expected is not None:
        claims = json.loads(done.stdout)["claims"]
        assert [claim["verdict"] for claim in claims] == [claim.verdict for claim in expected.claims]
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert refused in done.stderr.splitlines()[-1]


def judged_or_refused(study: Study) -> tuple[Verdict | None, str]:
    """What four steps of training leave to judge is not certain; that Python and the command agree is."""
    try:
        return verdict(study), ""
    except LensrlError as error:
        return None, " ".join(str(error).split())


@pytest.mark.usefixtures("without_a_base_model")
def test_a_base_that_cannot_be_loaded_costs_the_rivals_and_not_the_answer(
    small_study_folder: Path, tmp_path: Path
) -> None:
    without = shutil.ignore_patterns("rivals.json")  # another test may have measured them
    folder = shutil.copytree(small_study_folder, tmp_path / "study", ignore=without)
    done = lensrl("correlate", folder)
    assert done.returncode == 0, done.stderr
    assert "without the rivals from the base model: no model folder at ./gone" in done.stdout
    assert "bypass cost" not in done.stdout
    quiet = lensrl("correlate", folder, "--json")
    assert {row["predictor"] for row in json.loads(quiet.stdout)} >= {"depth", "delta_full"}
    assert quiet.stderr.count("no model folder at ./gone") == 1


BAD = {
    "letters": ("layer,contribution\na,b\n", "needs at least three layers, numbered from 0"),
    "another column": ("layer,gain\n0,1\n", "has no column 'contribution', only layer, gain"),
    "empty": ("", "cannot be read as a table"),
}


@pytest.mark.parametrize("verb", ["bottleneck", "contribution"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_one_line_and_exit_code_2(verb: str, case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    (tmp_path / "bad.csv").write_text(text)
    done = lensrl(verb, "--contributions", tmp_path / "bad.csv")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert expected in done.stderr


@pytest.mark.parametrize("verb", ["bottleneck", "contribution"])
def test_a_study_or_a_table_and_not_both_or_neither(verb: str, tmp_path: Path) -> None:
    for given, expected in (
        ([], "give a STUDY, or a table with --contributions FILE"),
        ([tmp_path, "--contributions", PUBLISHED], "give either a STUDY or --contributions FILE, not both"),
        (["--contributions", tmp_path / "none.csv"], "none.csv cannot be read as a table"),
        (["nowhere"], "no study folder at nowhere"),
    ):
        done = lensrl(verb, *given)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert expected in done.stderr


def test_a_table_has_no_seeds() -> None:
    done = lensrl("contribution", "--contributions", PUBLISHED, "--seed", 1)
    assert (done.returncode, "--seed is for a STUDY" in done.stderr) == (2, True)

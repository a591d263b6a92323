"""`lensrl patch` as it is typed: sets of layers, parts of a layer, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from lensrl_cli.patch import patch

from tests.cli.typed import lensrl


def test_the_example_in_the_help_runs_as_typed(small_study_folder: Path, tmp_path: Path) -> None:
    example = (patch.__doc__ or "").split("Example: lensrl ")[1].split()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(small_study_folder)
    done = lensrl(*example, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "weights: block of full-rl into base" in done.stdout


def test_a_layer_that_the_donor_did_not_train_is_named(small_study_folder: Path) -> None:
    command = ("patch", small_study_folder, "--from", "layer-7", "--what", "weights", "--layer")
    assert "layer-7 did not train layer 2: its weights there are" in lensrl(*command, "2,7").stdout
    assert "did not train" not in lensrl(*command, "7").stdout


@pytest.mark.parametrize("typed", ["what='weigths'", "component='heads'", "sets='pear'"])
def test_a_word_that_is_not_known_is_refused_in_python_too(typed: str, small_study_folder: Path) -> None:
    code = f"import lensrl; lensrl.patch(lensrl.open_study({str(small_study_folder)!r}), layers=3, {typed})"
    before = sorted(small_study_folder.rglob("*"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # a process without beartype
    assert f"LensrlError: {typed}: there is no such; did you mean" in done.stderr
    assert sorted(small_study_folder.rglob("*")) == before


def test_all_layers_together_beside_each_alone_say_whether_they_add_up(
    finished_study_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_study_folder, tmp_path / "copy")
    command = ("patch", tmp_path / "copy", "--layer", "all", "--what", "weights")
    alone = lensrl(*command)
    assert "do single layers add up?" not in alone.stdout
    together = lensrl(*command, "--sets", "together", "--csv", tmp_path / "t.csv")
    assert "do single layers add up?" in together.stdout
    assert "An interaction below 0" in together.stdout
    with (tmp_path / "t.csv").open() as file:
        rows = {(row["layers"], row["metric"]): row for row in csv.DictReader(file)}
    assert {layers for layers, _ in rows} == {"0-7", "everything"}
    everything = rows["everything", "reference_logprob"]
    assert float(everything["patched_value"]) == pytest.approx(float(everything["from_value"]), abs=1e-6)
    assert float(everything["recovery"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("sets", "layers"), [("bottom", ["0-1", "0-6"]), ("top", ["1-7", "6-7"]), ("pairs", ["1,6"])])
def test_sets_of_layers_in_json_and_in_a_figure(
    sets: str, layers: list[str], small_study_folder: Path, tmp_path: Path
) -> None:
    figure = tmp_path / "f.png"
    done = lensrl("patch", small_study_folder, "--layer", "1,6", "--what", "activations", "--sets", sets,
                  "--reverse", "--json", "--figure", figure)  # fmt: skip
    rows = json.loads(done.stdout)
    assert list(dict.fromkeys(row["layers"] for row in rows)) == layers
    assert {(row["sets"], row["from"], row["contribution"]) for row in rows} == {(sets, "base", None)}
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_heads_and_the_stream_say_what_they_are(small_study_folder: Path, tmp_path: Path) -> None:
    command = ("patch", small_study_folder, "--layer", "2,7", "--what", "activations", "--component")
    done = lensrl(*command, "head", "--figure", tmp_path / "f.png")
    assert done.returncode == 0, done.stderr
    assert "before the output projection" in done.stdout
    rows = json.loads(lensrl(*command, "head", "--json").stdout)
    assert [row["head"] for row in rows] == [0, 1, 2, 3] * 4
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    done = lensrl(*command, "stream")
    assert "by construction" in done.stdout
    last = [row for row in json.loads(lensrl(*command, "stream", "--json").stdout) if row["layer"] == 7]
    assert {row["head"] for row in last} == {None}


def test_direct_effects_beside_those_of_a_wrong_item(small_study_folder: Path, tmp_path: Path) -> None:
    done = lensrl("patch", small_study_folder, "--layer", "2,7", "--what", "activations", "--component", "direct",
                  "--control", "items", "--csv", tmp_path / "t.csv")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Later layers add what they add without the patch" in done.stdout
    assert "Recovery by the donor's activations of the right item, and of another one" in done.stdout
    assert "each with another that has as many tokens in prompt and reference" in done.stdout
    assert "by the receiver's own activations" in done.stdout
    printed = done.stdout[done.stdout.index("Recovery by the donor's activations of the right item") :].splitlines()
    assert [line.split()[-1] for line in printed[1:6]] == ["own", *["0"] * 4]
    rows = pd.read_csv(tmp_path / "t.csv")
    assert rows["own"].tolist() == [0.0] * 4
    assert rows["wrong"].nunique() == 4


def test_what_is_said_of_sets_is_true_of_the_component(small_study_folder: Path) -> None:
    command = ("patch", small_study_folder, "--layer", "1,7", "--what", "activations", "--sets", "bottom")
    direct, attn = (lensrl(*command, "--component", part).stdout for part in ("direct", "attn"))
    assert "the layers that are not in it add what they add without the patch" in direct
    for said in (direct, attn):  # not all blocks below are the donor's there, or blocks above are the receiver's
        assert "activations: block of" not in said
        assert "by construction" not in said
    assert "the stream after l is the donor's stream" in lensrl(*command).stdout
    # A set of all layers leaves no layer above it: the direct effect is that of the blocks, as the note says.
    whole = [
        json.loads(lensrl(*command, "--component", part, "--json").stdout)[-1]["recovery"]
        for part in ("direct", "block")
    ]
    assert whole[0] == pytest.approx(whole[1], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--component", "head"], "the weights of a head are not grafted; add --what activations"),
        (["--component", "stream", "--what", "weights"], "the stream has no weights; add --what activations"),
        (["--component", "stream", "--what", "activations", "--sets", "top"], "leave out --sets"),
        (["--sets", "pairs"], "layer 3 alone makes no pair"),
        (["--sets", "cumulative"], "cumulative"),
        (["--control", "random", "--component", "attn"], "--control random grafts whole single layers and"),
        (["--control", "items", "--what", "weights"], "leave out --what weights, --component head and --sets"),
        (["--component", "direct"], "a direct effect is one of activations; add --what activations"),
        (["--control", "random", "--metric", "score"], "leave out --what activations"),
        (["--what", "activations", "--metric", "score"], "--metric is for grafts"),
        (["--draws", "2"], "--draws is for --control random: add it"),
        (["--draws", "2", "--what", "activations", "--control", "items"], "--draws is for --control random"),
    ],
)  # fmt: skip
def test_what_cannot_be_patched_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, small_study_folder: Path
) -> None:
    done = lensrl("patch", small_study_folder, "--layer", 3, *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr

"""`lensrl show`, as a person types it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensrl import open_run, open_study
from lensrl.store.patch import PatchKey, PatchResult, write_patch
from tests.cli.test_verbs import assert_one_line
from tests.cli.typed import lensrl
from tests.reseal import resealed
from tests.store.synthetic import write_full_run

HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\rover"
STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # every control character but the end of a line


def shown(*arguments: object) -> str:
    done = lensrl("show", *arguments)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def row_of(text: str, first: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [first])


def test_a_study_shows_every_run_with_score_gain_and_size(small_study_folder: Path) -> None:
    text = shown(small_study_folder)
    with open_study(small_study_folder) as study:
        base = study["base"].score
        for run in study.runs.values():
            row = row_of(text[text.index("Runs") :], run.name)
            assert row[:4] == [run.name, str(run.seed), f"{run.score:.3f}", f"{run.score - base:.3f}"]
            assert row[-1] == "completed"
    assert "model tiny:qwen3, seeds 0" in text


def test_the_runs_of_a_study_are_sorted_and_those_without_a_score_are_last(
    small_study_folder: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(small_study_folder, tmp_path / "copied"))
    (copied / "layer-7.seed-0.h5").unlink()
    scores = [row["score"] for row in json.loads(shown(copied, "--sort", "score", "--json"))]
    assert scores[-1] is None
    assert scores[:-1] == sorted(scores[:-1], reverse=True)
    assert_one_line(lensrl("show", copied, "--sort", "scor"), "--sort has score, gain and size")
    assert_one_line(lensrl("show", copied / "base.h5", "--sort", "score"), "orders the runs of a study")


def test_a_study_shows_what_is_damaged_or_missing(small_study_folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(small_study_folder, tmp_path / "copied"))
    (copied / "layer-3.seed-0.h5").write_bytes(b"nothing")
    (copied / "layer-7.seed-0.h5").unlink()
    (copied / ".layer-7.seed-0.h5.partial").write_bytes(b"half")
    (copied / "ends.seed-0.h5").unlink()
    text = shown(copied)
    runs = text[text.index("Runs") :]
    assert "damaged:" in " ".join(row_of(runs, "layer-3"))
    assert "unfinished:" in " ".join(row_of(runs, "layer-7"))
    assert "missing:" in " ".join(row_of(runs, "ends"))
    assert "completed" in row_of(runs, "layer-0")


def test_a_folder_shows_the_runs_of_all_its_studies(small_study_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file in ("recipe.json", "base.h5"):
            shutil.copy(small_study_folder / file, tmp_path / name / file)
    text = shown(tmp_path)
    for name in ("one", "two"):
        assert re.search(rf"{tmp_path / name} +base +0 ", text)
    rows = json.loads(shown(tmp_path, "--json"))
    assert {(row["study"], row["run"]) for row in rows if row["status"] == "completed"} == {
        (str(tmp_path / name), "base") for name in ("one", "two")
    }


def test_a_run_shows_its_header_and_its_datasets(small_study_folder: Path) -> None:
    path = small_study_folder / "full-rl.seed-0.h5"
    text = shown(path)
    with open_run(path) as run:
        assert f"full-rl seed 0 of small: {run.status}, score {run.score:.3f}, {run.bytes / 1e6:.1f} MB" in text
        assert f"made {run.provenance['created']}" in text
    assert "8 layers, trained: all" in text
    assert row_of(text, "scores/score")[1:6] == ["item", "48,", "sample", "2", "float32"]
    for name in ("training/loss", "probe/text", "activations/block_out", "deltas/0", "deltas/embed"):
        assert row_of(text, name)
    assert "deltas/0/" not in text  # folded
    assert max(map(len, text.splitlines())) <= 80


def test_a_group_shows_its_datasets_and_a_dataset_its_first_rows(small_study_folder: Path) -> None:
    path = small_study_folder / "layer-3.seed-0.h5"
    with h5py.File(path) as file:
        names = [f"deltas/3/{name}" for name in file["deltas/3"]]  # type: ignore[union-attr]
        first = np.asarray(file["scores/score"][:4])  # type: ignore[index]
        text = [raw.decode() for raw in file["item"][:4]]  # type: ignore[index]
    assert sorted(row["dataset"] for row in json.loads(shown(path / "deltas" / "3", "--json"))) == sorted(names)
    assert all(row_of(shown(path / "deltas" / "3"), name) for name in names)
    preview = shown(path / "scores" / "score")
    assert re.findall(r"[\d.]+", preview[preview.index("[") :]) == re.findall(r"[\d.]+", np.array2string(first))
    assert str(text) in shown(path / "item")


def test_a_single_number_is_shown_as_one(tmp_path: Path) -> None:
    write_full_run(tmp_path / "run.h5")
    assert row_of(shown(tmp_path / "run.h5" / "deltas" / "1" / "scale"), "deltas/1/scale")[1:3] == ["a", "number"]
    assert row_of(shown(tmp_path / "run.h5"), "deltas/1")[1:3] == ["2", "arrays"]
    assert row_of(shown(tmp_path / "run.h5" / "item"), "item")[1:5] == ["an", "axis", "of", "3"]


def test_a_result_of_patching_shows_what_was_patched_and_its_recovery(tmp_path: Path) -> None:
    key = PatchKey("weights", "block", (0, 1), "full-rl", "base", 3, "together")
    scores = np.array([[0.0] * 8, [1.0] * 8, [0.0, 1.0] * 4])
    same = np.zeros((3, 8))  # of which nothing can be a share
    path = write_patch(tmp_path, PatchResult(key, {"score": scores, "logit_difference": same}, ["only"] * 8, {}, {}))
    text = shown(path)
    assert "weights: block of layers 0-1 of full-rl into base, seed 3, 8 items" in text
    row = row_of(text, "score")
    assert row[1] == "0.50"
    assert row[-3:] == ["0.000", "0.500", "1.000"]
    assert "undefined: " in text
    rows = json.loads(shown(path, "--json"))
    assert [(row["metric"], row["layers"], row["recovery"]) for row in rows] == [
        ("score", "0-1", 0.5), ("logit_difference", "0-1", None),
    ]  # fmt: skip
    assert_one_line(lensrl("show", path / "metrics"), f"{path.name} is shown as a whole")


def test_a_folder_of_results_shows_each_and_why_one_cannot_be_read(tmp_path: Path) -> None:
    scores = np.array([[0.0] * 8, [1.0] * 8, [0.0, 1.0] * 4])
    for layer in (1, 2):
        key = PatchKey("weights", "block", (layer,), "full-rl", "base", 3)
        path = write_patch(tmp_path, PatchResult(key, {"score": scores}, ["only"] * 8, {}, {}))
    resized = path.read_bytes()
    path.write_bytes(b"x" + resized[1:])
    text = shown(tmp_path)
    assert "layer-1.seed-3.h5  score       0.50" in text
    assert f"{path} is damaged" in text.replace("\n", " ")
    rows = json.loads(shown(tmp_path, "--json"))
    assert [(row.get("recovery"), row.get("status")) for row in rows] == [(0.5, "defined"), (None, "damaged")]


def test_json_is_json_and_nothing_else(small_study_folder: Path) -> None:
    with open_study(small_study_folder) as study:
        scores = {name: run.score for (name, _), run in study.runs.items()}
    rows = json.loads(shown(small_study_folder, "--json"))
    assert {row["run"]: row["score"] for row in rows} == pytest.approx(scores)
    assert next(row for row in rows if row["run"] == "base")["gain"] == 0
    rows = json.loads(shown(small_study_folder / "base.h5", "--json"))
    by_name = {row["dataset"]: row for row in rows}
    assert by_name["scores/score"] | {"bytes": 0} == {
        "dataset": "scores/score", "axes": "item, sample", "shape": [48, 2], "dtype": "float32", "bytes": 0,
    }  # fmt: skip


def test_a_score_that_there_is_not_is_null_in_json(small_study_folder: Path, tmp_path: Path) -> None:
    for file in ("recipe.json", "base.h5"):
        shutil.copy(small_study_folder / file, tmp_path / file)
    rows = json.loads(shown(tmp_path, "--json"), parse_constant=lambda name: pytest.fail(name))
    missing = [row for row in rows if row["status"] == "missing"]
    assert {row["run"] for row in missing} == {"full-rl", "layer-0", "layer-3", "layer-7", "ends"}
    assert all(row["score"] is None and row["gain"] is None and row["bytes"] == 0 for row in missing)


def test_text_from_a_file_does_not_steer_the_terminal(small_study_folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(small_study_folder, tmp_path / "copied"))
    with resealed(copied / "layer-3.seed-0.h5") as file:
        file.attrs["status"] = "collapsed"
        for name in ("reason", "study", "base"):
            file.attrs[name] = HOSTILE
        node = file["scores/benchmark"]
        assert isinstance(node, h5py.Dataset)
        node[0] = b"\x1b[2J"
    (copied / "recipe.json").write_text(
        (copied / "recipe.json").read_text().replace("tiny:qwen3", json.dumps(HOSTILE)[1:-1])
    )
    path = copied / "layer-3.seed-0.h5"
    for arguments in ([copied], [path], [path / "scores" / "benchmark"], [copied, "--json"], [path, "--json"]):
        assert not STEERING.search(shown(*arguments))
    assert "[31mred" in shown(copied)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("STUDY/base.h5/scores/scor", "base.h5 holds no 'scores/scor'; see: lensrl show"),
        ("STUDY/base.h5/deltas", "holds no 'deltas'"),
        ("STUDY/absent.h5", "absent.h5: give a study, a run file, or a dataset inside one"),
        ("empty", "empty holds no studies and no run files"),
        ("junk.h5", "junk.h5 is no HDF5 file\n"),
        ("junk.h5/scores", "junk.h5 is no HDF5 file\n"),
        ("base.h5", "if it is a run's, delete it and run again"),
        ("notes.md", "notes.md is no run file: it is not HDF5"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_2(
    path: str, expected: str, small_study_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("junk.h5", "base.h5", "notes.md"):
        (tmp_path / name).write_text("hello")
    done = lensrl("show", path.replace("STUDY", str(small_study_folder)), cwd=tmp_path)
    assert_one_line(done, expected)
    assert not done.stdout


def test_nobody_is_told_to_delete_a_file_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("hello")
    for verb in ("show", "verify"):
        done = lensrl(verb, "notes.md", cwd=tmp_path)
        assert_one_line(done, "notes.md is no run file")
        assert "delete" not in done.stderr

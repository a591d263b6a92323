"""What is there, what is not, and why: listings of studies, folders and files."""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lensrl
from lensrl.errors import LensrlError
from lensrl.store.file.atomic import new_file, partial_path
from lensrl.store.file.seal import read_seal
from lensrl.store.names import RECIPE_FILE
from lensrl.store.patch import PatchKey, PatchResult, is_patch, write_patch
from lensrl.store.runs import COLUMNS
from lensrl.store.study import open_study
from tests.reseal import resealed
from tests.store.synthetic import add_run, make_study, write_full_run


class Text(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def solved(count: int) -> dict[str, list[float]]:
    return {"only": [1.0] * count + [0.0] * (40 - count)}


def damage_structure(path: Path) -> None:
    """Flip a bit of what belongs to no dataset."""
    seal = read_seal(path)
    assert seal is not None
    content = bytearray(path.read_bytes())
    start, length = seal.gaps()[0]
    content[start + length - 1] ^= 1
    path.write_bytes(content)


def make_plain(folder: Path) -> Path:
    make_study(folder)
    for name, count in [("base", 10), ("full-rl", 30), ("layer-0", 20)]:
        add_run(folder, name, solved(count))
    return folder


def set_recipe(folder: Path, **settings: str) -> None:
    """Replace settings of the kept recipe, by their JSON."""
    text = (folder / RECIPE_FILE).read_text()
    for name, value in settings.items():
        start = text.index(f'"{name}":') + len(name) + 3
        text = text[:start] + value + text[text.index(',"', start) :]
    (folder / RECIPE_FILE).write_text(text)


STATES = {
    ("base", 0): ("completed", ""),
    ("full-rl", 0): ("completed", ""),
    ("layer-0", 0): ("collapsed", "reward fell"),
    ("layer-0", 1): ("missing", "not made yet: lensrl run continues with it"),
    ("layer-1", 0): ("damaged", "is damaged in its structure"),
    ("layer-1", 1): ("unfinished", "the process that made it was killed: lensrl run makes it again"),
    ("full-rl", 1): ("running", f"process {os.getpid()} on {socket.gethostname()} for 0 s"),
    ("stranger", 0): ("damaged", "holds the run full-rl with seed 3: rename it back"),
    ("other", 0): ("diverged", "no gradient"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A study in which a run is in every state that there is."""
    folder = make_study(tmp_path / "study")
    set_recipe(folder, seeds="[0, 1]")
    add_run(folder, "base", solved(10))
    add_run(folder, "full-rl", solved(30))
    add_run(folder, "layer-0", solved(20), status="collapsed", reason="reward fell")
    add_run(folder, "other", None, status="diverged", reason="no gradient")
    damage_structure(add_run(folder, "layer-1", solved(20)))
    write_full_run(folder / "stranger.seed-0.h5")
    partial_path(folder / "layer-1.seed-1.h5", "0" * 8).write_bytes(b"half")
    with new_file(folder / "full-rl.seed-1.h5") as partial:
        partial.write_bytes(b"half")
        yield folder


def test_every_run_is_listed_with_its_status_and_reason(folder: Path) -> None:
    with open_study(folder) as study:
        table = study.runs.table()
    assert table.columns.tolist() == COLUMNS
    found = {(row["run"], row["seed"]): (row["status"], row["reason"]) for row in table.to_dict("records")}
    assert set(found) == set(STATES)
    assert len(table) == len(STATES)
    for key, (status, reason) in STATES.items():
        assert found[key][0] == status, key
        assert reason in found[key][1] if reason else found[key][1] == "", key


def test_what_can_be_read_is_a_mapping_and_the_rest_is_in_its_repr(folder: Path) -> None:
    with open_study(folder) as study:
        readable = [key for key, (status, _) in STATES.items() if status in ("completed", "collapsed", "diverged")]
        assert isinstance(study.runs, Mapping)
        assert set(study.runs) == set(readable)
        assert study.runs["layer-0", 0].reason == "reward fell"
        assert all((run.name, run.seed) == key for key, run in study.runs.items())
        with pytest.raises(KeyError):
            study.runs["layer-1", 0]
        for text in (
            repr(study.runs),
            Text(study.runs._repr_html_()).text,
            repr(study),
            Text(study._repr_html_()).text,
        ):
            for (name, _), (status, reason) in STATES.items():
                assert name in text
                assert status in text
                assert reason in text


def test_gain_is_score_minus_the_score_of_the_base(folder: Path) -> None:
    with open_study(folder) as study:
        rows = {(row["run"], row["seed"]): row for row in study.runs.table().to_dict("records")}
        for key, run in study.runs.items():
            score = run.scores_by_item()["score"].mean() if run.has_scores else math.nan
            assert rows[key]["score"] == pytest.approx(score, nan_ok=True)
            assert rows[key]["gain"] == pytest.approx(score - 0.25, nan_ok=True)
            assert rows[key]["bytes"] == os.path.getsize(run.path)
    assert rows["full-rl", 0]["gain"] == pytest.approx(0.5)
    for key, (status, _) in STATES.items():
        if status in ("missing", "running", "unfinished", "damaged"):
            assert math.isnan(rows[key]["score"])
            assert math.isnan(rows[key]["gain"])
    assert rows["layer-1", 0]["bytes"] == os.path.getsize(folder / "layer-1.seed-0.h5")
    assert rows["layer-0", 1]["bytes"] == 0


def test_base_and_full_rl_come_first_then_layers_from_the_bottom_then_sets(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    for name, layers in {"layer-10": [10], "a-set": [0, 1], "layer-9": [9], "full-rl": range(11), "base": []}.items():
        with resealed(add_run(folder, name, solved(10), n_layers=11)) as file:
            file.attrs["layers"] = np.array(layers, np.int32)
    with open_study(folder) as study:
        names = study.runs.table()["run"].tolist()
    assert names == ["base", "full-rl", *(f"layer-{layer}" for layer in range(11)), "a-set"]


def test_without_a_base_there_are_no_gains_and_the_base_is_missing(tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "study")
    (folder / "base.h5").unlink()
    with open_study(folder) as study:
        table = study.runs.table().set_index("run")
        assert table.loc["base", "status"] == "missing"
        assert table.loc["full-rl", "score"] == 0.75
        assert table["gain"].isna().all()
        for text in (repr(study), study._repr_html_(), repr(study.runs), study.runs._repr_html_()):
            assert "full-rl" in text


def test_an_empty_study_is_shown_with_what_comes_in_any_case(tmp_path: Path) -> None:
    with open_study(make_study(tmp_path / "study")) as study:
        assert study.runs.table()[["run", "status"]].to_numpy().tolist() == [
            ["base", "missing"],
            ["full-rl", "missing"],
        ]
        for text in (repr(study), study._repr_html_(), study.runs._repr_html_()):
            assert "full-rl" in text
        assert not study.runs


def test_an_empty_study_without_a_recipe_that_can_be_read_is_shown_as_empty(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    (folder / RECIPE_FILE).write_text("{")
    with open_study(folder) as study:
        assert len(study.runs.table()) == 0
        assert study.runs.table().columns.tolist() == COLUMNS
        assert repr(study.runs) == "no runs"
        for text in (repr(study), study._repr_html_(), study.runs._repr_html_()):
            assert text
        assert not study.runs


def test_only_damaged_runs_are_listed(tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "study")
    for path in folder.glob("*.h5"):
        path.write_bytes(b"nothing")
    with open_study(folder) as study:
        assert study.runs.table()["status"].tolist() == ["damaged"] * 3
        assert study._repr_html_().count("is damaged or not an HDF5 file") == 3


@pytest.mark.parametrize("recipe", ["{", "[1]", '{"model": "tiny:none"}', "\xff"])
def test_a_study_whose_recipe_cannot_be_read_still_lists_its_runs(tmp_path: Path, recipe: str) -> None:
    folder = make_plain(tmp_path / "study")
    (folder / RECIPE_FILE).write_bytes(recipe.encode("latin1"))
    with open_study(folder) as study:
        assert study.runs.table()["run"].tolist() == ["base", "full-rl", "layer-0"]
        assert "full-rl" in repr(study.runs)
    assert len(lensrl.runs(tmp_path)) == 3


def test_a_recipe_that_does_not_fit_the_model_does_not_hide_the_runs(tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "study")
    set_recipe(folder, layers="[5]")
    with open_study(folder) as study:
        assert study.runs.table()["run"].tolist() == ["base", "full-rl", "layer-0"]


def test_a_run_whose_file_is_gone_is_still_shown(tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "study")
    with open_study(folder) as study:
        (folder / "full-rl.seed-0.h5").unlink()
        table = study.runs.table().set_index("run")
        assert table.loc["full-rl", "gain"] == 0.5
        assert "full-rl" in repr(study.runs)


def test_what_was_begun_is_listed_while_no_run_is_finished(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    for name in ("full-rl.seed-0.h5", "layer-1.seed-2.h5"):
        partial_path(folder / name, "0" * 8).write_bytes(b"half")
    with new_file(folder / "base.h5"), open_study(folder) as study:
        table = study.runs.table()
    assert table[["run", "seed", "status"]].to_numpy().tolist() == [
        ["base", 0, "running"], ["full-rl", 0, "unfinished"], ["layer-1", 2, "unfinished"],
    ]  # fmt: skip


def test_a_file_that_cannot_be_read_has_the_status_and_the_reason_that_verify_gives(tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "study")
    with resealed(folder / "full-rl.seed-0.h5") as file:
        file.attrs["format_version"] = 99
    unsealed = folder / "layer-0.seed-0.h5"
    seal = read_seal(unsealed)
    assert seal is not None
    os.truncate(unsealed, seal.size)
    (folder / "layer-1.seed-0.h5").write_bytes(b"nothing")
    expected = {"full-rl": "too new", "layer-0": "unfinished", "layer-1": "damaged", "base": "completed"}
    shutil.copytree(folder, tmp_path / "strays", ignore=shutil.ignore_patterns(RECIPE_FILE))
    verdicts = {v.path.name: v for v in lensrl.verify(folder)}
    with open_study(folder) as study:
        rows = study.runs.table().to_dict("records")
    strays = lensrl.runs(tmp_path / "strays")
    for row in [*rows, *strays.to_dict("records")]:
        assert row["status"] == expected[row["run"]]
        assert str(tmp_path) not in row["reason"]
        if row["run"] != "base":
            assert row["status"] == verdicts[Path(row["file"]).name].status


def write_result(folder: Path) -> Path:
    scores = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    key = PatchKey("weights", "block", (1,), "full-rl", "base", 0)
    return write_patch(folder, PatchResult(key, {"score": scores}, ["only"] * 4, {"donor": "a", "into": "b"}, {}))


@pytest.mark.parametrize("state", ["good", "too new", "unfinished", "damaged"])
def test_results_of_patching_are_no_runs(tmp_path: Path, state: str) -> None:
    folder = make_plain(tmp_path / "study")
    path = write_result(folder / "patches")
    seal = read_seal(path)
    assert seal is not None
    if state == "too new":
        with resealed(path) as file:
            file.attrs["format_version"] = 99
    elif state == "unfinished":
        os.truncate(path, seal.size)
    elif state == "damaged":
        damage_structure(path)
    assert is_patch(path)
    assert not is_patch(folder / "base.h5")
    assert len(lensrl.runs(folder / "patches")) == 0
    shutil.copy(path, folder / "stray.h5")
    with open_study(folder) as study:
        assert study.runs.table()["run"].tolist() == ["base", "full-rl", "layer-0", "layer-1"]


def test_a_folder_lists_studies_and_stray_files(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    (folder / "deep").mkdir(parents=True)
    for place in (folder / "one", folder / "deep" / "two"):
        make_plain(place)
    write_full_run(folder / "stray.seed-3.h5")
    (folder / "deep" / "layer-4.seed-2.h5").write_bytes(b"nothing")
    table = lensrl.runs(folder)
    assert table.columns.tolist() == ["study", *COLUMNS]
    for place in (folder / "one", folder / "deep" / "two"):
        with open_study(place) as study:
            expected = study.runs.table()
        found = table[table["study"] == str(place)].drop(columns="study").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    strays = table[table["study"] == ""].set_index("file").to_dict("index")
    assert set(strays) == {str(folder / "stray.seed-3.h5"), str(folder / "deep" / "layer-4.seed-2.h5")}
    healthy = strays[str(folder / "stray.seed-3.h5")]
    assert (healthy["run"], healthy["seed"], healthy["status"]) == ("full-rl", 3, "completed")
    assert healthy["score"] == pytest.approx((0.75 + 0.375) / 2)
    assert healthy["bytes"] == os.path.getsize(folder / "stray.seed-3.h5")
    assert math.isnan(healthy["gain"])
    damaged = strays[str(folder / "deep" / "layer-4.seed-2.h5")]
    assert (damaged["run"], damaged["seed"], damaged["status"]) == ("layer-4", 2, "damaged")
    assert "is damaged or not an HDF5 file" in damaged["reason"]
    assert damaged["bytes"] == 7


def test_a_study_listed_from_above_or_from_itself_has_the_same_runs(tmp_path: Path) -> None:
    folder = make_plain(tmp_path / "study")
    pd.testing.assert_frame_equal(lensrl.runs(folder), lensrl.runs(tmp_path))


def test_a_folder_of_damaged_strays_alone_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.seed-0.h5").write_bytes(b"nothing")
    assert lensrl.runs(tmp_path)[["run", "status"]].to_numpy().tolist() == [["a", "damaged"]]


def test_a_folder_of_nothing_is_an_empty_table_and_no_folder_an_error(tmp_path: Path) -> None:
    table = lensrl.runs(tmp_path)
    assert (len(table), table.columns.tolist()) == (0, ["study", *COLUMNS])
    with pytest.raises(LensrlError, match=r"no folder at .*absent"):
        lensrl.runs(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(LensrlError, match=r"no folder at .*file"):
        lensrl.runs(tmp_path / "file")

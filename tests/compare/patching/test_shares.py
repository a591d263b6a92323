"""Patches that several processes share: each is measured once, and the results are those of one process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensrl import open_study, patch
from lensrl.compare.patching import shares
from lensrl.errors import LensrlError
from lensrl.store.file.claim import claimed
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.patch import PatchKey, PatchResult


@pytest.fixture
def copied(small_study_folder: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(small_study_folder, tmp_path / "small"))
    shutil.rmtree(folder / PATCH_FOLDER, ignore_errors=True)
    return folder


@pytest.mark.slow
def test_two_workers_measure_what_one_process_measures(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(copied, tmp_path / "other" / "small"))
    with open_study(copied) as study:
        alone = patch(study, layers="0,3,7", metric="logprob")
    written: list[PatchKey] = []
    real = shares.write_patch

    def write(folder: Path, result: PatchResult) -> Path:
        written.append(result.key)
        return real(folder, result)

    monkeypatch.setattr(shares, "write_patch", write)
    with open_study(other) as study:
        shared = patch(study, layers="0,3,7", metric="logprob", workers=2)
    assert len(written) == 3, "of six patches, the other process measured the rest"
    pd.testing.assert_frame_equal(shared, alone, check_exact=False, atol=1e-5)
    names = sorted(path.name for path in (copied / PATCH_FOLDER).iterdir())
    assert sorted(path.name for path in (other / PATCH_FOLDER).iterdir()) == names
    assert len(names) == 6


def test_what_a_lost_worker_leaves_is_measured_here(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def lost(asked: Sequence[object], workers: int) -> Iterator[list[subprocess.Popen[Any]]]:
        assert (len(asked), workers) == (2, 3)
        yield [subprocess.Popen(["false"]) for _ in asked]

    monkeypatch.setattr(shares, "_started", lost)
    with open_study(copied) as study:
        table = patch(study, layers="0,3,7", what="weights", metric="logprob", workers=9)
    assert table["layer"].tolist() == [0, 3, 7]
    with open_study(copied) as study, pytest.raises(LensrlError, match="0 workers measure no patch"):
        patch(study, layers="0", workers=0)


def test_a_graft_that_another_process_scores_is_left_to_it(copied: Path) -> None:
    key = PatchKey("weights", "block", (3,), "full-rl", "base", 0)
    folder = copied / PATCH_FOLDER
    folder.mkdir()
    with open_study(copied) as study:
        with claimed((folder / key.file_name).with_suffix(".json")):
            assert shares.measure(study, [key], "score") == {}
        assert not [*folder.iterdir()]
        (made,) = shares.measure(study, [key], "score").values()
        assert {*made.metrics} == {"score"}
        assert shares.measure(study, [key], "score") == {}, "it is there by now"
    assert [path.name for path in folder.iterdir()] == [key.file_name]


def test_no_model_is_loaded_while_another_process_has_every_graft_in_hand(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = PatchKey("weights", "block", (3,), "full-rl", "base", 0)
    (copied / PATCH_FOLDER).mkdir()
    claim = claimed((copied / PATCH_FOLDER / key.file_name).with_suffix(".json"))
    claim.__enter__()
    looked: list[int] = []
    real = shares.measure

    def measure(*arguments: Any, **options: Any) -> dict[PatchKey, PatchResult]:
        looked.append(len(arguments[1]))
        return real(*arguments, **options)

    def pause(_: float) -> None:
        if len(pauses) == 2:
            claim.__exit__(None, None, None)
        pauses.append(len(looked))

    pauses: list[int] = []
    monkeypatch.setattr(shares, "measure", measure)
    monkeypatch.setattr(shares, "sleep", pause)  # not that of every library
    with open_study(copied) as study:
        found = patch(study, layers="3", what="weights", metric="score")
    assert found["layer"].tolist() == [3]
    assert (pauses, looked) == ([1, 1, 1], [1, 1]), "one try, three looks, and the measurement"

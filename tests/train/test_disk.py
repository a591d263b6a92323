"""The bytes of a study before it is made, and a disk that has no room for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lensrl import run_study
from lensrl.errors import StoreError
from lensrl.recipe.runs import RunSpec
from lensrl.store.study import Study
from lensrl.train import workshop as workshops
from lensrl.train.disk import RunBytes, check_disk, run_bytes
from lensrl.train.workshop import Workshop
from tests.conftest import SMALL

QUICK = SMALL.model_copy(update={"layers": [3], "sets": {}, "rl": SMALL.rl.model_copy(update={"steps": 1})})


def test_the_estimate_is_the_size_of_the_files(small_study: Study) -> None:
    """SMALL keeps one snapshot before the last step. Scores and curves of so small a study are most of base.h5."""
    workshop = Workshop(SMALL)
    specs = {"full-rl": None, "layer-3": (3,), "ends": (0, 7), "base": ()}
    for name, layers in specs.items():
        estimate = workshop.bytes_of(RunSpec(name, layers, 0)).file
        assert 0.85 < estimate / small_study[name].bytes < 1.3, name


def test_a_study_that_the_disk_cannot_hold_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(StoreError, match=r"3 runs to make need about .* MB in .*, and 1\.0 MB are free there"):
        run_study(QUICK, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_largest_scratch_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    check_disk(tmp_path, [RunBytes(30, 20), RunBytes(40, 30)])
    with pytest.raises(StoreError):
        check_disk(tmp_path, [RunBytes(30, 20), RunBytes(41, 30)])
    assert run_bytes(10, arrays=1, layers=2, width=3, tokens=5, snapshots=2) == RunBytes(
        120 + 3 * 8192 + 360 + 65536, 80
    )


def test_a_disk_that_fills_in_the_middle_says_what_to_do_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workshops.write_run

    def full(path: Path, header: object, *about: object, **more: object) -> None:
        if getattr(header, "run") == "layer-3":  # noqa: B009
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(path, header, *about, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(workshops, "write_run", full)
    with pytest.raises(StoreError, match=r"layer-3.*No space left.*finished runs are kept: free room in .*study"):
        run_study(QUICK, tmp_path / "study")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "study").iterdir()}
    assert kept.keys() == {"base.h5", "full-rl.seed-0.h5", "recipe.json"}
    monkeypatch.undo()
    run_study(QUICK, tmp_path / "study").close()
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "study").iterdir()}
    assert again.keys() == kept.keys() | {"layer-3.seed-0.h5"}
    assert kept.items() <= again.items()

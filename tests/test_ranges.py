"""What `tests.ranges` asks pip for, and how it compares studies. Making them takes minutes: `make test-ranges`."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.ranges import difference, differences, is_equal, pins, required


@pytest.mark.parametrize("torch", [False, True])
def test_the_ends_of_each_range_are_asked_for(torch: bool) -> None:
    newest = [Requirement(one) for one in pins("newest", required(torch=torch))]
    oldest = [Requirement(one) for one in pins("oldest", required(torch=torch))]
    names = [one.name for one in newest]
    assert names == [one.name for one in oldest]
    assert {"transformers", "trl", "numpy", "h5py"} < {*names}
    assert ("torch" in names) == torch
    for lowest, whole in zip(oldest, newest, strict=True):
        (pinned,) = lowest.specifier
        assert pinned.version in whole.specifier
        assert all(pinned.version <= one.version for one in whole.specifier if one.operator == ">=")


def test_other_numbers_and_files_are_named(finished_study_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(finished_study_folder, copied)
    assert differences(copied, finished_study_folder) == {}
    with h5py.File(copied / "base.h5", "r+") as file:
        place = file["scores/reference_logprob"]
        assert isinstance(place, h5py.Dataset)
        place[0] = np.nextafter(place[0], np.float32(1))
    (copied / "layer-3.seed-0.h5").unlink()
    found = differences(copied, finished_study_folder)
    assert [*found] == ["layer-3.seed-0.h5", "base.h5: scores/reference_logprob"]
    assert found["layer-3.seed-0.h5"] == math.inf
    assert 0 < found["base.h5: scores/reference_logprob"] < 1, "a difference of the last digit is what rounding may do"


def test_a_difference_is_in_units_of_rounding() -> None:
    assert difference(np.array([2.0, 0.0]), np.array([2.0 + 2.01e-4, 0.0])) == pytest.approx(1.0, rel=1e-3)
    assert difference(np.array([1e-6]), np.array([0.0])) == pytest.approx(1.0)
    assert difference(np.array([np.nan]), np.array([0.0])) == math.inf
    assert difference(np.array([1]), np.array([2])) == math.inf, "integers do not round"


def test_texts_are_compared_by_characters() -> None:
    texts = [np.array([f"{word}{1}" for word in ("a", "b")], object) for _ in range(2)]
    assert is_equal(*texts)
    assert not is_equal(texts[0], texts[1][::-1])
    assert not is_equal(np.zeros(2), np.zeros(2, np.float32))
    assert is_equal(np.full(2, np.nan), np.full(2, np.nan))

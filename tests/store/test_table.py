"""A published table, read: where the interval of each layer comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensrl import read_contributions
from lensrl.measures.gains import Gains

PROFILE = [0.9, 0.7, 0.8, 0.5]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def test_intervals_of_the_file_are_said_to_be_the_files(path: Path) -> None:
    path.write_text(
        "layer,contribution,low,high\n0,0.9,0.8,1.0\n1,0.7,0.6,\n2,0.8,0.7,0.9\n3,,0,1\n", encoding="utf-8-sig"
    )
    table = read_contributions(path)
    assert table["interval_from"].tolist() == ["file", "", "file", ""], "where both ends and the value are there"
    assert table["low"].tolist()[:3] == [0.8, 0.6, 0.7]


@pytest.mark.parametrize("also", ["", "low", "high"])
def test_intervals_that_the_file_lacks_come_from_the_roughness_of_the_profile(path: Path, also: str) -> None:
    lines = [f"layer,contribution,{also or 'other'}", *(f"{i},{c},0.1" for i, c in enumerate(PROFILE)), "4,,0.1"]
    path.write_text("\n".join(lines))
    table = read_contributions(path)
    assert table["interval_from"].tolist() == ["roughness"] * 4 + [""]
    expected = [interval.low for interval in Gains.from_profile(np.array(PROFILE)).ratios()]
    assert table["low"].tolist()[:4] == pytest.approx(expected)
    assert table[["low", "high"]].iloc[4].isna().all()

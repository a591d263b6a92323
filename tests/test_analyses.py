"""Every analysis runs, on a study that really ran, by the command in its first lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ANALYSES = sorted((Path(__file__).parents[1] / "analyses").glob("*.py"))


@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda path: path.stem)
def test_an_analysis_runs_and_names_its_command(analysis: Path, small_study_folder: Path) -> None:
    done = subprocess.run([sys.executable, analysis, small_study_folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
    assert f"python analyses/{analysis.name} " in analysis.read_text()

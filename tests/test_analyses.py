"""Every analysis runs, on a study that really ran, by the command in its first lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ANALYSES = sorted((Path(__file__).parents[1] / "analyses").glob("*.py"))


@pytest.mark.parametrize("name", ["contribution_profile", "published_profile"])
def test_in_a_notebook_its_arguments_are_not_ours(name: str, small_study_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(small_study_folder)
    (tmp_path / "runs" / "published").symlink_to(ANALYSES[0].parents[1] / "runs" / "published")
    notebook = (
        "import sys; sys.modules['ipykernel'] = sys; exec(open(sys.argv[1]).read())"  # no __file__, other arguments
    )
    cells = ANALYSES[0].with_name(f"{name}.py")
    done = subprocess.run([sys.executable, "-c", notebook, cells], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda path: path.stem)
def test_an_analysis_runs_and_names_its_command(analysis: Path, small_study_folder: Path) -> None:
    done = subprocess.run([sys.executable, analysis, small_study_folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
    assert f"python analyses/{analysis.name} " in analysis.read_text()

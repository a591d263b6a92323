"""Every analysis and every figure in a notebook that Jupyter's own client runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import lensrl

ROOT = Path(__file__).parents[1]
MOST = 20_000  # characters of one cell's text


def as_notebook(script: str) -> nbformat.NotebookNode:
    """Turn a script in percent format into a notebook: a cell per `# %%`, text where it says markdown."""
    cells = []
    for part in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if "markdown" in head:
            cells.append(nbformat.v4.new_markdown_cell(re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()))
        else:
            cells.append(nbformat.v4.new_code_cell(body.strip()))
    return nbformat.v4.new_notebook(cells=cells)


def run(notebook: nbformat.NotebookNode, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[nbformat.NotebookNode]:
    """Run a notebook in a folder and return the outputs of all cells."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(output: nbformat.NotebookNode) -> list[str]:
    """The texts of an output, without pictures."""
    data = output.get("data", {})
    return [output.get("text", ""), *(str(text) for kind, text in data.items() if not kind.startswith("image/"))]


@pytest.fixture
def beside(small_study_folder: Path, tmp_path: Path) -> Path:
    """A folder like analyses/, with runs/tiny beside it, as Jupyter opens a notebook where it lies."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(small_study_folder)
    (tmp_path / "runs" / "published").symlink_to(ROOT / "runs" / "published")
    (tmp_path / "analyses").mkdir()
    return tmp_path / "analyses"


@pytest.mark.slow
def test_the_figures_and_results_of_a_study_in_a_notebook(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = (
        "contributions(study)", "training(study)", "completions_length(study)", "deltas(study)",
        "deltas(study, by='layer')", "delta_norms(study)", "cka(study)", "cka_map(study)", "predictors(study)",
        "predictors(study, 'depth')", "predictor_panels(study)", "verdict(published)", "patching(study, rows)",
        "patching_panels(study, rows)", "overlap(study)", "heads(lensrl.compare_heads(study, 3))", "agreement(agreed)",
    )  # fmt: skip
    assert {call.partition("(")[0] for call in calls} == {*lensrl.plot.__all__} - {"Look", "save"}
    first = [
        "import lensrl\nstudy = lensrl.open_study('../runs/tiny')\nstudy",
        "published = '../runs/published/qwen3-1.7b-grpo-math.csv'\nlensrl.verdict(published)",
        "agreed = lensrl.agree(published, study)\nagreed",
        "rows = lensrl.patch(study, layers=[3])\nrows",
        "study['full-rl']",
        "study.runs",
        "study.plot()",
    ]
    cells = [*first, *(f"lensrl.plot.{call}" for call in calls)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    outputs = run(notebook, beside, monkeypatch)
    pictures = [cell for cell in notebook.cells if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    assert len(pictures) == sum(".plot" in cell for cell in cells)
    assert all(len(text) < MOST for output in outputs for text in texts(output))


@pytest.mark.slow
@pytest.mark.parametrize("analysis", sorted(path.stem for path in (ROOT / "analyses").glob("*.py")))
def test_an_analysis_opens_from_where_it_lies_and_draws(
    analysis: str, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (ROOT / "analyses" / f"{analysis}.py").read_text(encoding="utf-8")
    outputs = run(as_notebook(script), beside, monkeypatch)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("text/html" in output.get("data", {}) for output in outputs)  # a table
    said = [text for output in outputs for text in texts(output)]
    assert all(len(text) < MOST for text in said)
    assert not [text for text in said if text.startswith("<Axes")]  # the figure says it


def test_no_line_of_an_analysis_in_a_script_is_long() -> None:
    for path in (ROOT / "analyses").glob("*.py"):
        assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 120, path

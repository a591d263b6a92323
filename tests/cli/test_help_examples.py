"""Every example of `--help` runs as it is typed, after the demo."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
from lensrl_cli.main import VERBS, python_name

from tests.cli.typed import lensrl

RUNS = Path(__file__).parents[2] / "runs"
FIRST = ("run", "export")  # later examples use what these two make


def examples() -> dict[str, str]:
    """Verb -> the example in its help."""
    found = {}
    for verb in (*FIRST, *(verb for verb in VERBS if verb not in FIRST)):
        name = python_name(verb)
        text = inspect.getdoc(getattr(import_module(f"lensrl_cli.{name}"), name)) or ""
        found[verb] = "".join(re.findall(r"^Example[^:\n]*: (lensrl .+)$", text, flags=re.MULTILINE))
    return found


def test_every_verb_has_an_example_of_itself_and_its_help_prints_it() -> None:
    for verb, example in examples().items():
        assert example.startswith(f"lensrl {verb} "), verb
        assert example in " ".join(lensrl(verb, "--help").stdout.split()), verb


def test_the_help_of_a_verb_folds_each_paragraph_once_and_keeps_its_brackets() -> None:
    for verb in VERBS:
        name = python_name(verb)
        text = inspect.getdoc(getattr(import_module(f"lensrl_cli.{name}"), name)) or ""
        shown = [line.strip() for line in lensrl(verb, "--help").stdout.split("╭")[0].splitlines()]
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            folded = [words] if len(words) < 70 else textwrap.wrap(words, 78)
            assert folded[0] in shown, verb
            assert folded[-1] in shown, verb


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's recipe, shorter and with fewer layers, and the published profile."""
    folder = tmp_path_factory.mktemp("demo")
    recipe = (RUNS / "tiny.toml").read_text()
    short = {"steps = 100": "steps = 40", 'layers = "all"': "layers = [2, 3, 6, 7]", "items = 256": "items = 96"}
    for before, after in short.items():
        assert before in recipe
        recipe = recipe.replace(before, after)
    shutil.copytree(RUNS / "published", folder / "runs" / "published")
    (folder / "runs" / "tiny.toml").write_text(recipe)
    return folder


@pytest.mark.slow
def test_every_example_runs_as_typed(demo: Path) -> None:
    for verb, example in examples().items():
        if verb == "explore":  # it serves until it is stopped
            continue
        done = lensrl(*shlex.split(example)[1:], cwd=demo)
        assert done.returncode == 0, f"{example}: {done.stderr}"
        assert done.stdout, example
    assert {file.name for file in demo.iterdir()} == {"runs", "my-model", "profile.png", "scatter.png"}
    assert {file.name for file in (demo / "runs").iterdir()} == {"published", "tiny.toml", "tiny", "mine"}


@pytest.mark.slow
def test_the_example_of_explore_serves(demo: Path) -> None:
    command = [sys.executable, "-m", "lensrl_cli.main", *shlex.split(examples()["explore"])[1:]]
    with subprocess.Popen(command, cwd=demo, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        assert "http://127.0.0.1:" in served.stdout.readline()
        served.terminate()

"""A command loads only the libraries that it uses: each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from lensrl_cli.main import VERBS, python_name

NEVER = {"datasets", "matplotlib", "pandas", "scipy", "torch", "transformers", "trl"}  # in help and listings
WITH_WORKERS = """
model = "tiny:qwen3"
layers = [7]
task = "arithmetic"
on_no_gain = "go on"
[rl]
steps = 1
max_completion_tokens = 5
[evaluation]
items = 6
samples = 1
[store]
probe_items = 1
"""
UNREAD = {"h5py", "numpy"}  # as long as no file is read; typer itself loads pydantic for the options of a verb


def loaded_by(code: str, *arguments: object) -> set[str]:
    """The heavy libraries that a fresh process has loaded after running `code`."""
    code = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (NEVER | UNREAD) & set(done.stderr.split())


def loaded_by_command(*arguments: object) -> set[str]:
    return loaded_by("from lensrl_cli.main import app\napp(sys.argv[1:], standalone_mode=False)", *arguments)


def test_importing_lensrl_loads_no_library() -> None:
    assert loaded_by("import lensrl") == set()


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_loads_no_library(verb: str) -> None:
    assert loaded_by_command(*verb.split(), "--help") == set()


def test_the_list_of_verbs_loads_no_recipe() -> None:
    done = (
        "from lensrl_cli.main import app\napp(['--help'], standalone_mode=False)\nassert 'pydantic' not in sys.modules"
    )
    assert loaded_by(done) == set()


@pytest.mark.parametrize(
    ("typed", "offered"), [("lensrl pat", {"patch"}), ("lensrl patch --co", {"--component", "--control"})]
)
def test_a_shell_completes_verbs_and_options(typed: str, offered: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_LENSRL_COMPLETE": "complete_bash"}
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-m", "lensrl_cli.main"], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} == offered


@pytest.mark.parametrize(
    ("verb", "path"),
    [("show", ""), ("show", "base.h5"), ("show", "base.h5/scores/score"), ("verify", "")],
)
def test_listings_load_no_library_of_analysis(verb: str, path: str, small_study_folder: Path) -> None:
    assert loaded_by_command(verb, small_study_folder / path) & NEVER == set()


def test_the_process_that_verifies_files_loads_no_library_of_analysis() -> None:
    assert loaded_by("import lensrl.store.verify") & NEVER == set()


def test_contributions_load_no_model_and_no_figure(small_study_folder: Path) -> None:
    assert loaded_by_command("contribution", small_study_folder) & NEVER == {"pandas", "scipy"}


@pytest.mark.slow
def test_the_process_that_directs_workers_loads_no_model(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(WITH_WORKERS)
    command = ("run", tmp_path / "study.toml", "--workers", 2)
    assert loaded_by_command(*command) & NEVER == {"pandas", "scipy"}
    assert {path.name for path in (tmp_path / "study").glob("*.h5")} == {
        "base.h5",
        "full-rl.seed-0.h5",
        "layer-7.seed-0.h5",
    }
    assert loaded_by_command(*command) & NEVER == {"pandas", "scipy"}  # nothing is missing


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_function_of_its_module_and_has_a_line_that_fits_the_list(verb: str) -> None:
    module = import_module(f"lensrl_cli.{python_name(verb)}")
    assert (getattr(module, python_name(verb)).__doc__ or "").count("Example: lensrl ") == 1
    assert len(VERBS[verb]) <= 62  # at 80 columns, one line a verb

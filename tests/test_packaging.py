"""What `pip install lensrl` brings: the wheel, built and read."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

import lensrl

ROOT = Path(__file__).parents[1]
# without the build backend at hand, pip fetches it
ISOLATION = ["--no-build-isolation"] if find_spec("hatchling") else []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *ISOLATION, "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    with ZipFile(path) as opened:
        yield opened


def metadata(wheel: ZipFile, file: str) -> str:
    (path,) = (name for name in wheel.namelist() if name.endswith(f".dist-info/{file}"))
    return wheel.read(path).decode()


@pytest.mark.parametrize(
    "path",
    [
        "lensrl/__init__.py",
        "lensrl_cli/main.py",
        *(f"lensrl/show/templates/{name}" for name in ("report.html.j2", "sections.html.j2", "page.css", "page.js")),
        *(
            f"lensrl/models/tiny/{family}/{name}"
            for family in ("qwen3", "qwen2.5", "qwen3-deep")
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        ),
    ],
)
def test_the_wheel_holds_what_a_study_needs(path: str, wheel: ZipFile) -> None:
    assert path in wheel.namelist()


def test_the_wheel_is_the_two_packages_byte_for_byte_and_nothing_else(wheel: ZipFile) -> None:
    sources = {
        path.relative_to(parent).as_posix(): path
        for parent, package in ((ROOT, "lensrl"), (ROOT / "cli", "lensrl_cli"))
        for path in (parent / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == sources.keys()
    for name in packed:
        assert wheel.read(name) == sources[name].read_bytes(), name
    assert {name.split("/")[0] for name in packed} == {"lensrl", "lensrl_cli"}  # no tests, no runs


def test_the_wheel_says_its_version_licence_and_python(wheel: ZipFile) -> None:
    said = Parser().parsestr(metadata(wheel, "METADATA"))
    assert (said["Name"], said["Version"]) == ("lensrl", lensrl.__version__)
    assert (said["Requires-Python"], said["License-Expression"]) == (">=3.11", "MIT")
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    requirements = said.get_all("Requires-Dist", [])
    assert any(requirement.startswith("torch>=") for requirement in requirements)
    assert not any("pytest" in requirement for requirement in requirements)


def test_the_unpacked_wheel_runs_by_its_entry_point_without_the_repository(wheel: ZipFile, tmp_path: Path) -> None:
    entries = ConfigParser()
    entries.read_string(metadata(wheel, "entry_points.txt"))
    module, function = entries["console_scripts"]["lensrl"].split(":")
    wheel.extractall(tmp_path / "site")
    code = (
        f"import sys, lensrl, {module} as entry\n"
        "print(lensrl.__file__, entry.__file__, file=sys.stderr)\n"
        f"sys.argv = ['lensrl', '--version']\nentry.{function}()"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"lensrl {lensrl.__version__}\n"
    assert done.stderr.count(str(tmp_path / "site")) == 2, done.stderr  # both packages come from the wheel


# The public names of the first version: programs that use them keep working.
NAMES_OF_0_1 = (
    "LensrlError", "Run", "Study", "StudyAgreement", "Verdict", "additivity_table", "agree", "along_training",
    "base_rivals", "compare_activations", "compare_layers", "compare_weights", "correlate_study", "load_recipe",
    "open_run", "open_study", "patch", "predictors", "read_contributions", "run_study", "runs", "verdict", "verify",
    "write_report",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES_OF_0_1)
def test_every_public_name_of_the_first_version_still_imports(name: str) -> None:
    assert callable(getattr(lensrl, name))
    assert name in lensrl.__all__


def test_public_names_come_from_where_type_checkers_see_them() -> None:
    """`lensrl/__init__.py` names each home twice: for a type checker, and for the import on demand."""
    tree = ast.parse((ROOT / "lensrl" / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lensrl.")
        for alias in node.names
    }
    assert seen == lensrl._HOMES
    assert sorted(lensrl.__all__) == sorted(lensrl._HOMES)

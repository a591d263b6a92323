"""What several test files share: the embedded base, a recipe small enough for a test, and one finished study."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lensrl import Study, open_study, run_study
from lensrl.models.base import Base, load_base
from lensrl.recipe import Evaluation, Recipe, Rl, Store
from tests.two_nodes import two_nodes

# Four steps show the path; layers 0, 3 and 7 are enough to tell one layer from another.
SMALL = Recipe.model_validate(
    {
        "model": "tiny:qwen3",
        "task": {"name": "arithmetic"},
        "layers": [0, 3, 7],
        "sets": {"ends": [0, 7]},
        "rl": Rl(steps=4, max_completion_tokens=5, learning_rate=2e-4),
        "evaluation": Evaluation(items=48, samples=2),
        "store": Store(probe_items=6, snapshots=[0.5, 1.0]),
    }
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine; tests of the marker `cluster` share it."""
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def base() -> Base:
    return load_base("tiny:qwen3")


@pytest.fixture(scope="session")
def finished_study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that really ran: base, full RL, layers 0, 3, 7, and a set. Nothing is ever written into it."""
    folder = tmp_path_factory.mktemp("finished") / "small"
    run_study(SMALL, folder).close()
    return folder


@pytest.fixture(scope="module")
def small_study_folder(finished_study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it for each file of tests: patching and reports leave their results in a study."""
    return Path(shutil.copytree(finished_study_folder, tmp_path_factory.mktemp("studies") / "small"))


@pytest.fixture
def small_study(small_study_folder: Path) -> Study:
    return open_study(small_study_folder)

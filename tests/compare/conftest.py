"""A study whose runs have different seeds: what the tests of `seed=None` share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensrl import Study, open_study
from lensrl.store.names import PATCH_FOLDER
from tests.reseal import resealed


@pytest.fixture
def uneven_seeds(finished_study_folder: Path, tmp_path: Path) -> Iterator[Study]:
    """full-rl has seeds 0 and 1 (there with the weights of layer-7), layer-3 seed 1 alone, and all others seed 0."""
    folder = tmp_path / "uneven"
    shutil.copytree(finished_study_folder, folder, ignore=shutil.ignore_patterns(PATCH_FOLDER))
    for name, source in (("full-rl", "layer-7"), ("layer-3", "layer-3")):
        shutil.copy(folder / f"{source}.seed-0.h5", folder / f"{name}.seed-1.h5")
        with resealed(folder / f"{name}.seed-1.h5") as file:
            file.attrs["run"], file.attrs["seed"], file.attrs["run_id"] = name, 1, f"{name}-1"
    (folder / "layer-3.seed-0.h5").unlink()
    with open_study(folder) as study:
        yield study

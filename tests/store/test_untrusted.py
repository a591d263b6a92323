"""What a file says of itself is not believed before it is used, and what is no file is not waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensrl import open_study
from lensrl.errors import Damaged, StoreError
from lensrl.store.run import Run
from lensrl.store.run_file import MOST_LAYERS
from tests.store.synthetic import add_run, make_study, resealed, write_full_run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_full_run(tmp_path / "full-rl.seed-3.h5")
    return tmp_path / "full-rl.seed-3.h5"


def widen(file: h5py.File) -> None:
    for scaled in ("training/layer_grad_norm", "activations/block_out", "activations/attn_out"):
        del file[scaled]
    del file["layer"]
    file["layer"] = np.arange(MOST_LAYERS + 1, dtype=np.int32)
    file.attrs["n_layers"] = MOST_LAYERS + 1


def test_a_pipe_in_a_study_is_listed_and_not_waited_for(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    add_run(folder, "base", {"only": [0.0, 1.0]})
    os.mkfifo(folder / "x.h5")
    (folder / "y.h5").mkdir()
    with open_study(folder) as study:
        assert [name for name, _ in study.runs] == ["base"]
        assert sorted(study.broken) == ["x.h5", "y.h5"]
        assert all("is no file" in why for why in study.broken.values())


@pytest.mark.parametrize(
    "forge",
    [lambda file: file.attrs.modify("n_layers", np.int64(80)), lambda file: file.attrs.modify("n_layers", -1), widen],
    ids=["more than the axis", "negative", "too many"],
)
def test_a_number_of_layers_that_cannot_be_is_refused(path: Path, forge: Callable[[h5py.File], None]) -> None:
    with resealed(path) as file:
        forge(file)
    with pytest.raises(Damaged, match="layers are too many, or differ from the length"):
        Run(path)


@pytest.mark.parametrize("recipe", ['{"sets": 5}', '{"sets": {"full-rl": {"x": 1}}}', "[]", "{"])
def test_a_recipe_that_is_none_is_said_to_be_damaged(path: Path, recipe: str) -> None:
    with resealed(path) as file:
        file.attrs["recipe"] = recipe
    with Run(path) as run, pytest.raises(Damaged, match=r"is damaged at .*recipe"):
        _ = run.layer_set


def test_a_preview_of_damaged_numbers_is_refused(path: Path) -> None:
    with Run(path) as run:
        dataset = run.file["deltas/0/attn.q.weight"]
        assert isinstance(dataset, h5py.Dataset)
        offset = dataset.id.get_offset()
        assert "e" in run.preview("deltas/0/attn.q.weight") or "." in run.preview("deltas/0/attn.q.weight")
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    with Run(path) as run, pytest.raises(Damaged, match=r"deltas/0/attn\.q\.weight \(its sha256 differs"):
        run.preview("deltas/0/attn.q.weight")


def test_a_run_whose_file_is_gone_still_says_how_large_it_was(path: Path) -> None:
    size = path.stat().st_size
    with Run(path) as run:
        path.unlink()
        assert run.bytes == size
        assert "full-rl" in run._repr_html_()
    with pytest.raises(StoreError, match="no file at"):
        Run(path)

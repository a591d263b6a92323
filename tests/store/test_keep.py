"""Runs that leave activations, or activations and deltas, out of their files (`store.keep`)."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest

from lensrl import Study, open_study, patch, run_study, write_report
from lensrl.compare.patching.graft import run_weights
from lensrl.errors import LensrlError, RecipeError
from lensrl.models.base import Base
from lensrl.recipe import Recipe, parse_recipe
from lensrl.recipe.spell import spell_recipe
from lensrl.store.file.deltas import measure_changes
from lensrl.store.verify import verify
from lensrl.train.materials import parameter_table
from lensrl.train.watch import NoWatcher
from tests.cli.typed import lensrl
from tests.conftest import SMALL


class Notes(NoWatcher):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def noted(self, line: str) -> None:
        self.lines.append(line)


def keeping(keep: str, **settings: object) -> Recipe:
    store = SMALL.store.model_copy(update={"keep": keep, "snapshots": []})
    rl = SMALL.rl.model_copy(update={"steps": 1})
    return SMALL.model_copy(update={"store": store, "rl": rl, "sets": {}, **settings})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The norms of most runs, and layer 3 with its deltas: a study may change its mind."""
    folder = tmp_path_factory.mktemp("keep") / "mixed"
    run_study(keeping("norms", layers=[0]), folder).close()
    run_study(keeping("deltas", layers=[0, 3]), folder).close()
    return folder


def test_norms_without_deltas_are_those_of_the_deltas(small_study: Study, base: Base) -> None:
    full = small_study["full-rl"]
    before = {name: tensor.numpy() for name, tensor in base.weights.items()}
    after = {name: tensor.numpy() for name, tensor in run_weights(full, base).items()}
    found = measure_changes(parameter_table(base), before, after)
    table = full.delta_norms()
    np.testing.assert_array_equal([change.norm for change in found], table["norm"])
    np.testing.assert_array_equal([change.changed for change in found], table["changed_share"] * table["size"])


def test_files_without_deltas_and_activations_are_good(mixed: Path) -> None:
    assert {check.status for check in verify(mixed)} == {"good"}
    with open_study(mixed) as study:
        full, layer = study["full-rl"], study["layer-3"]
        assert (full.keep, layer.keep) == ("norms", "deltas")
        assert not full.has_deltas
        assert layer.has_deltas
        assert not full.has_activations
        assert not layer.has_activations
        assert (full.delta_norms()["norm"] > 0).any()
        assert [*layer.deltas] == [3]
        assert full.bytes < layer.bytes / 2
        assert isinstance(study.contributions(), pd.DataFrame)
        write_report(study)


def test_what_needs_the_rest_says_so_in_a_line(mixed: Path) -> None:
    with (
        open_study(mixed) as study,
        pytest.raises(LensrlError, match=r"run .full-rl. has no deltas: it was made with store\.keep = .norms.; run"),
    ):
        patch(study, layers=[3])
    for words in (["cka", mixed], ["deltas", mixed], ["patch", mixed, "--from", "full-rl", "--layer", "all"]):
        done = lensrl(*words)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "store.keep = 'norms'" in done.stderr
    assert "0 layers have a contribution that is defined" in lensrl("bottleneck", mixed).stderr


def test_runs_that_keep_less_than_is_asked_are_named_and_made_again_where_they_are_moved(
    mixed: Path, tmp_path: Path
) -> None:
    def said(keep: str, folder: Path) -> list[str]:
        watcher = Notes()
        run_study(keeping(keep, layers=[0, 3]), folder, watcher).close()
        return watcher.lines

    assert said("norms", mixed) == []
    assert said("deltas", mixed) == [
        "2 of 4 runs are there and keep less than store.keep = 'deltas' (made with 'norms': full-rl.seed-0, "
        f"layer-0.seed-0); to make one again, move its file out of {mixed} and type the same command"
    ]
    (line,) = said("all", mixed)
    made = "made with 'norms': base, full-rl.seed-0, layer-0.seed-0; 'deltas': layer-3.seed-0"
    assert line.startswith(whole := f"4 of 4 runs are there and keep less than store.keep = 'all' ({made}); to")
    (tmp_path / "whole.toml").write_text(spell_recipe(keeping("all", layers=[0, 3])))
    for words in ([], ["--slurm"], ["--dry-run"]):
        done = lensrl("run", tmp_path / "whole.toml", "--out", mixed, *words)
        assert done.returncode == 0, done.stderr
        assert whole in done.stdout
    folder = tmp_path / "moved"
    copytree(mixed, folder)
    (folder / "layer-0.seed-0.h5").rename(tmp_path / "layer-0.h5")
    for _ in range(2):  # once to make it again, and once with nothing to make
        (line,) = said("deltas", folder)
        assert line.startswith("1 of 4 runs is there and keeps less")
    with open_study(folder) as study:
        assert study["layer-0"].keep == "deltas"


def test_settings_that_contradict_are_refused() -> None:
    data = SMALL.model_dump(mode="json")
    with pytest.raises(RecipeError, match=r"store\.keep = 'norms' leaves out the deltas that snapshots keep"):
        parse_recipe(data | {"store": {"keep": "norms", "snapshots": [0.5]}}, "recipe.toml")

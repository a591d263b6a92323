"""Files written by every version of the format, kept for good: this lensrl reads them all.

`run-N.h5` holds the arrays of `tests.store.synthetic`, written by the code that introduced version N.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from lensrl.store.file.exact import add
from lensrl.store.patch import PATCH_VERSION, SETS_SINCE, PatchKey, read_patch
from lensrl.store.run import Run
from lensrl.store.verify import check_file
from lensrl.store.write import RUN_VERSION
from tests.store.synthetic import (
    PARAMETERS,
    activations,
    after_weights,
    before_weights,
    probe,
    training,
    write_full_run,
)

RELEASED = Path(__file__).parent / "released"
CHANGED = [p.name for p in PARAMETERS[:5]]


def released(kind: str) -> list[Path]:
    return sorted(RELEASED.glob(f"{kind}-*.h5"))


def version_of(path: Path) -> int:
    found = re.fullmatch(r"(?:run|patch)-(\d+)\.h5", path.name)
    assert found is not None, path
    return int(found[1])


every_run = pytest.mark.parametrize("path", released("run"), ids=lambda path: path.name)
every_patch = pytest.mark.parametrize("path", released("patch"), ids=lambda path: path.name)


def test_the_first_version_of_each_format_is_kept() -> None:
    for kind, latest in (("run", RUN_VERSION), ("patch", PATCH_VERSION)):
        versions = [version_of(path) for path in released(kind)]
        assert versions[0] == 1
        assert max(versions) <= latest


@pytest.mark.parametrize("path", released("*"), ids=lambda path: path.name)
def test_a_released_file_is_of_the_version_in_its_name_and_good(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == version_of(path)
    assert check_file(path).status == "good"


@every_run
def test_a_released_run_has_the_header_that_was_written(path: Path) -> None:
    with Run(path) as run:
        assert (run.study, run.name, run.seed, run.layers) == ("synthetic", "full-rl", 3, [0, 1])
        assert (run.status, run.reason, run.base, run.fingerprint) == ("completed", "", "tiny:none", "0123")
        assert (run.n_layers, run.recipe, run.provenance) == (2, {"model": "tiny:none"}, {"device": "none"})
        assert run.format_version == version_of(path)
        assert run.score == run.item_score() == (0.75 + 0.375) / 2


@every_run
def test_a_released_run_is_a_tree_whose_labels_are_text(path: Path) -> None:
    """Whether or not its texts have the attribute that tells xarray so."""
    with Run(path) as run, run.to_xarray() as tree:
        assert tree["item"].dtype.kind == tree["parameters/part"].dtype.kind == "U"
        assert np.asarray(tree["item"]).tolist() == run.scores_by_item()["item"].tolist()
        assert tree["scores/score"].sel(item=run.scores_by_item()["item"].iloc[-1]).shape == (2,)


@every_run
def test_a_released_run_has_the_tables_that_were_written(path: Path, tmp_path: Path) -> None:
    """The same numbers, written today, and as they were given."""
    write_full_run(tmp_path / "today.h5")
    with Run(path) as run, Run(tmp_path / "today.h5") as today:
        for name in ("scores", "scores_by_item", "training", "probe"):
            assert getattr(run, name)().equals(getattr(today, name)()), name
        for name in ("delta_norms", "layer_delta_norms"):  # sums, which another processor rounds otherwise
            assert_frame_equal(getattr(run, name)(), getattr(today, name)(), rtol=1e-12, atol=0)
        assert run.scores()["score"].tolist() == [0.0, 1.0, 1.0, 1.0, 0.25, 0.5]
        assert run.training()["reward_mean"].tolist() == training()["reward_mean"].tolist()
        assert run.probe()["text"].tolist() == list(probe().text)


@every_run
def test_a_released_run_gives_the_trained_weights_bit_for_bit(path: Path) -> None:
    before, after = before_weights(), after_weights(CHANGED)
    with Run(path) as run:
        changes = dict(change for part in run.deltas for change in run.deltas.exact(part).values())
        assert list(run.deltas) == [0, 1, "embed"]
        for p in PARAMETERS[:5]:
            part = int(p.part) if p.part.isdecimal() else p.part
            np.testing.assert_array_equal(run.deltas[part][p.inner][...], changes[p.name].delta)
    assert set(changes) == set(CHANGED)
    for name, change in changes.items():
        assert add(before[name], change).tobytes() == after[name].tobytes()


@every_run
def test_a_released_run_has_the_activations_that_were_written(path: Path) -> None:
    with Run(path) as run:
        assert set(run.activations) == set(activations())
        for site, values in activations().items():
            np.testing.assert_array_equal(run.activations[site][...], values)


@every_patch
def test_a_released_patch_has_the_numbers_that_were_written(path: Path) -> None:
    result = read_patch(path)
    known: dict[str, Any] = {"donor": "full-rl", "into": "base", "seed": 3}
    if version_of(path) < SETS_SINCE:
        assert result.key == PatchKey("weights", "block", layers=(1,), **known)
    else:
        assert result.key == PatchKey("weights", "block", layers=(0, 1), sets="bottom", **known)
    assert (result.key.layer, result.patched) == (1, ["patched"])
    assert (result.benchmark, result.provenance) == (["easy", "easy", "hard"], {"device": "none"})
    assert result.sources == {"donor": "a" * 32, "into": "b" * 32}
    score = [[0.0, 0.25, 0.5], [1.0, 0.75, 1.0], [0.5, 0.5, 0.75]]  # into, donor, patched
    assert {name: values.tolist() for name, values in result.metrics.items()} == {
        "score": score, "reference_logprob": [[-value for value in row] for row in score],
    }  # fmt: skip

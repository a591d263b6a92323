"""The collection of runs: found by name and seed, with one rule for `seed=None`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lensrl.errors import LensrlError
from lensrl.store.runs import Runs
from tests.store.synthetic import add_run, make_study

SCORES = {"only": [1.0, 0.0, 0.0, 1.0]}


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    """Full RL has seeds 0, 1 and 2, of which 0 diverged; layer 0 has 1 and 2, layer 1 has 0 alone."""
    folder = make_study(tmp_path / "study")
    add_run(folder, "base", SCORES)
    add_run(folder, "full-rl", None, 0, status="diverged", reason="no gradient")
    for name, seed in [("full-rl", 1), ("full-rl", 2), ("layer-0", 1), ("layer-0", 2), ("layer-1", 0)]:
        add_run(folder, name, SCORES, seed)
    found = Runs(folder)
    yield found
    found.close()


def test_the_runs_of_a_name_come_by_seed(runs: Runs) -> None:
    assert [*runs.of("full-rl")] == [0, 1, 2]
    assert [*runs.of("full-rl", scored=True)] == [1, 2]
    assert [*runs.of("full-rl", 2)] == [2]
    assert all(run.name == "full-rl" and run.seed == seed for seed, run in runs.of("full-rl").items())
    assert runs.of("layer-7") == {}


def test_the_base_goes_with_every_seed(runs: Runs) -> None:
    assert runs.of("base", 2) == runs.of("base") == {0: runs["base", 0]}
    assert runs.find("base", 2) is runs.find("base")


def test_without_a_seed_the_lowest_that_all_have_is_meant(runs: Runs) -> None:
    assert runs.find("full-rl").seed == 0
    assert runs.shared_seed("base") == 0
    assert runs.shared_seed("full-rl", "base") == 0
    assert runs.shared_seed("full-rl", scored=True) == 1
    assert runs.shared_seed("full-rl", "layer-0") == 1
    assert runs.shared_seed("full-rl", "layer-1") == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("full-rl", "layer-1"), r"full-rl and layer-1 share no seed .*\[\[1, 2\], \[0\]\]"),
        (("full-rl", "layer-7"), "no run 'layer-7'"),
    ],
)
def test_where_no_seed_is_shared_the_reason_is_said(runs: Runs, names: tuple[str, str], message: str) -> None:
    with pytest.raises(LensrlError, match=message):
        runs.shared_seed(*names, scored=True)


def test_a_run_without_weights_is_found_but_not_as_scored(runs: Runs) -> None:
    assert runs.find("full-rl", 0).status == "diverged"
    with pytest.raises(LensrlError, match="no gradient"):
        runs.find_scored("full-rl", 0)
    with pytest.raises(LensrlError, match=r"no full-rl with seed 5; it has seeds \[0, 1, 2\]"):
        runs.find("full-rl", 5)

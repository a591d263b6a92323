"""Weights on the way: what a run keeps of its training is what a shorter training ends with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lensrl import open_study, verify
from lensrl.models.base import Base
from lensrl.recipe import Recipe, Rl, Store
from lensrl.store.file.exact import add, same_bits
from lensrl.store.file.training import training_folder
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.snapshots import Snapshots
from lensrl.train.study import run_study
from lensrl.train.training import train
from tests.conftest import SMALL

Weights = dict[str, np.ndarray]


def of_steps(steps: int) -> Recipe:
    return SMALL.model_copy(update={"rl": Rl.model_validate(SMALL.rl.model_dump() | {"steps": steps})})


def trained(base: Base, steps: int, layers: list[int] | None, snapshots: Snapshots | None = None) -> Weights:
    training = train(base, Arithmetic(), of_steps(steps), layers=layers, seed=5, snapshots=snapshots)
    return {name: weight.numpy() for name, weight in (base.weights | training.weights).items()}


def pristine(base: Base) -> Weights:
    return {name: tensor.numpy() for name, tensor in base.weights.items()}


@pytest.mark.parametrize("layers", [None, [3]], ids=["full RL", "one layer"])
def test_the_weights_after_a_step_are_those_of_a_training_that_ends_there(
    base: Base, tmp_path: Path, layers: list[int] | None
) -> None:
    snapshots = Snapshots(tmp_path / "scratch", {1, 2})
    end = trained(base, 3, layers, snapshots)
    kept = snapshots.weights(pristine(base))
    assert sorted(kept) == [1, 2]
    for step, weights in kept.items():
        expected = trained(base, step, layers)
        assert set(weights) == set(expected)
        assert len(weights) == len(expected)
        for name, values in expected.items():
            assert same_bits(weights[name], values), (step, name)
    moving = [name for name, values in end.items() if not same_bits(values, base.weights[name].numpy())]
    assert any(not same_bits(kept[1][name], kept[2][name]) for name in moving)
    assert any(not same_bits(kept[2][name], end[name]) for name in moving)


def test_a_snapshot_holds_only_what_was_trained_and_gives_the_rest_from_the_base(base: Base, tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "scratch", {1})
    trained(base, 1, [3], snapshots)
    before = pristine(base)
    weights = snapshots.weights(before)[1]
    with safe_open(tmp_path / "scratch" / "snapshot-1" / "0.safetensors", framework="np") as file:
        stored = set(file.keys())
    assert stored == {name for name in before if base.blocks.layer(name) == 3}
    for name in set(before) - stored:
        assert weights[name] is before[name]


def test_without_steps_to_keep_nothing_is_written(base: Base, tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "scratch", set())
    model = base.fresh()
    snapshots.keep(1, model)
    assert not (tmp_path / "scratch").exists()
    assert snapshots.weights(pristine(base)) == {}


def test_a_snapshot_is_of_its_moment(base: Base, tmp_path: Path) -> None:
    """Training goes on in the same memory."""
    snapshots, model = Snapshots(tmp_path / "scratch", {1}), base.fresh()
    snapshots.keep(1, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    before = pristine(base)
    assert all(same_bits(values, before[name]) for name, values in snapshots.weights(before)[1].items())


@pytest.mark.parametrize(("part", "files"), [(1, 90), (10**6, 4)])
def test_a_snapshot_is_written_in_parts(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, files: int
) -> None:
    monkeypatch.setattr("lensrl.train.snapshots.PART", part)
    snapshots, before = Snapshots(tmp_path / "scratch", {1}), pristine(base)
    snapshots.keep(1, base.fresh())
    assert len([*(tmp_path / "scratch" / "snapshot-1").iterdir()]) == files
    others = {name: values + 1 for name, values in before.items()}
    assert all(same_bits(values, before[name]) for name, values in snapshots.weights(others)[1].items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that kept the weights at a half and at the end of four steps."""
    recipe = SMALL.model_copy(update={"layers": [3], "sets": {}, "store": Store(probe_items=4, snapshots=[0.5, 1.0])})
    folder = tmp_path_factory.mktemp("kept") / "study"
    run_study(recipe, folder).close()
    return folder


def test_a_study_keeps_the_steps_that_its_recipe_asks_for(base: Base, folder: Path) -> None:
    with open_study(folder) as study:
        assert list(study["base"].snapshots) == []
        for name in ("full-rl", "layer-3"):
            assert list(study[name].snapshots) == [2, 4], name
        run = study["layer-3"]
        assert list(run.snapshots[2]) == list(run.deltas) == [3]
        for lazy, final in zip(run.snapshots[4][3].values(), run.deltas[3].values(), strict=True):
            assert lazy.name == final.name  # stored once
        training = train(base, Arithmetic(), of_steps(2), layers=[3], seed=0)
        expected = {name: weight.numpy() for name, weight in training.weights.items()}
        changes = run.snapshots[2].exact(3)
        assert len(changes) == len(run.deltas[3])
        for name, change in changes.values():
            assert same_bits(add(base.weights[name].numpy(), change), expected[name]), name
        assert 0 < run.snapshots[2][3].frobenius != run.deltas[3].frobenius


def test_no_scratch_is_left_and_every_file_is_good(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "base.h5", "full-rl.seed-0.h5", "layer-3.seed-0.h5", "recipe.json",
    ]  # fmt: skip
    assert {verdict.status for verdict in verify(folder)} == {"good"}


def test_scratch_is_left_nowhere_when_a_training_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def broken(self: Snapshots, before: object) -> None:
        seen.append(training_folder(tmp_path / "study" / "full-rl.seed-0.h5").is_dir())
        raise RuntimeError("stop")

    monkeypatch.setattr(Snapshots, "weights", broken)
    recipe = of_steps(2).model_copy(update={"layers": [], "sets": {}, "store": Store(probe_items=4, snapshots=[0.5])})
    with pytest.raises(RuntimeError, match="stop"):
        run_study(recipe, tmp_path / "study")
    assert seen == [True]
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["base.h5", "recipe.json"]

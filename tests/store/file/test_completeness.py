"""`verify` misses every group and dataset that `runs/FORMAT.md` says a run of this kind MUST have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensrl.store.file.checked import dataset_at, group_at
from lensrl.store.file.completeness import (
    COLUMNS,
    COLUMNS_OF_GIGPO,
    COLUMNS_OF_LOGS,
    COLUMNS_OF_SAMPLER,
    COLUMNS_OF_TURNS,
    COLUMNS_OF_UPDATES,
    GROUPS,
)
from lensrl.store.file.hdf5 import create
from lensrl.store.verify import check_file
from lensrl.train.curve import TrainingCurve
from tests.store.synthetic import (
    PARAMETERS,
    activations,
    add_run,
    after_weights,
    before_weights,
    header,
    probe,
    resealed,
    score_arrays,
    training,
    write_full_run,
    write_run,
)
from tests.store.test_format import RUN, table

KINDS = ("base", "trained", "adopted", "diverged")
OPTIONAL_COLUMNS = (*COLUMNS_OF_TURNS, *COLUMNS_OF_GIGPO, *COLUMNS_OF_UPDATES, *COLUMNS_OF_SAMPLER, *COLUMNS_OF_LOGS)
MAY_BE_ABSENT = {
    "training/turns", "training/anchor_group_size", "training/shared_anchor_share", "training/clipped_share",
    "training/sampler_mismatch", "training/entropy", "training/kl",
}  # fmt: skip
TABLES = {
    "scores", "completions", "training", "training_completions", "parameters", "probe", "activations",
}  # fmt: skip
DATASETS = [row[0] for row in table(RUN, "dataset") if row[0].partition("/")[0] in TABLES]
NEEDED = [name for name in DATASETS if name not in {*MAY_BE_ABSENT, "scores/answer", "scores/also"}]
NEEDS = {
    (group.strip("`"), kind): need
    for groups, *needs in table(RUN, "group")
    for group in groups.split(", ")
    for kind, need in zip(KINDS, needs, strict=True)
}


def found(path: Path) -> tuple[str, str]:
    verdict = check_file(path)
    return verdict.status, verdict.where.removeprefix("not as the format says: ")


def run_of(kind: str, folder: Path) -> Path:
    if kind == "trained":
        write_full_run(folder / "full-rl.seed-3.h5")
        return folder / "full-rl.seed-3.h5"
    if kind == "adopted":
        write_full_run(folder / "full-rl.seed-3.h5")
        with resealed(folder / "full-rl.seed-3.h5") as file:
            file.attrs["origin"] = "checkpoint"
            del file["training"], file["training_completions"]
        return folder / "full-rl.seed-3.h5"
    if kind == "base":
        return add_run(folder, "base", {"only": [0.0, 1.0]})
    return add_run(folder, "layer-0", None, status="diverged", reason="the loss is not finite at step 3")


def columns_of(path: Path, algorithm: str, *names: str, updates: int = 1) -> tuple[str, str]:
    """What `verify` says of a run of this algorithm with these columns beside those of every run."""
    with resealed(path) as file:
        file.attrs["recipe"] = json.dumps({"rl": {"algorithm": algorithm, "updates_per_rollout": updates}})
        for name in names:
            create(group_at(file, "training"), name, np.ones(3), ["step"])
    return found(path)


@pytest.mark.parametrize("name", NEEDED)
def test_a_dataset_that_every_run_has_is_missed_by_its_name(tmp_path: Path, name: str) -> None:
    path = run_of("trained", tmp_path)
    assert found(path) == ("good", "")
    with resealed(path) as file:
        del file[name]
    assert found(path) == ("damaged", f"there is no {name}")


@pytest.mark.parametrize(("group", "kind"), NEEDS)
def test_a_run_has_the_groups_of_its_kind(tmp_path: Path, group: str, kind: str) -> None:
    path, need = run_of(kind, tmp_path), NEEDS[group, kind]
    assert found(path) == ("good", "")
    with resealed(path) as file:
        if need == "MUST NOT":
            file.create_group(group)
        elif group in file:
            del file[group]
        if group == "deltas" and need == "MAY":  # a run may leave every parameter as it was
            del file["repairs"]
            for column in ("changed", "norm"):
                dataset_at(file, f"parameters/{column}")[...] = 0
    if need == "MAY":
        assert found(path) == ("good", "")
    else:
        status, where = found(path)
        assert status == "damaged"
        assert where.startswith(f"there is no {group}" if need == "MUST" else f"{group} is there")


def test_the_table_of_groups_is_that_of_the_description() -> None:
    assert {(group, kind): need for group, needs in GROUPS.items() for kind, need in needs.items()} == NEEDS


def test_the_columns_are_those_of_a_training_curve_and_of_the_description() -> None:
    columns = {*COLUMNS, *OPTIONAL_COLUMNS}
    assert columns == vars(TrainingCurve(1)).keys() - {"n_layers", "completions"}
    assert {f"training/{name}" for name in columns} == {name for name in DATASETS if name.startswith("training/")}
    assert {f"training/{name}" for name in OPTIONAL_COLUMNS} == MAY_BE_ABSENT


def test_a_curve_has_the_columns_of_its_algorithm(tmp_path: Path) -> None:
    for algorithm, names, expected in [
        ("grpo", [], ("good", "")),
        ("grpo", ["turns"], ("good", "")),  # a task in turns
        ("grpo", ["anchor_group_size"],
         ("damaged", "training/anchor_group_size is there, and the algorithm is not gigpo")),
        ("gigpo", ["turns"], ("damaged", "there is no training/anchor_group_size, and the algorithm is gigpo")),
        ("gigpo", ["anchor_group_size", "shared_anchor_share"],
         ("damaged", "there is no training/turns, and the algorithm is gigpo")),
        ("gigpo", ["turns", "anchor_group_size", "shared_anchor_share"], ("good", "")),
        ("grpo", ["clipped_share"], ("damaged", "training/clipped_share is there, and a rollout has one update")),
    ]:  # fmt: skip
        assert columns_of(run_of("trained", tmp_path), algorithm, *names) == expected, (algorithm, names)
    assert columns_of(run_of("diverged", tmp_path), "gigpo") == ("good", "")  # before its first step had turns
    for names, expected in (
        ([], ("damaged", "there is no training/clipped_share, and a rollout has several updates")),
        (["clipped_share"], ("good", "")),
    ):
        assert columns_of(run_of("trained", tmp_path), "grpo", *names, updates=4) == expected


@pytest.mark.parametrize("recipe", ["[]", '{"rl": 3}', "{", "[" * 20_000])
def test_a_recipe_that_is_none_is_damage(tmp_path: Path, recipe: str) -> None:
    path = run_of("trained", tmp_path)
    with resealed(path) as file:
        file.attrs["recipe"] = recipe
    assert found(path)[0] == "damaged"


def test_a_curve_that_diverged_before_its_first_number_is_good(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    about = header("layer-0", status="diverged", reason="a reward is not finite at step 1")
    write_run(path, about, PARAMETERS, before_weights(), training=TrainingCurve(2).arrays())
    assert found(path) == ("good", "")


@pytest.mark.parametrize(
    ("run", "layers", "changed", "expected"),
    [
        ("full-rl", [0, 1], slice(None), "good"),
        ("full-rl@0.0004", [0, 1], slice(None), "good"),
        ("full-rl", [0], slice(1, 3), "attribute layers is [0], of the 2 layers of run 'full-rl'"),
        ("layer-0", [0], slice(1, 3), "good"),
        ("layer-0@0.0004", [0], slice(1, 3), "good"),
        ("layer-0", [1], slice(3, 5), "attribute layers is [1], of the 2 layers of run 'layer-0'"),
        ("layer-0", [0], slice(1, 4), "parameters/changed says 4 of model.layers.1.norm.weight"),
        ("layer-0", [0], slice(0, 3), "parameters/changed says 28 of model.embed.weight"),
        ("top-1", [1], slice(3, 5), "good"),
        ("top-1", [1], slice(1, 4), "parameters/changed says 16 of model.layers.0.attn.q.weight"),
        ("top-1", [], slice(0), "attribute layers is []"),
        ("everything", [0, 1], slice(None), "good"),
    ],
)
def test_a_run_changes_what_it_trains(
    tmp_path: Path, run: str, layers: list[int], changed: slice, expected: str
) -> None:
    write_run(
        tmp_path / "run.h5",
        replace(header(run), layers=layers),
        PARAMETERS,
        before_weights(),
        after=after_weights([p.name for p in PARAMETERS][changed]),
        training=training(),
        scores=score_arrays(np.array([[0.0, 1.0]])),
        probe=probe(),
        activations=activations(),
    )
    status, where = found(tmp_path / "run.h5")
    assert (status, where) == ("good", "") if expected == "good" else where.startswith(expected)


def test_the_base_is_completed(tmp_path: Path) -> None:
    path = run_of("base", tmp_path)
    with resealed(path) as file:
        file.attrs["status"] = "collapsed"
    assert found(path) == ("damaged", "attribute status is 'collapsed', and the base is always 'completed'")


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"origin": "merging"}, "attribute origin is 'merging', not one of training, checkpoint"),
        ({"status": "collapsed"}, "attribute status is 'collapsed', and a run from a checkpoint is always 'completed'"),
        ({"also": "embed,layer"}, "attribute also is 'embed,layer'"),
        ({"origin": "training"}, "there is no training, and the run is not diverged"),
    ],
)
def test_a_run_from_a_checkpoint_says_so(tmp_path: Path, attributes: dict[str, str], complaint: str) -> None:
    path = run_of("adopted", tmp_path)
    with resealed(path) as file:
        file.attrs.update(attributes)
    assert found(path)[1].startswith(complaint)


def test_the_parts_that_a_checkpoint_may_move_are_in_its_attributes(tmp_path: Path) -> None:
    moved = ["model.embed.weight", "model.layers.0.attn.q.weight"]
    about = replace(header("layer-0"), origin="checkpoint")
    for also, status in ((["embed"], "good"), ((), "damaged")):
        write_run(
            tmp_path / f"{status}.h5", replace(about, also=also), PARAMETERS, before_weights(),
            after=after_weights(moved), scores=score_arrays(np.array([[0.0, 1.0]])), probe=probe(),
            activations=activations(),
        )  # fmt: skip
        assert found(tmp_path / f"{status}.h5")[0] == status
    with resealed(tmp_path / "good.h5") as file:
        file.attrs["origin"] = "training"
    assert found(tmp_path / "good.h5")[0] == "damaged"


def test_the_last_snapshot_of_a_checkpoint_may_be_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    names = [p.name for p in PARAMETERS]
    write_run(
        path, replace(header("full-rl"), origin="checkpoint", snapshots=[100, 200]), PARAMETERS, before_weights(),
        after=after_weights(names), snapshots={100: after_weights(names[:2])},
        scores=score_arrays(np.array([[0.0, 1.0]])), probe=probe(), activations=activations(),
    )  # fmt: skip
    assert found(path) == ("good", "")
    with resealed(path) as file:
        file.attrs["snapshots"] = np.array([100, 150, 200], np.int32)
    assert found(path)[1] == "there is no snapshots/150, which attribute snapshots names"

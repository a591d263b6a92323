"""Files that somebody changed and sealed again: `verify` knows what the format says, and names what is not so.

Each of them has checksums that hold. The original has everything that a run can have: deltas with repairs, one snapshot
in a group of its own and one at the end of training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from lensrl.store.file.hdf5 import axis, create
from lensrl.store.patch import PatchKey, PatchResult, write_patch
from lensrl.store.verify import check_file
from tests.store.synthetic import (
    PARAMETERS,
    activations,
    after_weights,
    before_weights,
    header,
    probe,
    resealed,
    score_arrays,
    training,
    write_run,
)

Edit = Callable[[h5py.File], object]

CHANGED = [p.name for p in PARAMETERS[:5]]
Q, NORM = "0/attn.q.weight", "1/norm.weight"
CONV_NAME = "model.layers.0.mlp.conv.weight"


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    found = file[name]
    assert isinstance(found, h5py.Dataset)
    return found


def put(name: str, where: Any, value: Any) -> Edit:
    """Other numbers in a dataset."""
    return lambda file: dataset(file, name).__setitem__(where, value)


def says(name: str, value: Any, at: str = "/") -> Edit:
    """Another attribute."""
    return lambda file: file[at].attrs.__setitem__(name, value)


def gone(*names: str) -> Edit:
    return lambda file: [file.__delitem__(name) for name in names]


def moved(old: str, new: str) -> Edit:
    return lambda file: file.move(old, new)


def remade(name: str, dtype: Any = None, *, at: str = "", **filters: Any) -> Edit:
    """The same numbers once more, as another type, at another place, or stored in another way."""

    def edit(file: h5py.File) -> None:
        old = dataset(file, name)
        values = old[...] if dtype is None else old[...].astype(dtype)
        scales, said = [scale[0] for scale in old.dims], dict(old.attrs)
        how = {"chunks": True, "fletcher32": True} | filters
        if not at:
            del file[name]
        made = file.create_dataset(at or name, data=values, **how)
        for dimension, scale in zip(made.dims, scales, strict=True):
            dimension.attach_scale(scale)
        if "parameter" in said:
            made.attrs["parameter"] = said["parameter"]

    return edit


def both(*edits: Edit) -> Edit:
    return lambda file: [edit(file) for edit in edits]


REPAIR = f"repairs/{NORM}"
LATER = f"snapshots/2/deltas/{Q}"
FORGED: dict[str, tuple[Edit, str]] = {
    "no group of a snapshot": (says("snapshots", np.array([1, 2, 3], np.int32)), "no snapshots/1"),
    "a snapshot after the end": (says("snapshots", np.array([2, 50], np.int32)), "attribute snapshots"),
    "a group of no snapshot": (says("snapshots", np.array([3], np.int32)), "snapshots/2 is there"),
    "a snapshot without its table": (gone("snapshots/2/changed"), "no snapshots/2/changed"),
    "no delta": (gone(f"repairs/{Q}", f"deltas/{Q}"), f"no deltas/{Q}"),
    "no deltas": (gone("repairs", "deltas"), "no deltas/embed/model.embed.weight"),
    "no delta of a snapshot": (gone(f"snapshots/2/repairs/{Q}", LATER), f"no {LATER}"),
    "a delta that changed nothing": (
        both(put("parameters/changed", 1, 0), put("parameters/norm", 1, 0)), f"deltas/{Q} is there"),
    "a norm that changed nothing": (put("parameters/norm", 5, 1.0), "parameters/norm"),
    "another layer": (moved(f"deltas/{Q}", "deltas/1/attn.q.weight"), "deltas/1/attn.q.weight is not the place of"),
    "no layer": (moved(f"deltas/{Q}", "deltas/77/attn.q.weight"), "deltas/77/attn.q.weight is not the place of"),
    "another name": (moved(f"deltas/{Q}", "deltas/0/q.weight"), "deltas/0/q.weight is not the place of"),
    "two deltas": (remade(f"deltas/{Q}", at="deltas/0/again"), "deltas/0/again is not the place of"),
    "another parameter": (says("parameter", CONV_NAME, at=f"deltas/{Q}"), f"{Q} is not the place of {CONV_NAME}"),
    "no parameter": (says("parameter", "unknown", at=LATER), f"{LATER} is not the place of unknown"),
    "another size": (put("parameters/size", 1, 99), f"deltas/{Q} has 16 entries"),
    "an infinite delta": (
        both(put(f"deltas/{Q}", (0, 0), np.inf), put("parameters/norm", 1, np.inf)), f"deltas/{Q} has the norm inf"),
    "a delta of NaN": (
        both(put(f"deltas/{Q}", (0, 0), np.nan), put("parameters/norm", 1, np.nan)), f"deltas/{Q} has the norm nan"),
    "an infinite repair": (put(f"{REPAIR}/value", 0, np.inf), f"{REPAIR}/value"),
    "a repair of NaN": (put(f"snapshots/2/repairs/{Q}/value", 0, np.nan), f"snapshots/2/repairs/{Q}/value"),
    "repairs twice": (put(f"{REPAIR}/where", slice(None), [3, 3]), f"{REPAIR}/where"),
    "repairs backwards": (put(f"{REPAIR}/where", slice(None), [3, 2]), f"{REPAIR}/where"),
    "a repair outside": (put(f"{REPAIR}/where", slice(None), [3, 4]), f"{REPAIR}/where"),
    "repairs without value": (gone(f"{REPAIR}/value"), f"no {REPAIR}/value"),
    "repairs without where": (gone(f"{REPAIR}/where"), f"no {REPAIR}/where"),
    "repairs without delta": (moved(f"repairs/{NORM}", "repairs/1/attn.norm.weight"), "no deltas/1/attn.norm.weight"),
    "a score of NaN": (says("score", np.nan), "says the score nan"),
    "an item's score of NaN": (both(put("scores/score", (0, 0), np.nan), says("score", np.nan)), "scores/score"),
    "an infinite score": (both(put("scores/score", (0, 0), np.inf), says("score", np.inf)), "scores/score"),
    "layers from 1": (put("layer", slice(None), [1, 2]), "layer does not count up"),
    "more layers": (says("n_layers", 3), "n_layers"),
    "steps from 0": (put("step", slice(None), [0, 1, 2]), "step does not count up"),
    "samples backwards": (put("sample", slice(None), [1, 0]), "sample does not count up"),
    "tokens": (put("token", 0, 7), "token does not count up"),
    "features": (put("feature", 4, 0), "feature does not count up"),
    "rows": (put("deltas/row_4", 0, 1), "deltas/row_4 does not count up"),
    "other parts outside": (put("outside", 0, b"lm_head"), "outside is not"),
    "more changed than there are": (put("parameters/changed", 1, 17), "parameters/changed"),
    "fewer changed than none": (put("parameters/changed", 5, -1), "parameters/changed"),
    "more changed in a snapshot": (put("snapshots/2/changed", 1, 17), "snapshots/2/changed"),
    "a part that is no layer": (put("parameters/part", 1, b"2"), "parameters/part"),
    "a part that is nowhere": (put("parameters/part", 5, b"head"), "parameters/part"),
    "the part of another layer": (put("parameters/part", 1, b"1"), "parameters/part"),
    "a layer's part outside": (put("parameters/part", 1, b"embed"), "parameters/"),
    "a component that is none": (put("parameters/component", 1, b"head"), "parameters/component"),
    "a parameter twice": (put("parameter", 1, CONV_NAME.encode()), "parameter holds a name twice"),
    "a base norm of NaN": (put("parameters/base_norm", 0, np.nan), "parameters/base_norm"),
    "an activation of NaN": (put("activations/block_out", (0, 1, 2), np.nan), "activations/block_out"),
    "an infinite activation": (put("activations/attn_out", (0, 1, 2), -np.inf), "activations/attn_out"),
    "an item that is no text": (put("item", 0, b"\xff\xfe"), "item holds b'\\xff\\xfe'"),
    "a token that is no text": (put("probe/text", 0, b"\xff"), "probe/text"),
    "a benchmark that is no text": (put("scores/benchmark", 0, b"\xff"), "scores/benchmark"),
    "scores as float64": (remade("scores/score", "f8"), "scores/score holds float64, not float32"),
    "curves as float32": (remade("training/loss", "f4"), "training/loss holds float32"),
    "lengths as int64": (remade("scores/length", "i8"), "scores/length holds int64"),
    "big-endian deltas": (remade(f"deltas/{Q}", ">f4"), f"deltas/{Q} holds >f4"),
    "big-endian activations": (remade("activations/attn_out", ">f4"), "activations/attn_out holds >f4"),
    "text in ASCII": (remade("scores/benchmark", "S4"), "scores/benchmark holds |S4"),
    "numbers to be scaled": (says("scale_factor", 2.0, at="scores/score"), "an attribute scale_factor"),
    "numbers to be missing": (says("_FillValue", np.float32(1), at=f"deltas/{Q}"), "an attribute _FillValue"),
    "numbers to be times": (says("units", "days since 2000-01-01", at="training/loss"), "an attribute units"),
    "numbers to be text": (says("_Encoding", "utf-8", at="training/loss"), "an attribute _Encoding"),
    "two axes for one dimension": (
        lambda file: dataset(file, "scores/score").dims[1].attach_scale(file["step"]), "scores/score has two axes"),
    "text in another encoding": (says("_Encoding", "latin-1", at="item"), "item has an attribute _Encoding"),
    "no checksums": (remade("scores/score", fletcher32=False), "scores/score"),
    "deltas without checksums": (remade(f"deltas/{Q}", fletcher32=False), f"deltas/{Q}"),
    "in one piece": (remade("scores/score", chunks=None, fletcher32=False), "scores/score"),
    "compressed": (remade("activations/attn_out", **hdf5plugin.Blosc2("zstd")), "activations/attn_out is compressed"),
    "another status": (says("status", "running"), "attribute status"),
    "another compression": (says("compression", "gzip"), "attribute compression"),
    "a layer that is not there": (says("layers", np.array([0, 2], np.int32)), "attribute layers"),
    "a layer before the first": (says("layers", np.array([-1], np.int32)), "attribute layers"),
    "a run in a folder": (says("run", "a/b"), "attribute run"),
    "a run without a name": (says("run", ""), "attribute run"),
    "a base that was trained": (both(says("run", "base"), says("layers", np.zeros(0, np.int32))), "training is there"),
    "a base that trained a layer": (says("run", "base"), "attribute layers"),
    "a run that was not trained": (both(gone("training"), says("status", "collapsed")), "no training"),
    "a run without scores": (gone("scores"), "no scores"),
    "weights of a run that diverged": (
        both(gone("scores", "completions", "probe", "activations"), says("status", "diverged")), "deltas is there"),
    "activations of nothing": (gone("probe"), "no probe"),
    "a site of its own": (moved("activations/attn_out", "activations/other"), "activations/other"),
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_run(
        tmp_path / "run.h5",
        replace(header("full-rl"), snapshots=[2, 3]),
        PARAMETERS,
        before_weights(),
        after=after_weights(CHANGED),
        snapshots={2: after_weights(CHANGED[:3])},
        training=training(),
        scores=score_arrays(np.array([[0.0, 1.0], [0.25, 0.5]])),
        probe=probe(),
        activations=activations(),
    )
    with resealed(tmp_path / "run.h5") as file:  # a second repair, to be out of order with the first
        del file[REPAIR]
        axis(group := file.create_group(REPAIR), "repair", 2)
        create(group, "where", np.array([1, 3]), ["repair"])
        create(group, "value", np.array([0.5, 0.25], np.float32), ["repair"])
    return tmp_path / "run.h5"


def found(path: Path) -> tuple[str, str]:
    verdict = check_file(path)
    assert "\n" not in verdict.where
    return verdict.status, verdict.where


@pytest.mark.parametrize(("edit", "word"), FORGED.values(), ids=FORGED)
def test_what_is_not_as_the_format_says_is_damage_at_its_name(path: Path, edit: Edit, word: str) -> None:
    assert found(path) == ("good", "")
    with resealed(path) as file:
        edit(file)
    status, where = found(path)
    assert status == "damaged"
    assert word in where


@pytest.mark.parametrize("name", ["training/reward_mean", "training/step_time", "activations/mlp_out"])
def test_a_run_that_lacks_what_every_run_has_is_damaged(small_study_folder: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.h5"
    shutil.copy(small_study_folder / "layer-3.seed-0.h5", path)
    with resealed(path) as file:
        del file[name]
    assert found(path) == ("damaged", f"not as the format says: there is no {name}")


def test_a_curve_and_a_score_as_an_own_task_has_them_are_good(path: Path) -> None:
    """Scores are outside [0, 1]; the loss of the step that diverged is NaN."""
    with resealed(path) as file:
        dataset(file, "scores/score")[...] = [[-3.0, 7.0], [2.0, 2.0]]
        file.attrs["score"] = 2.0
        assert np.isnan(dataset(file, "training/loss")[-1])
    assert found(path) == ("good", "")


def test_a_run_that_diverged_may_have_nothing_but_its_curve(path: Path) -> None:
    with resealed(path) as file:
        for name in ("scores", "completions", "probe", "activations", "deltas", "repairs", "snapshots"):
            del file[name]
        for name in ("changed", "norm"):
            dataset(file, f"parameters/{name}")[...] = 0
        file.attrs.update({"status": "diverged", "score": np.nan, "snapshots": np.zeros(0, np.int32)})
    assert found(path) == ("good", "")
    with resealed(path) as file:
        file.attrs["score"] = 0.5
    assert found(path) == ("damaged", "says the score 0.5; its items have nan")


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (put("item", 0, 5), "item does not count up"),
        (put("model", 0, b"donor"), "model is donor, donor, patched"),
        (put("benchmark", 0, b"\xff"), "benchmark holds"),
        (says("what", "nothing"), "attribute what"),
        (says("sets", "all"), "attribute sets"),
        (says("component", "head"), "attribute component is 'head'"),
        (put("model", 2, b"head-0"), "attribute component is 'block'"),
        (says("layers", np.array([3, 1], np.int32)), "attribute layers is [3, 1]"),
        (says("layers", np.zeros(0, np.int32)), "attribute layers is []"),
        (says("sources", "[]"), "attribute sources is no JSON object"),
    ],
)
def test_a_patching_result_that_is_not_as_the_format_says_is_damaged(tmp_path: Path, edit: Edit, word: str) -> None:
    key = PatchKey("weights", "block", (1,), "full-rl", "base", 0)
    path = write_patch(tmp_path, PatchResult(key, {"score": np.zeros((3, 2))}, ["a", "b"], {"donor": "x"}, {}))
    assert found(path) == ("good", "")
    with resealed(path) as file:
        edit(file)
    status, where = found(path)
    assert status == "damaged"
    assert word in where

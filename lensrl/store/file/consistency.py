"""Check that the contents of a file agree with each other and with `runs/FORMAT.md`.

`verify` calls `check_layout`, which reads the whole file. Names, types and axes are checked in `layout.py`; which
groups and datasets a run must have is checked in `completeness.py`, and the deltas in `changes.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import h5py
import numpy as np

from lensrl.recipe.layers import OUTSIDE
from lensrl.store.file.changes import also_trained, check_changes, check_repairs, named_layers, read_parameters, square
from lensrl.store.file.checked import attribute, dataset_at, group_at, has, members, pieces, read_array, read_strings
from lensrl.store.file.completeness import CHECKPOINT, TRAINING, check_complete, origin_of
from lensrl.store.file.layout import DELTA, REPAIRS, Names, check_names
from lensrl.store.file.texts import Texts

CHOICES = {  # attribute -> its allowed values
    "status": ("completed", "collapsed", "diverged"),
    "origin": (TRAINING, CHECKPOINT),
    "compression": ("none", "blosc2-zstd"),
    "what": ("weights", "activations"),
    "component": ("block", "attn", "mlp", "head", "direct", "stream"),
    "sets": ("single", "bottom", "top", "pairs", "together", "everything"),
}

FINITE = re.compile(rf"activations/.*|{REPAIRS}/value")
FIRST_PLUGIN = 256  # filters of HDF5 itself have smaller numbers; filters with this number or a larger one are plugins


def check_layout(file: h5py.File) -> None:
    """Compare a whole file with its format.

    Every dataset is read, so that HDF5 compares all of its checksums. Raises KeyError for the first part of the file
    that is missing, ValueError for the first part that is wrong, and OSError for a wrong checksum.
    """
    names = check_names(file)
    for name, allowed in CHOICES.items():
        if name in file.attrs and (value := attribute(file, name)) not in allowed:
            raise ValueError(f"attribute {name} is {value!r}, not one of {', '.join(allowed)}")
    for name in names.datasets:
        _check_values(dataset_at(file, name), name)
    if str(attribute(file, "format")) == "lensrl-run":
        _check_run(file, names)
    else:
        _check_patch(file)


def _check_run(file: h5py.File, names: Names) -> None:
    # First the header, then the groups that a run of this kind has, then the contents of the groups.
    _check_header(file)
    check_complete(file, names.groups)
    _check_filters(file, names.datasets)
    _check_snapshots(file)
    _check_texts(file)
    # The deltas of the run are below the root of the file, the deltas of a snapshot below snapshots/STEP.
    parameters = read_parameters(file)
    for root in ("", *(f"{group}/" for group in names.groups if re.fullmatch(r"snapshots/\d+", group))):
        below = [name for name in names.datasets if name.startswith(f"{root}deltas/")]
        check_changes(file, root, parameters, deltas=[name for name in below if re.fullmatch(DELTA, name)])
    for name in names.datasets:
        if re.fullmatch(REPAIRS + "/where", name):
            check_repairs(file, name)


def _check_values(dataset: h5py.Dataset, name: str) -> None:
    """Check that texts are UTF-8, that axes count up, and that scores, activations and repairs are finite.

    Deltas are not read here: `check_changes` reads them.
    """
    if dataset.dtype.kind == "S":
        for piece in pieces(dataset):
            _check_utf8(piece, name)
    elif dataset.is_scale:
        _check_count(dataset, name)
    elif name == "scores/score":
        _check_scores(dataset)
    elif FINITE.fullmatch(name):
        if not math.isfinite(square(dataset)):
            raise ValueError(f"{name} holds numbers that are not finite")
    elif not re.fullmatch(DELTA, name):
        for _ in pieces(dataset):  # HDF5 compares the checksums while it reads
            pass


def _check_scores(dataset: h5py.Dataset) -> None:
    """Check that scores are finite, each item's samples first, and NaN in the places of samples that it lacks.

    Only benchmarks with different numbers of samples leave places free, and one item of them has all samples.
    """
    file = dataset.file
    there = np.isfinite(score := read_array(file, "scores/score"))
    counts = there.sum(axis=1)
    if not (np.isnan(score) | there).all() or (there[:, 1:] > there[:, :-1]).any() or (counts == 0).any():
        raise ValueError("scores/score holds numbers that are not finite")
    benchmark = np.array(read_strings(file, "scores/benchmark"))
    for name in np.unique(benchmark):
        if len({*counts[benchmark == name].tolist()}) > 1:
            raise ValueError(f"scores/score has different numbers of samples for items of benchmark {name}")
    if counts.max(initial=0) < score.shape[1]:
        raise ValueError(f"scores/score has {score.shape[1]} samples, and no item has so many")
    for column in ("length", "truncated"):
        if has(file, f"scores/{column}") and read_array(file, f"scores/{column}")[~there].any():
            raise ValueError(f"scores/{column} holds numbers of samples that are not there")


def _check_utf8(texts: np.ndarray, name: str) -> None:
    for raw in texts.reshape(-1).tolist():
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{name} holds {raw[:80]!r}, which is no UTF-8") from None


def _check_count(axis: h5py.Dataset, name: str) -> None:
    """Check that an axis holds 0, 1, ..., or 1, 2, ... for `step`, and that it has the length that its name gives."""
    first = done = 1 if name == "step" else 0
    for piece in pieces(axis):
        if not np.array_equal(piece, np.arange(done, done + len(piece))):
            raise ValueError(f"{name} does not count up from {first}")
        done += len(piece)
    length = re.search(r"_(\d+)$", name)
    if length is not None and int(length[1]) != len(axis):
        raise ValueError(f"{name} has the length {len(axis)}")


def _check_patch(file: h5py.File) -> None:
    """Check the models, the layers and the JSON attributes of a patching result."""
    models = read_strings(file, "model")
    patched = models[2:]
    if models[:2] != ["into", "donor"] or patched not in (["patched"], [f"head-{i}" for i in range(len(patched))]):
        raise ValueError(f"model is {', '.join(models)}; not into, donor, and patched or the heads")
    component = str(attribute(file, "component"))
    if (patched != ["patched"]) != (component == "head"):
        raise ValueError(f"attribute component is {component!r}, and model {', '.join(models)}")
    layers = attribute(file, "layers").tolist() if "layers" in file.attrs else [int(attribute(file, "layer"))]
    if not layers or layers != sorted(set(layers)) or layers[0] < 0:
        raise ValueError(f"attribute layers is {layers}")
    for name in ("sources", "provenance"):
        if not isinstance(json.loads(attribute(file, name)), dict):
            raise ValueError(f"attribute {name} is no JSON object")


def _check_header(file: h5py.File) -> None:
    """Check that `run`, `layers` and `n_layers` agree with each other and with the axes `layer` and `outside`."""
    run, n_layers = str(attribute(file, "run")), int(attribute(file, "n_layers"))
    if not run or "/" in run:
        raise ValueError(f"attribute run is {run!r}, which names no run")
    if len(dataset_at(file, "layer")) != n_layers:
        raise ValueError(f"layer has the length {len(dataset_at(file, 'layer'))}, attribute n_layers is {n_layers}")
    if read_strings(file, "outside") != [*OUTSIDE]:
        raise ValueError(f"outside is not {', '.join(OUTSIDE)}")
    layers, named = attribute(file, "layers").tolist(), named_layers(run, n_layers)
    known = all(0 <= layer < n_layers for layer in layers)
    if not known or (layers != named if named is not None else not layers and not also_trained(file)):
        raise ValueError(f"attribute layers is {layers}, of the {n_layers} layers of run {run!r}")


def _check_filters(file: h5py.File, names: Sequence[str]) -> None:
    """Check that no dataset needs a plugin, unless the run says that it is compressed."""
    if "compression" in file.attrs and attribute(file, "compression") != "none":
        return
    for name in names:
        plan = dataset_at(file, name).id.get_create_plist()
        if any(plan.get_filter(i)[0] >= FIRST_PLUGIN for i in range(plan.get_nfilters())):
            raise ValueError(f"{name} is compressed, and attribute compression says that nothing is")


def _check_texts(file: h5py.File) -> None:
    """Check that every completion, prompt and reference lies in the texts of its group, and is UTF-8.

    A sample that is not there has no text, and a completion of training is of a step of the curve.
    """
    for group in ("completions", "training_completions"):
        if has(file, group):
            texts = Texts(group_at(file, group))
            for name in members(group_at(file, group)):
                if name.endswith("_start"):
                    texts.column(name.removesuffix("_start"))
    if has(file, "completions"):
        absent = ~np.isfinite(read_array(file, "scores/score"))
        if any(read_array(file, f"completions/completion_{of}")[absent].any() for of in ("start", "size")):
            raise ValueError("completions holds texts of samples that are not there")
    if has(file, "training_completions"):
        steps, last = read_array(file, "training_completions/train_step"), len(dataset_at(file, "step"))
        if not ((steps >= 1) & (steps <= last)).all() or (np.diff(steps) < 0).any():
            raise ValueError(f"training_completions/train_step does not ascend from 1 to at most {last}")


def _check_snapshots(file: h5py.File) -> None:
    """Check that each step in the attribute `snapshots` has its group, and that no other step has one.

    The last step of training may have no group: its deltas are the deltas of the run. The last step of a checkpoint's
    run is the last step in the attribute.
    """
    steps = [int(step) for step in attribute(file, "snapshots")] if "snapshots" in file.attrs else []
    groups = members(group_at(file, "snapshots")) if has(file, "snapshots") else []
    last = len(dataset_at(file, "step")) if has(file, "training") else 0
    if origin_of(file) == CHECKPOINT:  # its steps are known from its snapshots alone
        last = max(steps, default=0)
    if steps != sorted({*steps}) or not all(0 < step <= last for step in steps):
        raise ValueError(f"attribute snapshots is {steps}, not steps from 1 to {last}, ascending")
    for step in steps:
        if str(step) not in groups and step != last:
            raise KeyError(f"there is no snapshots/{step}, which attribute snapshots names")
    for group in groups:
        if group not in map(str, steps):
            raise ValueError(f"snapshots/{group} is there, and attribute snapshots is {steps}")

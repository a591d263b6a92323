"""Writing a run file: one HDF5 file per (run, seed), written once.

The layout is described in `runs/FORMAT.md`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from lensrl.errors import StoreError
from lensrl.layers import OUTSIDE
from lensrl.store.atomic import new_file
from lensrl.store.exact import Delta, add, same_bits, subtract
from lensrl.store.hdf5 import axis, create, create_file, read_array

RUN_FORMAT = "lensrl-run"
RUN_VERSION = 1


@dataclass(frozen=True)
class Header:
    """What a run file says about itself without opening an array."""

    study: str
    run: str
    seed: int
    layers: Sequence[int]  # the layers that were trained: none for base, all for full-rl
    status: str  # completed | collapsed | diverged
    reason: str  # why, for a run that is not completed
    base: str
    fingerprint: str
    n_layers: int
    recipe: str  # JSON
    provenance: Mapping[str, object]
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # tells a rewritten run from the one it replaced


class Parameter(NamedTuple):
    """Where a parameter lives in the model."""

    name: str
    part: str  # "0" ... "n-1", embed, final_norm, lm_head
    inner: str  # its name inside its layer; its full name outside the layers
    component: str  # attn, mlp, norm; empty outside the layers


@dataclass(frozen=True)
class ScoreArrays:
    item: Sequence[str]
    benchmark: Sequence[str]
    score: Float32[np.ndarray, "item sample"]
    length: Int32[np.ndarray, "item sample"]
    truncated: Bool[np.ndarray, "item sample"]
    reference_logprob: Float32[np.ndarray, " item"]


@dataclass(frozen=True)
class Probe:
    """The probe set, one entry per token."""

    token_id: Int32[np.ndarray, " token"]
    prompt: Int32[np.ndarray, " token"]  # which probe item the token is of
    position: Int32[np.ndarray, " token"]
    text: Sequence[str]


def write_run(
    path: Path,
    header: Header,
    parameters: Sequence[Parameter],
    before: Mapping[str, Float32[np.ndarray, "..."]],
    *,
    after: Mapping[str, Float32[np.ndarray, "..."]] | None = None,
    training: Mapping[str, Float64[np.ndarray, "step *rest"]] | None = None,
    scores: ScoreArrays | None = None,
    probe: Probe | None = None,
    activations: Mapping[str, Float32[np.ndarray, "layer token feature"]] | None = None,
) -> None:
    """Write a run file atomically; what a diverged run lacks is left out.

    Raises StoreError when the disk is full, when weights are not finite, or when base + delta, read back from the
    file, is not the trained weights bit for bit.
    """
    with new_file(path) as partial:
        with create_file(partial) as file:
            _write_header(file, header)
            axis(file, "layer", header.n_layers)
            axis(file, "outside", list(OUTSIDE))
            if training is not None:
                _write_training(file, training)
            if scores is not None:
                _write_scores(file, scores)
            if probe is not None and activations is not None:
                _write_activations(file, probe, activations)
            _write_parameters(file, parameters, before, after)
        if after is not None:
            _check(partial, parameters, before, after)


def _write_header(file: h5py.File, header: Header) -> None:
    file.attrs["format"] = RUN_FORMAT
    file.attrs["format_version"] = RUN_VERSION
    for name in ("study", "run", "status", "reason", "base", "fingerprint", "recipe", "run_id"):
        file.attrs[name] = getattr(header, name)
    file.attrs["seed"] = header.seed
    file.attrs["n_layers"] = header.n_layers
    file.attrs["layers"] = np.array(header.layers, np.int32)
    file.attrs["provenance"] = json.dumps(header.provenance)


def _write_training(file: h5py.File, training: Mapping[str, np.ndarray]) -> None:
    steps = max(map(len, training.values()))  # a step that diverged has a reward and a gradient but no loss
    axis(file, "step", np.arange(1, steps + 1, dtype=np.int32))
    group = file.create_group("training")
    trailing = {"layer_grad_norm": "layer", "outside_grad_norm": "outside"}
    for name, values in training.items():
        padded = np.full((steps, *values.shape[1:]), np.nan)
        padded[: len(values)] = values
        create(group, name, padded, ["step", trailing[name]] if name in trailing else ["step"])


def _write_scores(file: h5py.File, scores: ScoreArrays) -> None:
    axis(file, "item", list(scores.item))
    axis(file, "sample", scores.score.shape[1])
    group = file.create_group("scores")
    create(group, "benchmark", list(scores.benchmark), ["item"])
    create(group, "score", scores.score, ["item", "sample"])
    create(group, "length", scores.length, ["item", "sample"])
    create(group, "truncated", scores.truncated.astype(np.uint8), ["item", "sample"])
    create(group, "reference_logprob", scores.reference_logprob, ["item"])


def _write_activations(file: h5py.File, probe: Probe, activations: Mapping[str, np.ndarray]) -> None:
    axis(file, "token", len(probe.token_id))
    axis(file, "feature", next(iter(activations.values())).shape[2])
    group = file.create_group("probe")
    for name in ("token_id", "prompt", "position", "text"):
        create(group, name, getattr(probe, name), ["token"])
    group = file.create_group("activations")
    for site, values in activations.items():
        create(group, site, values, ["layer", "token", "feature"])


def _write_parameters(
    file: h5py.File,
    parameters: Sequence[Parameter],
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray] | None,
) -> None:
    """The delta of every parameter that changed, and one row of norms for every parameter."""
    deltas = file.create_group("deltas") if after is not None else None
    norm, base_norm, changed, size = [], [], [], []
    for parameter in parameters:
        old = before[parameter.name]
        new = old if after is None else after[parameter.name]
        change = subtract(old, new)
        moved = np.count_nonzero(old.view(np.uint32) != new.view(np.uint32))
        if moved and deltas is not None:
            _write_delta(deltas, parameter, change)
        norm.append(_norm(change.delta))
        base_norm.append(_norm(old))
        changed.append(moved)
        size.append(old.size)
    axis(file, "parameter", [p.name for p in parameters])
    group = file.create_group("parameters")
    create(group, "part", [p.part for p in parameters], ["parameter"])
    create(group, "component", [p.component for p in parameters], ["parameter"])
    create(group, "size", np.array(size, np.int64), ["parameter"])
    create(group, "changed", np.array(changed, np.int64), ["parameter"])
    create(group, "norm", np.array(norm, np.float64), ["parameter"])
    create(group, "base_norm", np.array(base_norm, np.float64), ["parameter"])


def _write_delta(deltas: h5py.Group, parameter: Parameter, change: Delta) -> None:
    shape = change.delta.shape
    kinds = {1: ["entry"], 2: ["row", "column"]}.get(len(shape)) or [f"axis{i}" for i in range(len(shape))]
    names = [f"{kind}_{length}" for kind, length in zip(kinds, shape, strict=True)]
    for name, length in zip(names, shape, strict=True):
        axis(deltas.file, name, length)
    group = deltas.require_group(parameter.part)
    dataset = create(group, parameter.inner, change.delta, names)
    dataset.attrs["parameter"] = parameter.name
    if change.where.size:
        repairs = deltas.file.require_group(f"repairs/{parameter.part}/{parameter.inner}")
        repair = f"repair_{change.where.size}"
        axis(deltas.file, repair, change.where.size)
        create(repairs, "where", change.where, [repair])
        create(repairs, "value", change.value, [repair])


def read_delta(file: h5py.File, part: str, inner: str) -> Delta:
    """A stored delta with its repairs."""
    repairs = f"repairs/{part}/{inner}"
    where, value = (
        (read_array(file, f"{repairs}/where"), read_array(file, f"{repairs}/value"))
        if repairs in file
        else (np.empty(0, np.int64), np.empty(0, np.float32))
    )
    return Delta(read_array(file, f"deltas/{part}/{inner}"), where, value)


def _check(
    path: Path, parameters: Sequence[Parameter], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> None:
    with h5py.File(path, "r") as file:
        for parameter in parameters:
            old, new = before[parameter.name], after[parameter.name]
            if f"deltas/{parameter.part}/{parameter.inner}" in file:
                old = add(old, read_delta(file, parameter.part, parameter.inner))
            if not same_bits(old, new):
                raise StoreError(f"{parameter.name}: base + delta is not the trained weight; {path.name} is not kept")


def _norm(array: np.ndarray) -> float:
    """Frobenius norm in float64."""
    flat = array.reshape(-1).astype(np.float64)
    return float(np.sqrt(flat @ flat))

"""Write a run file: one HDF5 file per (run, seed), written once. `runs/FORMAT.md` describes the layout."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from lensrl.measures.item_scores import NOT_KEPT, item_means
from lensrl.measures.score import mean_score
from lensrl.recipe.layers import OUTSIDE
from lensrl.store.completions import Completions, TrainingCompletion, write_completions, write_training_completions
from lensrl.store.file.completeness import SITES
from lensrl.store.file.deltas import Change, Parameter, Weights, measure_changes, write_deltas
from lensrl.store.file.hdf5 import Compression, axis, create, create_file
from lensrl.store.file.seal import write_seal

RUN_FORMAT = "lensrl-run"
RUN_VERSION = 3


@dataclass(frozen=True)
class Header:
    """The attributes of a run file, which are read without opening an array."""

    study: str
    run: str
    seed: int
    layers: Sequence[int]  # the trained layers: none for base, all for full-rl
    status: str  # completed | collapsed | diverged
    reason: str  # why the run is not completed; empty for a completed run
    base: str
    fingerprint: str
    n_layers: int
    recipe: str  # JSON
    provenance: Mapping[str, object]
    compression: Compression = "none"
    snapshots: Sequence[int] = ()  # the steps whose deltas are kept; the last step may be the end of training
    origin: Literal["training", "checkpoint"] = "training"  # where the weights come from
    also: Sequence[str] = ()  # parts outside the layers that a set trains, or that may have moved in a checkpoint
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # differs between a run and its later replacement


@dataclass(frozen=True)
class Scores:
    """The results of one model on the held-out items, per item and sample.

    `length` counts the tokens of a completion, including the end-of-sequence token. `truncated` marks completions that
    reached the limit without an end-of-sequence token. In a task in turns, `length` counts the tokens that the model
    wrote in all turns, and `truncated` marks episodes that ran out of turns. `reference_logprob` is the mean
    log-probability, in nats per token, of the reference answer and the end-of-sequence token, given the prompt.

    `answer` numbers the answers of samples, so that they can vote: equal answers have equal numbers, -1 is none, and
    -2 stands where the task names no answers. `also` marks items of further tasks, which do not count in the run's
    score.

    Items may have different numbers of samples. In the places of samples that an item does not have, a score is NaN, a
    length 0, and `truncated` False.

    `completions` holds the texts that were judged, with prompts and references.

    What was not measured is None: texts have no score, and scores that were made elsewhere come alone.
    """

    item: Sequence[str]
    benchmark: Sequence[str]
    score: Float32[np.ndarray, "item sample"] | None = None
    length: Int32[np.ndarray, "item sample"] | None = None
    truncated: Bool[np.ndarray, "item sample"] | None = None
    reference_logprob: Float32[np.ndarray, " item"] | None = None
    answer: Int64[np.ndarray, "item sample"] | None = None
    also: Bool[np.ndarray, " item"] | None = None
    completions: Completions | None = None


def joined(own: Scores, also: Sequence[Scores]) -> Scores:
    """Put the scores of further tasks below those of the study's own task. All of them were sampled."""
    if not also:
        return own
    parts = [own, *also]
    return replace(stacked(parts), also=np.concatenate([np.full(len(p.item), p is not own) for p in parts]))


def stacked(parts: Sequence[Scores]) -> Scores:
    """Put the scores of several lists of items, all sampled, one below the other."""
    samples = max(part.score.shape[1] for part in parts if part.score is not None)

    def rows(arrays: Sequence[np.ndarray | None], blank: float | int) -> np.ndarray:
        known = [np.zeros((len(part.item), 0)) if a is None else a for a, part in zip(arrays, parts, strict=True)]
        dtype = next(array.dtype for array in arrays if array is not None)
        fill = [np.full((len(array), samples - array.shape[1]), blank, dtype) for array in known]
        return np.concatenate([np.concatenate([a.astype(dtype), f], axis=1) for a, f in zip(known, fill, strict=True)])

    answers = [part.answer for part in parts]
    texts = [part.completions for part in parts if part.completions is not None]
    return Scores(
        item=[item for part in parts for item in part.item],
        benchmark=[name for part in parts for name in part.benchmark],
        score=rows([part.score for part in parts], np.nan),
        length=rows([part.length for part in parts], 0),
        truncated=rows([part.truncated for part in parts], 0),
        reference_logprob=np.concatenate([p.reference_logprob for p in parts if p.reference_logprob is not None]),
        answer=None if all(answer is None for answer in answers) else rows(answers, NOT_KEPT),
        completions=None
        if len(texts) < len(parts)
        else Completions(
            [prompt for part in texts for prompt in part.prompt],
            [reference for part in texts for reference in part.reference],
            [samples for part in texts for samples in part.completion],
        ),
    )


@dataclass(frozen=True)
class Probe:
    """The probe set, one entry per token."""

    token_id: Int32[np.ndarray, " token"]
    prompt: Int32[np.ndarray, " token"]  # the number of the probe item that holds the token
    position: Int32[np.ndarray, " token"]
    text: Sequence[str]


def write_run(
    path: Path,
    header: Header,
    parameters: Sequence[Parameter],
    before: Weights,
    *,
    after: Weights | None = None,
    snapshots: Mapping[int, Weights] | None = None,
    training: Mapping[str, Float64[np.ndarray, "step *rest"]] | None = None,
    training_completions: Sequence[TrainingCompletion] = (),
    scores: Scores | None = None,
    probe: Probe | None = None,
    activations: Mapping[str, Float32[np.ndarray, "layer token feature"]] | None = None,
    norms_alone: bool = False,
) -> None:
    """Write a complete run file at `path`, which is the partial file of `new_file`.

    `before` and `after` are the weights of the base and of the run. `snapshots` maps a step to the weights after this
    step. A diverged run leaves out the arguments that it does not have. With `norms_alone`, deltas are measured and not
    kept. Raises OSError when the disk is full, and
    StoreError when weights are not finite or when the written deltas do not read back bit for bit.
    """
    # `/` is the end of training: its deltas stand at the root of the file.
    trees = {f"snapshots/{step}": weights for step, weights in (snapshots or {}).items()}
    if after is not None:
        trees["/"] = after
    with create_file(path) as file:
        # The header and the axes come first: datasets refer to their axes.
        _write_header(file, header, scores)
        axis(file, "layer", header.n_layers)
        axis(file, "outside", list(OUTSIDE))
        axis(file, "parameter", [p.name for p in parameters])
        if training is not None:
            _write_training(file, training)
        if training_completions:
            write_training_completions(file, training_completions)
        if scores is not None:
            _write_scores(file, scores)
        if scores is not None and scores.score is not None and scores.completions is not None:
            write_completions(file, scores.completions, scores.score.shape[1])
        if probe is not None and activations is not None:
            _write_activations(file, probe, activations, header.compression)
        # The deltas, the largest part. They are hashed while they are written, so the seal need not read them again.
        changes, digests = [Change(0.0, 0)] * len(parameters), {}
        if norms_alone and after is not None:
            changes = measure_changes(parameters, before, after)
        for name, weights in trees.items() if not norms_alone else ():
            root = file.require_group(name)
            written, hashed = write_deltas(
                root, path, parameters, before=before, after=weights, compression=header.compression
            )
            digests |= hashed
            if name == "/":
                changes = written
            else:
                _write_changes(root, written)
        _write_parameters(file, parameters, changes)
    write_seal(path, RUN_FORMAT, RUN_VERSION, digests)


def _write_header(file: h5py.File, header: Header, scores: Scores | None) -> None:
    file.attrs["format"] = RUN_FORMAT
    file.attrs["format_version"] = RUN_VERSION
    for name in ("study", "run", "status", "reason", "base", "fingerprint", "recipe", "run_id", "compression"):
        file.attrs[name] = getattr(header, name)
    file.attrs["seed"] = header.seed
    file.attrs["n_layers"] = header.n_layers
    file.attrs["layers"] = np.array(header.layers, np.int32)
    file.attrs["snapshots"] = np.array(header.snapshots, np.int32)
    score = np.nan
    if scores is not None and scores.score is not None:
        own = np.flatnonzero(~scores.also) if scores.also is not None else np.arange(len(scores.item))
        values = scores.score[own].astype(np.float64)
        score = mean_score(item_means(values, np.isfinite(values)), np.array(scores.benchmark)[own].tolist())
    file.attrs["score"] = score
    file.attrs["provenance"] = json.dumps(header.provenance)
    if header.origin != "training":
        file.attrs["origin"] = header.origin
    if header.also:
        file.attrs["also"] = ",".join(header.also)


def _write_training(file: h5py.File, training: Mapping[str, np.ndarray]) -> None:
    steps = max(map(len, training.values()))  # the step that diverged has a reward and a gradient, but no loss
    axis(file, "step", np.arange(1, steps + 1, dtype=np.int32))
    group = file.create_group("training")
    trailing = {"layer_grad_norm": "layer", "outside_grad_norm": "outside"}
    for name, values in training.items():
        padded = np.full((steps, *values.shape[1:]), np.nan)
        padded[: len(values)] = values
        create(group, name, padded, ["step", trailing[name]] if name in trailing else ["step"])


def _write_scores(file: h5py.File, scores: Scores) -> None:
    axis(file, "item", list(scores.item))
    if scores.score is not None:
        axis(file, "sample", scores.score.shape[1])
    group = file.create_group("scores")
    create(group, "benchmark", list(scores.benchmark), ["item"])
    truncated = None if scores.truncated is None else scores.truncated.astype(np.uint8)
    of_samples = {"score": scores.score, "length": scores.length, "truncated": truncated, "answer": scores.answer}
    for name, values in of_samples.items():
        if values is not None:
            create(group, name, values, ["item", "sample"])
    if scores.also is not None:
        create(group, "also", scores.also.astype(np.uint8), ["item"])
    if scores.reference_logprob is not None:
        create(group, "reference_logprob", scores.reference_logprob, ["item"])


def _write_activations(
    file: h5py.File, probe: Probe, activations: Mapping[str, np.ndarray], compression: Compression
) -> None:
    axis(file, "token", len(probe.token_id))
    axis(file, "feature", next(iter(activations.values())).shape[2])
    group = file.create_group("probe")
    for name in ("token_id", "prompt", "position", "text"):
        create(group, name, getattr(probe, name), ["token"])
    if tuple(activations) != SITES:  # a model may lack some: layers with linear attention have no attention output
        file.attrs["sites"] = ",".join(activations)
    group = file.create_group("activations")
    for site, values in activations.items():
        create(group, site, values, ["layer", "token", "feature"], compression)


def _write_parameters(file: h5py.File, parameters: Sequence[Parameter], changes: Sequence[Change]) -> None:
    group = file.create_group("parameters")
    create(group, "part", [p.part for p in parameters], ["parameter"])
    create(group, "component", [p.component for p in parameters], ["parameter"])
    create(group, "size", np.array([p.size for p in parameters], np.int64), ["parameter"])
    create(group, "base_norm", np.array([p.norm for p in parameters], np.float64), ["parameter"])
    _write_changes(group, changes)


def _write_changes(group: h5py.Group, changes: Sequence[Change]) -> None:
    create(group, "changed", np.array([c.changed for c in changes], np.int64), ["parameter"])
    create(group, "norm", np.array([c.norm for c in changes], np.float64), ["parameter"])

"""A checkpoint as a run: weights that were trained elsewhere take the place of training.

    recipe.checkpoints  ->  weights under the base's names (`lensrl.models.checkpoint`)  ->  checked against the run

A checkpoint is refused where a weight is not finite, and where it moved a parameter that the run is said to have left
alone. Measuring and writing are the same as for a run that was trained here: `Workshop.keep`.
"""

from __future__ import annotations

import math

import torch

from lensrl.errors import LensrlError
from lensrl.measures.rounding import PRECISION, rounding_norm
from lensrl.models.adapter import MergedAdapter, open_weights
from lensrl.models.base import Base
from lensrl.models.checkpoint import CheckpointWeights, stored_dtypes
from lensrl.models.checkpoint_files import what
from lensrl.models.vocabulary import check_vocabulary
from lensrl.recipe import Checkpoint, ModelPlace
from lensrl.recipe.runs import RunSpec
from lensrl.store.file.exact import same_bits

Opened = CheckpointWeights | MergedAdapter


def open_checkpoint(spec: RunSpec, base: Base) -> tuple[Opened, dict[int, Opened]]:
    """Open the model and the snapshots of a run from a checkpoint, and check them against the base.

    The snapshot that is the end of the run is left out: its weights are the model's. Raises LensrlError in one line for
    a checkpoint that cannot be this run, naming the first wrong parameter. Every tensor is read once.
    """
    checkpoint = spec.checkpoint
    assert checkpoint is not None
    weights = _open(ModelPlace(model=checkpoint.model, revision=checkpoint.revision), base)
    snapshots = {
        step: _open(place, base) for step, place in sorted(checkpoint.snapshots.items()) if step != checkpoint.end
    }
    for opened in (weights, *snapshots.values()):
        check_vocabulary(opened, base)
        if not _check_weights(opened, spec, base) and opened is weights:  # an early snapshot may equal it
            raise LensrlError(
                f"checkpoints.{spec.name}: {weights.place.spelled} equals the base, {base.name}, in every tensor: "
                f"nothing was trained there, or the base is named twice; name the trained model"
            )
    return weights, snapshots


def record_of(checkpoint: Checkpoint, weights: Opened, base: Base) -> dict[str, object]:
    """Return the record of a checkpoint for a run's provenance, in JSON data.

    Keys: source, revision, snapshots, dtype, commit; `parameter_dtypes`, of the parameters that are stored in another
    type than most; and `rounding`: part -> the norm that rounding alone would give the deltas of its parameters that
    moved, without the parts in which it is 0. `merged` too, where it is an adapter; `vocabulary`, the rows of the
    embeddings, where their numbers differ; and `left_out`, the tensors of a value head.
    """
    # The squared norm of the errors of rounding, by part. A merged adapter begins at the stored base, without errors.
    most, before = weights.dtype.split(" and ")[0], stored_dtypes(base)
    squares: dict[str, float] = {}
    for name, tensor in base.weights.items() if weights.merged is None else ():
        if PRECISION.keys().isdisjoint((before[name], weights.dtypes[name])):
            continue  # nothing is rounded, and nothing needs to be read
        after = weights[name]
        kinds = zip((tensor.numpy(), after), (before[name], weights.dtypes[name]), strict=True)
        if not same_bits(tensor.numpy(), after):
            part = str(base.blocks.part(name))
            squares[part] = squares.get(part, 0.0) + sum(rounding_norm(values, kind) ** 2 for values, kind in kinds)
    rows = weights.vocabulary
    more = {
        "merged": None if weights.merged is None else dict(weights.merged),
        "vocabulary": None if rows is None else {**rows._asdict(), "common": rows.common},
        "left_out": weights.left_out or None,
    }
    given = {name: value for name, value in more.items() if value is not None}
    return {
        **checkpoint.origin,
        "dtype": weights.dtype,
        "commit": weights.commit,
        "parameter_dtypes": {name: kind for name, kind in weights.dtypes.items() if kind != most},
        "rounding": {part: math.sqrt(square) for part, square in squares.items() if square},
        **given,
    }


def _open(place: ModelPlace, base: Base) -> Opened:
    return open_weights(place, base, before=base.weights, fill=base.weights)


def _check_weights(weights: Opened, spec: RunSpec, base: Base) -> bool:
    """Return whether any parameter moved.

    Raises LensrlError for the first parameter that is not finite, or that moved and is said not to have moved.
    """
    blocks, any_moved = base.blocks, False
    everything = spec.layers is None or len(spec.layers) == blocks.n_layers
    for name, before in base.weights.items():
        after = torch.from_numpy(weights[name])
        if not torch.isfinite(after).all():
            raise LensrlError(
                f"{what(weights.place)}: {name} holds a NaN or an infinity: its training diverged or its file is "
                f"damaged; give an earlier checkpoint, or copy it again"
            )
        # As integers: 0.0 and -0.0 differ in a bit.
        moved = not torch.equal(before.view(torch.int32), after.view(torch.int32))
        any_moved = any_moved or moved
        if moved and not (everything or blocks.trains(name, spec.layers, outside={*spec.outside, *spec.allow})):
            part = blocks.part(name)
            cure = "name the run for what it trained" if isinstance(part, int) else f"allow it, allow = [{part!r}]"
            rounded = _equal_when_rounded(before, after, weights)
            why = f": it is the base's, rounded to {rounded}; give a checkpoint in float32" if rounded else f"; {cure}"
            raise LensrlError(
                f"checkpoints.{spec.name}: the run is said to train {spec.trained}, and in {weights.place.spelled} "
                f"{name} moved, too{why}"
            )
    return any_moved


def _equal_when_rounded(before: torch.Tensor, after: torch.Tensor, weights: Opened) -> str:
    """Return the stored type whose rounding alone makes `before` into `after`; empty where something else did."""
    kinds = [kind for kind in ("bfloat16", "float16") if kind in weights.dtype.split(" and ")]
    return next((kind for kind in kinds if torch.equal(before.to(getattr(torch, kind)).float(), after)), "")

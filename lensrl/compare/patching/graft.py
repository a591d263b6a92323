"""Weight patching: put the weights of chosen parts of one model into another model.

The weights alone describe a model: base + deltas of a run. A grafted model is a fresh copy of the base with the grafted
weights, never a copy of a trained model: accelerate binds a trained model's `forward` to the original, and a copy would
run the original's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float32
from transformers import PreTrainedModel

from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.models.entry import TRIED, entering, enters, recording, stream_batch
from lensrl.models.references import answer_batch, answer_logprobs, references
from lensrl.store.file.exact import add
from lensrl.store.origin import check_base
from lensrl.store.patch import PatchComponent
from lensrl.store.run import Run
from lensrl.tasks import Item

Weights = Mapping[str, torch.Tensor]


def run_weights(run: Run, base: Base, step: int | None = None) -> dict[str, torch.Tensor]:
    """Return every parameter of a run, bit for bit as it was trained. Unchanged parameters are the base's own tensors.

    `step` is that of one of the run's snapshots; None is the end of the training.

    Raises LensrlError when the run was made from another base model, or has no weights because it diverged.
    """
    check_has_weights(run)
    check_base(run, base.name, base.fingerprint)
    weights = dict(base.weights)
    deltas = run.deltas if step is None else run.snapshots[step]
    for part in deltas:
        for name, change in deltas.exact(part).values():
            weights[name] = torch.from_numpy(add(base.weights[name].numpy(), change, in_place=True))
    return weights


def check_has_weights(run: Run) -> None:
    """Raise LensrlError when a run diverged, or keeps no deltas: it would pass for the base otherwise."""
    if run.status == "diverged":
        raise LensrlError(f"run {run.name!r} with seed {run.seed} diverged and has no weights: {run.reason}")
    _ = run.deltas  # raises where norms alone are kept


def graft(
    base: Base, into: Weights, donor: Weights, parts: Collection[int | str], component: PatchComponent = "block"
) -> dict[str, torch.Tensor]:
    """Return the weights `into` with the donor's weights in `parts` (layers, `embed`, `final_norm`, `lm_head`).

    `component` narrows a layer to its attention or its MLP module, without the norm before the module.
    """
    blocks = base.blocks
    return {
        name: donor[name]
        if blocks.part(name) in parts and component in ("block", blocks.component(name))
        else into[name]
        for name in into
    }  # fmt: skip


@contextmanager
def holding(model: PreTrainedModel, weights: Weights) -> Iterator[None]:
    """Context in which a model has these weights in place of its own. On the CPU, nothing is copied."""
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].data for name in weights}
    for name, weight in weights.items():
        parameters[name].data = weight.to(own[name])
    try:
        yield
    finally:
        for name, weight in own.items():
            parameters[name].data = weight


@torch.no_grad()
def graft_logprobs(
    model: PreTrainedModel,
    base: Base,
    items: Sequence[Item],
    grafts: Sequence[Weights],
    *,
    batch: int,
    on_graft: Callable[[int, int], None] | None = None,
) -> list[Float32[np.ndarray, " item"]]:
    """Return log p of each item's reference, in nats per token, under each graft into `model`.

    The streams below the lowest grafted layer are the receiver's. One pass for each batch of items records them, and
    each graft enters the model at its lowest layer (`lensrl.models.entry`). Every pass is a whole one where a model
    cannot be entered, and where a part outside the layers is grafted.
    """
    blocks, prompts = base.blocks, base.prompts
    size = min(answer_batch(model, prompts, items, batch), stream_batch(model, base, items))
    lowest = [min((blocks.layer(name) or 0 for name in weights), default=0) for weights in grafts]
    can_enter = enters(model, blocks, references(prompts, items[:TRIED]).to(model.device))
    found: list[list[torch.Tensor]] = [[] for _ in grafts]
    for start in range(0, len(items), size):
        teacher = references(prompts, items[start : start + size]).to(model.device)
        with recording(model, blocks) as outputs:
            own = answer_logprobs(model, teacher)
        for number, weights in enumerate(grafts):
            if weights:
                with holding(model, weights), entering(model, blocks, lowest[number] if can_enter else 0, outputs):
                    found[number].append(answer_logprobs(model, teacher).cpu())
            else:  # the two runs do not differ there
                found[number].append(own.cpu())
            if on_graft is not None:
                done = start // size * len(grafts) + number + 1
                on_graft(done, -(-len(items) // size) * len(grafts))
    return [torch.cat(values).numpy() for values in found]

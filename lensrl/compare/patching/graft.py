"""Weight patching: put the weights of chosen parts of one model into another model.

The weights alone describe a model: base + deltas of a run. A grafted model is a fresh copy of the base with the grafted
weights, never a copy of a trained model: accelerate binds a trained model's `forward` to the original, and a copy would
run the original's weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.store.file.exact import add
from lensrl.store.origin import check_base
from lensrl.store.patch import PatchComponent
from lensrl.store.run import Run

Weights = Mapping[str, torch.Tensor]


def run_weights(run: Run, base: Base) -> dict[str, torch.Tensor]:
    """Return every parameter of a run, bit for bit as it was trained. Unchanged parameters are the base's own tensors.

    Raises LensrlError when the run was made from another base model, or has no weights because it diverged.
    """
    check_has_weights(run)
    check_base(run, base.name, base.fingerprint)
    weights = dict(base.weights)
    for part in run.deltas:
        for name, change in run.deltas.exact(part).values():
            weights[name] = torch.from_numpy(add(base.weights[name].numpy(), change))
    return weights


def check_has_weights(run: Run) -> None:
    """Raise LensrlError when a run diverged. Its file holds no deltas, which would pass for the weights of the base."""
    if run.status == "diverged":
        raise LensrlError(f"run {run.name!r} with seed {run.seed} diverged and has no weights: {run.reason}")


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

"""Checks of a trained model: its weights and logits are finite, and its frozen parameters have not moved.

On several ranks, each checks what it holds, and all come to the same result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from transformers import PreTrainedModel

from lensrl.models.base import Base
from lensrl.models.precision import in_parts
from lensrl.models.references import batches, references, teacher_batch
from lensrl.models.shards import local, local_part
from lensrl.recipe import Trained
from lensrl.recipe.layers import Outside
from lensrl.tasks import Item
from lensrl.train import ranks


@torch.no_grad()
def is_finite(model: PreTrainedModel, base: Base, items: Sequence[Item]) -> bool:
    """Return whether the weights are finite, and the logits on the prompts and references of `items`."""
    if not all(part.isfinite().all() for parameter in model.parameters() for part in in_parts(parameter)):
        return False
    for chunk in batches(items, teacher_batch(base.prompts, items, len(items))):
        teacher = references(base.prompts, chunk).to(model.device)
        logits = model(input_ids=teacher.ids, attention_mask=teacher.mask, use_cache=False).logits
        if not all(part.isfinite().all() for part in in_parts(logits)):
            return False
    return True


def check_frozen(
    model: PreTrainedModel,
    base: Base,
    layers: list[int] | None,
    component: Trained = "block",
    outside: Collection[Outside] = (),
) -> None:
    """Check that every parameter outside the trained part is bit-identical to the base.

    `layers`, `component` and `outside` are those of `train`. Of weights in shards, each rank checks its own, and every
    rank must call this function. Raises RuntimeError with the name of the first parameter that moved.
    """
    found = (_moved(name, parameter, base, layers, component, outside) for name, parameter in model.named_parameters())
    moved = [name for name in ranks.gathered([next((name for name in found if name), "")]) if name]
    if moved:
        part = "" if component == "block" else f" ({component})"
        part += "".join(f" and {also}" for also in outside)
        raise RuntimeError(f"{moved[0]} changed although only layers {layers}{part} were trained")


def _moved(
    name: str,
    parameter: torch.Tensor,
    base: Base,
    layers: list[int] | None,
    component: Trained,
    outside: Collection[Outside],
) -> str:
    """Return the base's name of a parameter if it is frozen and has moved on this rank, else nothing."""
    called = name.replace(".base_layer.", ".")
    if called not in base.weights:  # an adapter's own
        return ""
    if parameter.requires_grad and base.blocks.trains(called, layers, component, outside):
        return ""
    # As integers: 0.0 and -0.0 differ in a bit, and NaN equals itself. A bf16 number has one fp32 number.
    pairs = zip(in_parts(local_part(base.weights[called], parameter)), in_parts(local(parameter)), strict=True)
    same = all(torch.equal(one.view(torch.int32), other.cpu().float().view(torch.int32)) for one, other in pairs)
    return "" if same else called

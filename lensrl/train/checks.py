"""What must be true of a model that has been trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from lensrl.models.base import Base
from lensrl.models.references import references
from lensrl.recipe import Trained
from lensrl.tasks import Item


@torch.no_grad()
def finite(model: PreTrainedModel, base: Base, items: Sequence[Item]) -> bool:
    """Whether a trained model still computes: finite weights, and finite logits on a few training items."""
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        return False
    teacher = references(base.tokenizer, items).to(model.device)
    return bool(torch.isfinite(model(input_ids=teacher.ids, attention_mask=teacher.mask).logits).all())


def check_frozen(model: PreTrainedModel, base: Base, layers: list[int] | None, component: Trained = "block") -> None:
    """Every tensor that was not to be trained is bit-identical to the base.

    Raises RuntimeError naming the first that is not.
    """
    for name, parameter in model.named_parameters():
        if not base.blocks.trains(name, layers, component):
            before, after = base.weights[name], parameter.detach().cpu()
            if not torch.equal(before.view(torch.int32), after.view(torch.int32)):
                part = "" if component == "block" else f" ({component})"
                raise RuntimeError(f"{name} changed although only layers {layers}{part} were trained")

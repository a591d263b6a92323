"""Build a model without weights from its configuration: the names, shapes and parts of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lensrl.errors import LensrlError, reason
from lensrl.models.blocks import Blocks, find_blocks


@dataclass(frozen=True)
class Skeleton:
    """A model whose parameters have names and shapes, and no values. `Base` has the same attributes, with values."""

    name: str
    model: PreTrainedModel
    blocks: Blocks

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """Parameter name -> tensor on the meta device. Tied parameters appear once."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}


def build_skeleton(name: str, config: Any) -> Skeleton:
    """Build the causal language model of a configuration on the meta device, which holds no numbers.

    Raises LensrlError for a configuration of no causal language model, and for a model without decoder blocks.
    """
    try:
        with torch.device("meta"):
            model = _build(config)
    except Exception as error:  # transformers raises plain exceptions of many classes for impossible settings
        raise LensrlError(f"{name} cannot be built from its config.json ({reason(error)})") from None
    try:
        blocks = find_blocks(model)
    except (RuntimeError, NotImplementedError):
        # Some models look at a number in their forward pass (GPT-2). Random weights show the same parts.
        blocks = find_blocks(_build(config))
    return Skeleton(name, model, blocks)


def _build(config: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()

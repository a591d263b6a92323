"""Any Hugging Face causal LM seen as embed / layers[l] / final_norm / lm_head.

The parts are found by structure and by what runs when, never by a model's name. The stack of decoder blocks is the
longest `ModuleList` of one class of modules that a forward pass of one token runs through. Outside of it, `embed` is
what has run before the first block (position embeddings and projections too), `lm_head` is the output embedding, and
`final_norm` is everything between the last block and that.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from lensrl.errors import LensrlError
from lensrl.recipe import Trained

Component = Literal["attn", "mlp", "norm"]


@dataclass(frozen=True)
class Blocks:
    """Where a model keeps its decoder blocks, and which part of it each parameter belongs to."""

    prefix: str  # of the block list in parameter names: "model.layers"
    n_layers: int
    outside: dict[str, str]  # parameter name -> embed | final_norm | lm_head, for parameters in no layer
    components: dict[str, Component]  # name inside a block -> attn | mlp | norm

    def layer(self, parameter: str) -> int | None:
        """The layer that owns a parameter, or None for a part outside the layers."""
        if not parameter.startswith(self.prefix + "."):
            return None
        return int(parameter[len(self.prefix) + 1 :].partition(".")[0])

    def part(self, parameter: str) -> int | str:
        """The layer that owns a parameter, or `embed`, `final_norm`, `lm_head`."""
        layer = self.layer(parameter)
        return self.outside[parameter] if layer is None else layer

    def inner(self, parameter: str) -> str:
        """A parameter's name inside its layer (`self_attn.q_proj.weight`); its full name outside the layers."""
        if self.layer(parameter) is None:
            return parameter
        return parameter[len(self.prefix) + 1 :].partition(".")[2]

    def component(self, parameter: str) -> Component | None:
        """Attention, MLP or norm, for a parameter in a layer."""
        return None if self.layer(parameter) is None else self.components[self.inner(parameter)]

    def trains(self, parameter: str, layers: Collection[int] | None, component: Trained = "block") -> bool:
        """Whether a parameter is among those of `layers`, or of their attention or MLP alone.

        All are where `layers` is None (full-parameter RL).
        """
        if layers is None:
            return True
        return self.layer(parameter) in layers and component in ("block", self.component(parameter))


def find_blocks(model: PreTrainedModel) -> Blocks:
    """See a model as a stack of blocks. Raises LensrlError when it has none, or parts beside the text's path."""
    order = _order(model)
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1 and f"{name}.0" in order
    ]
    if not stacks:
        raise LensrlError(
            f"{type(model).__name__} has no stack of decoder blocks: lensrl needs a decoder-only causal LM"
        )
    prefix, stack = max(stacks, key=lambda found: len(found[1]))
    components: dict[str, Component] = {
        inner: _component(child, child_name)
        for block in stack
        for child_name, child in block.named_children()
        for inner in (f"{child_name}.{p}" for p, _ in child.named_parameters())
    }
    names = [name for name, _ in model.named_parameters() if not name.startswith(prefix + ".")]
    return Blocks(prefix, len(stack), {name: _outside(model, name, order, prefix) for name in names}, components)


@torch.no_grad()
def _order(model: PreTrainedModel) -> dict[str, int]:
    """Module name -> when a forward pass of one token was first done with it. Modules that never run are left out."""
    order: dict[str, int] = {}

    def done(name: str) -> None:
        order.setdefault(name, len(order))

    hooks = [
        module.register_forward_hook(lambda *_, name=name: done(name))  # a hook's value would replace the output
        for name, module in model.named_modules()
    ]
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _component(child: nn.Module, name: str) -> Component:
    if all(p.ndim <= 1 for p in child.parameters()):
        return "norm"
    return "attn" if "attn" in name.lower() or "attention" in type(child).__name__.lower() else "mlp"


def _outside(model: PreTrainedModel, parameter: str, order: dict[str, int], prefix: str) -> str:
    owner = parameter.rpartition(".")[0]
    if owner not in order:  # opening a model with images, TransformerLens would pip install torchvision and its torch
        raise LensrlError(
            f"{type(model).__name__} has parts that text does not run through, such as {owner}: "
            f"lensrl needs a text-only causal LM"
        )
    if order[owner] < order[f"{prefix}.0"]:
        return "embed"
    return "lm_head" if model.get_submodule(owner) is model.get_output_embeddings() else "final_norm"


def train_only(
    model: PreTrainedModel, blocks: Blocks, layers: Collection[int] | None, component: Trained = "block"
) -> None:
    """Freeze every parameter outside `layers`, or outside their attention or MLP; None leaves all of them trainable."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(blocks.trains(name, layers, component))

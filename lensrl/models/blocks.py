"""View any Hugging Face causal LM as embed / layers[l] / final_norm / lm_head.

The parts are found by structure and by the order of execution, never by a model's name. The stack of decoder blocks is
the longest `ModuleList` of one class of modules that a forward pass of one token runs through. Outside the stack,
`embed` is everything that runs before the first block (position embeddings and projections included), `lm_head` is the
output embedding, and `final_norm` is everything between the last block and the output embedding.
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
from lensrl.recipe.layers import Outside

Component = Literal["attn", "mlp", "norm"]


@dataclass(frozen=True)
class Blocks:
    """The names of a model's decoder blocks, and the part of the model to which each parameter belongs."""

    prefix: str  # of the block list in parameter names: "model.layers"
    n_layers: int
    outside: dict[str, str]  # parameter name -> embed | final_norm | lm_head, for parameters in no layer
    components: dict[str, Component]  # name inside a block -> attn | mlp | norm

    def layer(self, parameter: str) -> int | None:
        """Return the layer that owns a parameter, or None for a part outside the layers."""
        if not parameter.startswith(self.prefix + "."):
            return None
        return int(parameter[len(self.prefix) + 1 :].partition(".")[0])

    def part(self, parameter: str) -> int | str:
        """Return the layer that owns a parameter, or `embed`, `final_norm`, `lm_head`."""
        layer = self.layer(parameter)
        return self.outside[parameter] if layer is None else layer

    def inner(self, parameter: str) -> str:
        """Return a parameter's name inside its layer (`self_attn.q_proj.weight`).

        Outside the layers this is its full name.
        """
        if self.layer(parameter) is None:
            return parameter
        return parameter[len(self.prefix) + 1 :].partition(".")[2]

    def component(self, parameter: str) -> Component | None:
        """Return `attn`, `mlp` or `norm` for a parameter in a layer, None outside the layers."""
        return None if self.layer(parameter) is None else self.components[self.inner(parameter)]

    def trains(
        self,
        parameter: str,
        layers: Collection[int] | None,
        component: Trained = "block",
        outside: Collection[Outside] = (),
    ) -> bool:
        """Return whether a run that trains `layers`, or only their attention or MLP, trains a parameter.

        `layers` None means full-parameter RL, which trains every parameter. `outside` names trained parts outside the
        layers.
        """
        if layers is None or self.part(parameter) in outside:
            return True
        return self.layer(parameter) in layers and component in ("block", self.component(parameter))


def find_blocks(model: PreTrainedModel) -> Blocks:
    """View a model as a stack of blocks.

    Raises LensrlError if the model has no stack of decoder blocks, or has parts through which text does not run.
    """
    order = _execution_order(model)
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1 and f"{name}.0" in order
    ]
    if not stacks:
        raise LensrlError(
            f"{type(model).__name__} has no stack of decoder blocks: lensrl needs a decoder-only causal LM"
        )
    # Name the part of every parameter: inside the blocks by child module, outside by the order of execution.
    prefix, stack = max(stacks, key=lambda found: len(found[1]))
    components: dict[str, Component] = {
        inner: _component(child, child_name)
        for block in stack
        for child_name, child in block.named_children()
        for inner in (f"{child_name}.{p}" for p, _ in child.named_parameters())
    }
    names = [name for name, _ in model.named_parameters() if not name.startswith(prefix + ".")]
    return Blocks(prefix, len(stack), {name: _part_outside(model, name, order, prefix) for name in names}, components)


@torch.no_grad()
def _execution_order(model: PreTrainedModel) -> dict[str, int]:
    """Run one token, and return module name -> rank of the module's first completed forward pass.

    Modules that never run are left out.
    """
    order: dict[str, int] = {}

    def done(name: str) -> None:
        order.setdefault(name, len(order))

    hooks = [
        module.register_forward_hook(lambda *_, name=name: done(name))  # a hook's return value would replace the output
        for name, module in model.named_modules()
    ]
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _component(child: nn.Module, name: str) -> Component:
    """Classify a child of a block: `norm` if it has only vectors, `attn` by its name or class, else `mlp`."""
    if all(p.ndim <= 1 for p in child.parameters()):
        return "norm"
    return "attn" if "attn" in name.lower() or "attention" in type(child).__name__.lower() else "mlp"


def _part_outside(model: PreTrainedModel, parameter: str, order: dict[str, int], prefix: str) -> str:
    """Classify a parameter outside the layers: `embed`, `final_norm` or `lm_head`."""
    owner = parameter.rpartition(".")[0]
    # TransformerLens, given a model with images, would pip install torchvision and the torch that it needs.
    if owner not in order:
        raise LensrlError(
            f"{type(model).__name__} has parts that text does not run through, such as {owner}: "
            f"lensrl needs a text-only causal LM"
        )
    if order[owner] < order[f"{prefix}.0"]:
        return "embed"
    return "lm_head" if model.get_submodule(owner) is model.get_output_embeddings() else "final_norm"


def train_only(
    model: PreTrainedModel,
    blocks: Blocks,
    layers: Collection[int] | None,
    component: Trained = "block",
    outside: Collection[Outside] = (),
) -> None:
    """Freeze every parameter that is neither in `layers`, or in their attention or MLP, nor in a part in `outside`.

    `layers` None leaves all parameters trainable.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(blocks.trains(name, layers, component, outside))

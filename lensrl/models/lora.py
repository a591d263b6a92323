"""Train LoRA in some layers of a model, with the adapters of PEFT, and give the merged weights.

    W + (alpha / rank) B A,    A random as PEFT draws it, B = 0 at the start

`add_lora` puts the adapters into a model in place; the names of other parameters then have `.base_layer` in them.
`named_weights` merges them, in fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib.util import find_spec

import torch
from torch import nn
from transformers import PreTrainedModel

from lensrl.errors import LensrlError
from lensrl.models.blocks import Blocks
from lensrl.recipe import Lora

NAME = "default"  # PEFT's own name for an adapter


def check_peft() -> None:
    """Raise LensrlError where PEFT is not installed."""
    if find_spec("peft") is None:
        raise LensrlError("lora needs PEFT: pip install 'lensrl[peft]'")


def linear_maps(model: nn.Module, blocks: Blocks, layers: Collection[int], lora: Lora) -> dict[str, nn.Linear]:
    """Return the linear maps that get an adapter, by name. Raises LensrlError where a target is no linear map."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and blocks.layer(f"{name}.weight") in layers
    }
    known = sorted({name.rpartition(".")[2] for name in found})
    unknown = next((target for target in lora.targets or () if target not in known), None)
    if unknown is not None or not found:
        raise LensrlError(f"lora.targets: {unknown!r} is no linear map of these layers; they have {', '.join(known)}")
    return {name: module for name, module in found.items() if name.rpartition(".")[2] in (lora.targets or known)}


def lora_size(model: nn.Module, blocks: Blocks, layers: Collection[int], lora: Lora) -> int:
    """Return the number of trained parameters: rank x (rows + columns) of each linear map."""
    maps = linear_maps(model, blocks, layers, lora).values()
    return sum(lora.rank * (module.in_features + module.out_features) for module in maps)


def add_lora(model: PreTrainedModel, blocks: Blocks, layers: Collection[int], lora: Lora, *, seed: int) -> None:
    """Put adapters into the layers of a model, and freeze everything else."""
    from peft import LoraConfig, inject_adapter_in_model

    names = [*linear_maps(model, blocks, layers, lora)]
    config = LoraConfig(r=lora.rank, lora_alpha=lora.scale, lora_dropout=0.0, bias="none", target_modules=names)  # pyright: ignore[reportArgumentType]
    torch.manual_seed(seed)
    inject_adapter_in_model(config, model, adapter_name=NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


@torch.no_grad()
def named_weights(model: nn.Module, *, trained: bool | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Give the weights of a model, on its device, by the base's names, with adapters merged in fp32.

    `trained` gives only what trains (True), a weight with an adapter included, or only what is frozen (False).
    """
    adapters = {f"{name}.weight": module for name, module in model.named_modules() if _is_adapter(module)}
    for name, parameter in model.named_parameters():
        called = name.replace(".base_layer.", ".")
        if (adapters and ".lora_" in name) or trained not in (None, parameter.requires_grad or called in adapters):
            continue
        if called in adapters:
            yield called, parameter.detach().float() + adapters[called].get_delta_weight(NAME).float()  # pyright: ignore
        else:
            yield called, parameter.detach()


def _is_adapter(module: nn.Module) -> bool:
    return type(module).__module__.startswith("peft.") and isinstance(module._modules.get("lora_A"), nn.ModuleDict)

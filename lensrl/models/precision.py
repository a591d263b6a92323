"""Types of numbers: which parameters are kept in fp32, and in which type a model computes.

    full RL                 masters fp32, gradients fp32, Adam's two moments fp32     16 bytes a parameter
    frozen, float32         the weight                                                 4 bytes a parameter
    frozen, bfloat16        the weight                                                 2 bytes a parameter
    a copy that samples     the weight, bf16, unless it is frozen in bf16              2 bytes a parameter

Compute in bf16 is torch's autocast: matrix products round their inputs to bf16, and the residual stream stays in fp32.
A frozen matrix whose values are bf16 numbers gives the same products from bf16 storage, bit for bit. So full RL and RL
on one layer start from the same logits, whatever is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

_MULTIPLIED = (nn.Linear, Conv1D)  # autocast rounds what these multiply; other modules may use a weight in fp32


def computes_in_bf16(model: PreTrainedModel) -> bool:
    """Return whether a model computes in bf16: on a GPU, and where some of its parameters are stored in bf16."""
    return model.device.type == "cuda" or any(p.dtype == torch.bfloat16 for p in model.parameters())


@contextmanager
def autocast(model: PreTrainedModel) -> Iterator[None]:
    """Enter the context in which a model is sampled: bf16 compute where `computes_in_bf16`, and `any_shape`."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=computes_in_bf16(model)), any_shape():
        yield


@contextmanager
def any_shape() -> Iterator[None]:
    """Compute attention without cuDNN, which prepares a plan for every new shape.

    In sampling, the keys grow with every token, so every shape is new. In training, the longest prompt and completion
    differ from step to step. One H100, a random model of Qwen3's 0.6B shape, 128 rows: 75 ms a token with cuDNN's plans
    and 28 to 30 ms without (runs/GPU.md). On a CPU nothing changes.
    """
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def copy_in_bf16(
    model: PreTrainedModel, device: str, frozen: Mapping[str, torch.Tensor] | None = None
) -> PreTrainedModel:
    """Turn a model that shares its weights with another (`Base.reading`) into a copy in bf16 on a device, for sampling.

    `frozen` are weights of a model that trains. Those in bf16 are not copied: the copy has these tensors themselves,
    and nothing may write to them. Buffers keep their types: rotary frequencies in bf16 would point to other positions.
    """
    for name, parameter in model.named_parameters():
        weight = (frozen or {}).get(name, parameter)
        parameter.data = weight.data if weight.dtype == torch.bfloat16 else parameter.data.to(device, torch.bfloat16)
    return model.eval().requires_grad_(False).to(device)  # pyright: ignore[reportArgumentType]


def is_exact(tensor: torch.Tensor) -> bool:
    """Return whether every number of an fp32 tensor is a bf16 number."""
    return not any(bool((part.view(torch.int32) & 0xFFFF).any()) for part in in_parts(tensor))


def in_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the numbers of a tensor in rows of at most 64 MB in fp32. A check of each takes the memory of one."""
    return tensor.detach().reshape(-1).split(2**24)


def own_weights(model: PreTrainedModel) -> None:
    """Give a model that shares its fp32 weights with another (`Base.reading`) copies of them."""
    for parameter in model.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.clone()


def lower_frozen(model: PreTrainedModel) -> None:
    """Store in bf16 the frozen matrices whose values are bf16 numbers. Nothing is rounded.

    Vectors (norms, biases) stay in fp32, and so do matrices with another use than a product or a look-up, such as an
    embedding that is scaled. What an embedding gives is turned back to fp32: the residual stream begins there.
    """
    owners: dict[nn.Parameter, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append(module)
    for parameter, modules in owners.items():
        plain = all(type(module) in (*_MULTIPLIED, nn.Embedding) for module in modules)
        if parameter.requires_grad or parameter.ndim < 2 or not plain or not is_exact(parameter):
            continue
        parameter.data = parameter.data.to(torch.bfloat16)
        for module in modules:
            if type(module) is nn.Embedding:
                module.register_forward_hook(lambda _module, _given, found: found.float())


def inexact(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first matrix with a number that bf16 cannot hold; None where there is none."""
    return next((name for name, tensor in weights.items() if tensor.ndim > 1 and not is_exact(tensor)), None)


class _HalfCache(DynamicCache):
    """Keeps keys and values in bf16. Norms of queries and keys give fp32, which attention rounds to bf16 anyway."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        half = torch.bfloat16
        return super().update(key_states.to(half), value_states.to(half), layer_idx, *args, **kwargs)


def new_cache(model: PreTrainedModel) -> Cache | None:
    """Return the empty cache of a model that computes in bf16. None leaves the choice to the model."""
    return _HalfCache(config=model.config) if computes_in_bf16(model) else None

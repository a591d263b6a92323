"""A model in shards: each rank holds an equal part of every weight, of its gradient and of its optimizer's moments.

    between steps      16 P / N bytes on each of N devices, for P trained weights (4 P / N where they are frozen)
    a training pass    and one block's weights, gathered for its forward and its backward pass
    sampling, scoring  and all weights: 4 P bytes

torch's FSDP2 (`fully_shard`) does this, block by block. Gathering for each token would move all weights each time, so
they are gathered once for a rollout. No rank then waits for another, however long its completions are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from lensrl.models.blocks import Blocks


def shard(model: PreTrainedModel, blocks: Blocks, device: str) -> None:
    """Share a model on the CPU out over all ranks, in place, each part on `device`. Every rank must call it."""
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    # A group for each block, and one for everything outside the blocks. The outermost would stay whole after a forward
    # pass by default, and a pass without gradients would leave old weights for the next one.
    for part in (*model.get_submodule(blocks.prefix).children(), model):
        sharded = cast(FSDPModule, fully_shard(part, mesh=mesh, reshard_after_forward=True))
        sharded.set_force_sum_reduction_for_comms(device == "cpu")  # gloo has sums, and no means


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether a model is in shards."""
    return isinstance(model, FSDPModule)


@contextmanager
def gathered(model: torch.nn.Module) -> Iterator[None]:
    """Hold all weights on every rank. Forward passes inside move no weights. Nothing happens without shards."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a weight from the shards of all ranks. Every rank must call it. A tensor without shards is returned."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a weight or gradient that this rank holds, in its own storage."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_part(weight: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Return the entries of a whole weight that `local(of)` holds of another of its shape."""
    if not isinstance(of, DTensor):
        return weight
    parts, number = weight.chunk(of.device_mesh.size()), of.device_mesh.get_local_rank()  # FSDP2 cuts the first axis so
    return parts[number] if number < len(parts) else weight[:0]  # of few rows, the last ranks have none

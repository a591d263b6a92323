"""Enter a model in the middle: run only the blocks from a layer on, with the outputs of the blocks below from a record.

Models that differ only from layer l on have equal streams below it. One pass of one of them records the output of each
block on a batch of tokens. Any other then starts at layer l: the blocks below hand the record of block l - 1 on, and
everything outside the blocks runs as always (positions, masks, the final norm, the head). The pass computes what a
whole pass would, with the same kernels on the same numbers.

A model whose blocks hand anything else to each other, beside the stream, cannot be entered. `enters` tries it.

Equal bit for bit, on a CPU in fp32: the 8 layers of `tiny:qwen3`, and random models with two blocks of Qwen3,
Qwen3-MoE, Qwen3-Next, Qwen3.5 (dense, MoE), Qwen2.5, Llama, Mistral, Phi-3, Gemma 1 to 3, GPT-2, GPT-NeoX, BLOOM and
OPT (`tests/test_families.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from lensrl.models.base import Base
from lensrl.models.blocks import Blocks
from lensrl.models.references import References, answer_logprobs, references
from lensrl.tasks import Item

STREAMS = 2**28  # most numbers in the recorded streams of a batch: 1 GiB of fp32
TRIED = 2  # items of a batch on which `enters` is tried: the trial is then short beside the passes that it saves
TOLERANCE = 1e-6  # nats per token: largest difference to a whole pass


@contextmanager
def recording(model: PreTrainedModel, blocks: Blocks) -> Iterator[list[Any]]:
    """Context in which the output of each block is recorded, as the block returns it, during one forward pass."""
    outputs: list[Any] = []
    hooks = [
        model.get_submodule(f"{blocks.prefix}.{layer}").register_forward_hook(lambda *given: outputs.append(given[2]))
        for layer in range(blocks.n_layers)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def entering(model: PreTrainedModel, blocks: Blocks, layer: int, outputs: list[Any]) -> Iterator[None]:
    """Context in which forward passes on the recorded tokens start at `layer`. At layer 0, nothing is left out."""
    below = [model.get_submodule(f"{blocks.prefix}.{number}") for number in range(layer)]
    for block in below:  # a block of TransformerLens would hand an attribute on to the block that it wraps
        vars(block)["forward"] = lambda *_, **__: outputs[layer - 1]
    try:
        yield
    finally:
        for block in below:
            del vars(block)["forward"]  # the class has its own again


@torch.no_grad()
def enters(model: PreTrainedModel, blocks: Blocks, teacher: References) -> bool:
    """Return whether passes that start in the middle give what a whole pass gives: log p of the answers, for a batch.

    Tries the first, the middle and the last block that can be entered.
    """
    with recording(model, blocks) as outputs:
        whole = answer_logprobs(model, teacher)
    if len(outputs) != blocks.n_layers:
        return False  # a block ran twice, or never
    for layer in {1, blocks.n_layers // 2, blocks.n_layers - 1} - {0}:
        try:
            with entering(model, blocks, layer, outputs):
                entered = answer_logprobs(model, teacher)
        except (TypeError, AttributeError, RuntimeError, IndexError, KeyError):
            return False  # the blocks need more of each other than the stream
        if not torch.allclose(entered, whole, rtol=0, atol=TOLERANCE):
            return False
    return True


def stream_batch(model: PreTrainedModel, base: Base, items: Sequence[Item]) -> int:
    """Return the most items whose streams after every block fit into STREAMS numbers."""
    width = references(base.prompts, items).ids.shape[1]
    return max(1, STREAMS // (width * model.config.get_text_config().hidden_size * base.blocks.n_layers))

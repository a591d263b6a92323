"""Activation patching: what one model's layer computes, put into another model's forward pass on the same tokens.

A pre-norm block adds an attention and an MLP output to the residual stream. Patching a block replaces these two
outputs by the donor's, computed in the donor's own forward pass: the block's contribution is the donor's, the stream
that it is added to stays the receiver's. (Replacing the stream after the block instead would hand over everything
that the donor computed so far, which recovers all of its change up to that layer by construction.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from lensrl.errors import LensrlError
from lensrl.evaluate import References, answer_mean, batches, references, teacher_batch, token_logprobs
from lensrl.patching.bridge import site
from lensrl.store.patch import PatchComponent
from lensrl.tasks import Item

COMPONENT_SITES: dict[PatchComponent, tuple[str, ...]] = {
    "block": ("attn_out", "mlp_out"),
    "attn": ("attn_out",),
    "mlp": ("mlp_out",),
}
METRICS = ("reference_logprob", "logit_difference")  # the rows of what follows

PerItem = Float64[np.ndarray, "metric item"]


@torch.no_grad()
def patch_activations(
    into: TransformerBridge,
    donor: TransformerBridge,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    layers: Sequence[int],
    component: PatchComponent = "block",
    *,
    batch: int = 256,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[PerItem, PerItem, dict[int, PerItem]]:
    """The metrics of the receiver, of the donor, and of the receiver with each layer patched alone.

    Teacher forcing on prompt + reference, over the tokens of the reference and the end of sequence:

    - `reference_logprob`: the mean of log p(token), nats per token;
    - `logit_difference`: logit(token) - the largest logit of any other token, at the token where it is smallest.
      Greedy decoding writes the reference exactly where this is above 0. (A mean over tokens would mostly show how
      sure a model is of the tokens that were never in doubt.)
    """
    unpatched: list[torch.Tensor] = []
    donors: list[torch.Tensor] = []
    patched: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    wanted = {site(layer, name) for layer in layers for name in (*COMPONENT_SITES[component], "block_out")}
    wanted |= {f"blocks.{layer}.hook_in" for layer in layers}
    done = 0
    for chunk in batches(items, teacher_batch(tokenizer, items, batch)):
        teacher = references(tokenizer, chunk).to(str(into.cfg.device))
        logits, cache = donor.run_with_cache(
            teacher.ids, names_filter=lambda hook: hook in wanted, attention_mask=teacher.mask
        )
        if component == "block":
            _check_pre_norm(cache, layers)
        donors.append(_metrics(logits, teacher))
        unpatched.append(_metrics(into(teacher.ids, attention_mask=teacher.mask), teacher))
        for layer in layers:
            hooks: list[Any] = [
                (site(layer, name), _replace(cache[site(layer, name)])) for name in COMPONENT_SITES[component]
            ]
            patched[layer].append(
                _metrics(into.run_with_hooks(teacher.ids, fwd_hooks=hooks, attention_mask=teacher.mask), teacher)
            )
        done += len(chunk)
        if on_batch is not None:
            on_batch(done, len(items))
    return _join(unpatched), _join(donors), {layer: _join(chunks) for layer, chunks in patched.items()}


def logit_difference(
    logits: Float[torch.Tensor, "item token vocabulary"], teacher: References
) -> Float[torch.Tensor, "item position"]:
    """The reference token's logit minus the largest other one, at every position that predicts a token."""
    here = logits[:, :-1]
    targets = teacher.ids[:, 1:, None]
    rival = here.scatter(-1, targets, -torch.inf).amax(-1)
    return here.gather(-1, targets).squeeze(-1) - rival


def _check_pre_norm(cache: Any, layers: Sequence[int]) -> None:
    """A block must be what it adds to the stream. Raises LensrlError for a post-norm block, which rescales the sum."""
    for layer in layers:
        added = cache[site(layer, "block_out")] - cache[f"blocks.{layer}.hook_in"]
        parts = cache[site(layer, "attn_out")] + cache[site(layer, "mlp_out")]
        if not torch.allclose(added, parts, rtol=1e-2, atol=1e-2 * float(added.abs().max())):
            raise LensrlError(
                f"layer {layer} is not attention + MLP added to the residual stream (a post-norm block?): "
                f"patch --component attn or mlp, or --what weights"
            )


def _replace(value: torch.Tensor) -> Callable[..., torch.Tensor]:
    def hook(activation: torch.Tensor, hook: object) -> torch.Tensor:
        return value

    return hook


def _metrics(logits: torch.Tensor, teacher: References) -> torch.Tensor:
    margins = logit_difference(logits, teacher).masked_fill(~teacher.answer, torch.inf)
    return torch.stack([answer_mean(token_logprobs(logits, teacher.ids), teacher.answer), margins.amin(-1)])


def _join(chunks: list[torch.Tensor]) -> PerItem:
    return torch.cat(chunks, dim=1).double().cpu().numpy()

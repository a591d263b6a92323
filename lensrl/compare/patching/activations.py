"""Activation patching: what one model's layers compute, put into another model's forward pass on the same tokens.

A pre-norm block adds an attention and an MLP output to the residual stream. Patching a block replaces these two
outputs by the donor's, computed in the donor's own forward pass: the block's contribution is the donor's, the stream
that it is added to stays the receiver's. Several layers are patched in one forward pass. (With all blocks 0 ... l
patched, the stream after l is the donor's but for the embedding: that recovery grows with l by construction.)

The whole stream after a block (`stream`) is another thing: it hands over everything that the donor computed so far,
its embedding too, and so recovers all of the donor's change up to that layer by construction. After the last layer
only what `final_norm` and `lm_head` changed is left.

A head (`head`) is patched where its values are mixed, before the output projection (TransformerLens' `hook_z`, as is
usual): the receiver's own projection carries them to the stream, so a change of that projection is not handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerBase

from lensrl.errors import LensrlError
from lensrl.models.bridge import run_with_cache, site
from lensrl.models.references import References, answer_mean, batches, references, teacher_batch, token_logprobs
from lensrl.store.patch import PatchComponent
from lensrl.tasks import Item

COMPONENT_SITES: dict[PatchComponent, tuple[str, ...]] = {
    "block": ("attn_out", "mlp_out"),
    "attn": ("attn_out",),
    "mlp": ("mlp_out",),
    "head": ("head_out",),
    "stream": ("block_out",),
}
FORCED_METRICS = ("reference_logprob", "logit_difference")  # the rows of what follows

PerItem = Float64[np.ndarray, "metric item"]


class Patch(NamedTuple):
    """What is replaced in one forward pass: the outputs of these layers, or of one head of theirs."""

    layers: tuple[int, ...]
    head: int | None = None


@torch.no_grad()
def patch_activations(
    into: TransformerBridge,
    donor: TransformerBridge,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    patches: Sequence[Patch],
    component: PatchComponent = "block",
    *,
    batch: int = 256,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[PerItem, PerItem, dict[Patch, PerItem]]:
    """The metrics of the receiver, of the donor, and of the receiver under each patch.

    Teacher forcing on prompt + reference, over the tokens of the reference and the end of sequence:

    - `reference_logprob`: the mean of log p(token), nats per token;
    - `logit_difference`: logit(token) - the largest logit of any other token, at the token where it is smallest.
      Greedy decoding writes the reference exactly where this is above 0. (A mean over tokens would mostly show how
      sure a model is of the tokens that were never in doubt.)
    """
    unpatched: list[torch.Tensor] = []
    donors: list[torch.Tensor] = []
    patched: dict[Patch, list[torch.Tensor]] = {patch: [] for patch in patches}
    layers = sorted({layer for patch in patches for layer in patch.layers})
    names = (*COMPONENT_SITES[component], *(("block_in", "block_out") if component == "block" else ()))
    wanted = {site(layer, name) for layer in layers for name in names}
    done = 0
    for chunk in batches(items, teacher_batch(tokenizer, items, batch)):
        teacher = references(tokenizer, chunk).to(str(into.cfg.device))
        logits, cache = run_with_cache(donor, teacher.ids, teacher.mask, wanted)
        if component == "block":
            _check_pre_norm(cache, layers)
        donors.append(_metrics(logits, teacher))
        unpatched.append(_metrics(into(teacher.ids, attention_mask=teacher.mask), teacher))
        for patch in patches:
            hooks: list[Any] = [
                (hook, _replace(cache[hook], patch.head))
                for layer in patch.layers
                for hook in (site(layer, name) for name in COMPONENT_SITES[component])
            ]
            patched[patch].append(
                _metrics(into.run_with_hooks(teacher.ids, fwd_hooks=hooks, attention_mask=teacher.mask), teacher)
            )
        done += len(chunk)
        if on_batch is not None:
            on_batch(done, len(items))
    return _join(unpatched), _join(donors), {patch: _join(chunks) for patch, chunks in patched.items()}


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
        added = cache[site(layer, "block_out")] - cache[site(layer, "block_in")]
        parts = cache[site(layer, "attn_out")] + cache[site(layer, "mlp_out")]
        if not torch.allclose(added, parts, rtol=1e-2, atol=1e-2 * float(added.abs().max())):
            raise LensrlError(
                f"layer {layer} is not attention + MLP added to the residual stream (a post-norm block?): "
                f"patch --component attn or mlp, or --what weights"
            )


def _replace(value: torch.Tensor, head: int | None) -> Callable[..., torch.Tensor]:
    """A hook that gives back the donor's `value`, or puts one head of it, (item, token, head, d_head), in its place."""

    def hook(activation: torch.Tensor, hook: object) -> torch.Tensor:
        if head is None:
            return value
        activation = activation.clone()
        activation[:, :, head] = value[:, :, head]
        return activation

    return hook


def _metrics(logits: torch.Tensor, teacher: References) -> torch.Tensor:
    margins = logit_difference(logits, teacher).masked_fill(~teacher.answer, torch.inf)
    return torch.stack([answer_mean(token_logprobs(logits, teacher.ids), teacher.answer), margins.amin(-1)])


def _join(chunks: list[torch.Tensor]) -> PerItem:
    return torch.cat(chunks, dim=1).double().cpu().numpy()

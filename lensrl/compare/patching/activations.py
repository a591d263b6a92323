"""Activation patching: put the outputs of one model's layers into another model's forward pass on the same tokens.

Block (`block`). A pre-norm block adds an attention output and an MLP output to the residual stream. Patching a block
replaces both outputs by the donor's outputs, which come from the donor's own forward pass. The block then adds the
donor's contribution to the receiver's stream. Several layers are patched in one forward pass. When all blocks 0 ... l
are patched, the stream after l is the donor's except for the embedding: this recovery grows with l by construction.

Direct (`direct`). A block is patched, and every later block adds what it adds in the receiver's own pass. So the patch
reaches the final norm alone, and no later layer answers it. It still brings the changes of the block's inputs, which
come from the donor's layers below it. For the last layer, `direct` is `block`.

Stream (`stream`). Patching the whole residual stream after a block carries over everything that the donor computed so
far, its embedding included. This recovers all of the donor's change up to that layer by construction. After the last
layer, only the changes of `final_norm` and `lm_head` are missing.

Head (`head`). A head is patched before the output projection (TransformerLens' `hook_z`, the usual place). The
receiver's own projection then maps the values to the stream. A change of the donor's projection is not carried over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.models.bridge import run_with_cache, run_with_hooks, site
from lensrl.models.entry import TRIED, entering, enters, recording, stream_batch
from lensrl.models.references import References, answer_batch, answer_mean, batches, references
from lensrl.store.patch import PatchComponent
from lensrl.tasks import Item

COMPONENT_SITES: dict[PatchComponent, tuple[str, ...]] = {
    "block": ("attn_out", "mlp_out"),
    "attn": ("attn_out",),
    "mlp": ("mlp_out",),
    "head": ("head_out",),
    "direct": ("attn_out", "mlp_out"),
    "stream": ("block_out",),
}
FORCED_METRICS = ("reference_logprob", "logit_difference")  # the rows of `PerItem`

PerItem = Float64[np.ndarray, "metric item"]


class Patch(NamedTuple):
    """The outputs that one forward pass replaces: all outputs of these layers, or one head's output in each."""

    layers: tuple[int, ...]
    head: int | None = None


@torch.no_grad()
def patch_activations(
    into: TransformerBridge,
    donor: TransformerBridge,
    base: Base,
    items: Sequence[Item],
    patches: Sequence[Patch],
    component: PatchComponent = "block",
    *,
    batch: int = 256,
    donor_items: Sequence[Item] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[PerItem, PerItem, dict[Patch, PerItem]]:
    """Return the metrics of the receiver, of the donor, and of the receiver under each patch.

    Both models read prompt + reference (teacher forcing). One pass of the receiver for each batch records its streams,
    and each patch enters it at its lowest layer (`lensrl.models.entry`), where it can be entered. Logits are computed
    for the tokens of the reference and the end of sequence alone. The metrics are over these tokens:

    - `reference_logprob`: the mean of log p(token), in nats per token;
    - `logit_difference`: logit(token) minus the largest logit of any other token, at the token where this is smallest.
      Greedy decoding writes the reference exactly where this is above 0. (A mean over tokens would mostly show how
      sure a model is of tokens that were never in doubt.)

    `donor_items` are other items for the donor to read, as a control: one for each of `items`, with as many tokens in
    prompt and reference. The donor's metrics are then those of these items.

    Raises LensrlError for a whole-block patch of a post-norm block.
    """
    unpatched: list[torch.Tensor] = []
    donors: list[torch.Tensor] = []
    patched: dict[Patch, list[torch.Tensor]] = {patch: [] for patch in patches}
    # The donor's activations to keep: the patched sites, and for whole blocks the stream around them, for the check.
    layers = sorted({layer for patch in patches for layer in patch.layers})
    sites, whole = COMPONENT_SITES[component], component in ("block", "direct")
    wanted = {site(layer, name) for layer in layers for name in (*sites, *(("block_in", "block_out") if whole else ()))}
    later = range(min(layers, default=0) + 1, into.cfg.n_layers) if component == "direct" else ()
    kept = {site(layer, name) for layer in later for name in sites}
    prompts, blocks, model = base.prompts, base.blocks, cast("PreTrainedModel", into.original_model)
    size = min(answer_batch(model, prompts, items, batch), stream_batch(model, base, items))
    can_enter = enters(model, blocks, references(prompts, items[:TRIED]).to(str(into.cfg.device)))
    done = 0
    for chunk, read in zip(batches(items, size), batches(donor_items or items, size), strict=True):
        teacher, other = (references(prompts, each).to(str(into.cfg.device)) for each in (chunk, read))
        at = _answers(teacher)
        logits, cache = run_with_cache(donor, other.ids, other.mask, wanted, _answers(other))
        if whole:
            _check_pre_norm(cache, layers)
        donors.append(_metrics(logits, other))
        with recording(model, blocks) as streams:
            logits, own = run_with_cache(into, teacher.ids, teacher.mask, kept, at)
        unpatched.append(_metrics(logits, teacher))
        # One forward pass of the receiver per patch, with the donor's outputs in place of its own.
        for patch in patches:
            hooks: list[Any] = [
                (hook, _replace(cache[hook], patch.head))
                for layer in patch.layers
                for hook in (site(layer, name) for name in sites)
            ]
            hooks += [
                (hook, _replace(own[hook], None))
                for layer in later
                if layer > patch.layers[0] and layer not in patch.layers
                for hook in (site(layer, name) for name in sites)
            ]
            with entering(model, blocks, min(patch.layers) if can_enter else 0, streams):
                logits = run_with_hooks(into, teacher.ids, teacher.mask, hooks, at)
            patched[patch].append(_metrics(logits, teacher))
        done += len(chunk)
        if on_batch is not None:
            on_batch(done, len(items))
    return _join(unpatched), _join(donors), {patch: _join(chunks) for patch, chunks in patched.items()}


def logit_difference(
    logits: Float[torch.Tensor, "item position vocabulary"], tokens: Int[torch.Tensor, "item position"]
) -> Float[torch.Tensor, "item position"]:
    """Return the logit of each token minus the largest logit of any other."""
    targets = tokens[..., None]
    rival = logits.scatter(-1, targets, -torch.inf).amax(-1)
    return logits.gather(-1, targets).squeeze(-1) - rival


def _check_pre_norm(cache: Any, layers: Sequence[int]) -> None:
    """Check that a block only adds its attention and MLP outputs to the stream.

    Raises LensrlError for a post-norm block, which rescales the sum.
    """
    for layer in layers:
        added = cache[site(layer, "block_out")] - cache[site(layer, "block_in")]
        parts = cache[site(layer, "attn_out")] + cache[site(layer, "mlp_out")]
        if not torch.allclose(added, parts, rtol=1e-2, atol=1e-2 * float(added.abs().max())):
            raise LensrlError(
                f"layer {layer} is not attention + MLP added to the residual stream (a post-norm block?): "
                f"patch --component attn or mlp, or --what weights"
            )


def _replace(value: torch.Tensor, head: int | None) -> Callable[..., torch.Tensor]:
    """Return a hook that replaces an activation by the donor's `value`.

    With `head`, the hook replaces that head alone: `value` is then (item, token, head, d_head).
    """

    def hook(activation: torch.Tensor, hook: object) -> torch.Tensor:
        if head is None:
            return value
        activation = activation.clone()
        activation[:, :, head] = value[:, :, head]
        return activation

    return hook


def _answers(teacher: References) -> torch.Tensor:
    """Return the positions that predict a token of an answer, in any item."""
    return teacher.answer.any(0).nonzero().squeeze(-1)


def _metrics(logits: torch.Tensor, teacher: References) -> torch.Tensor:
    """Return `FORCED_METRICS` of every item, (metric, item), from logits at the positions of `_answers`."""
    at = _answers(teacher)
    tokens, answer = teacher.ids[:, at + 1], teacher.answer[:, at]
    logprobs = logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    margins = logit_difference(logits, tokens).masked_fill(~answer, torch.inf)
    return torch.stack([answer_mean(logprobs, answer), margins.amin(-1)])


def _join(chunks: list[torch.Tensor]) -> PerItem:
    return torch.cat(chunks, dim=1).double().cpu().numpy()

"""TransformerLens' TransformerBridge as lensrl uses it: raw weights, a model of its own, eager attention.

Booting a bridge switches its model to eager attention in place. Eager and fused attention differ by about 1e-3 in fp32.
So a bridge always gets a model of its own, and numbers from a bridge are compared only with numbers from a bridge.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lensrl.errors import LensrlError, reason
from lensrl.models.entry import STREAMS
from lensrl.models.prompts import Prompts
from lensrl.models.references import keeps_logits, references
from lensrl.store.write import Probe
from lensrl.tasks import Item

SITES = {
    "block_out": "hook_out",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
}  # activations that every run keeps, of those that its model has
_HOOKS = SITES | {"block_in": "hook_in", "head_out": "attn.hook_z"}


def boot(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    """Boot a bridge that owns `model`. Raises LensrlError for an architecture that TransformerLens does not know."""
    name = type(model).__name__
    try:
        return TransformerBridge.boot_transformers(
            name, hf_model=model, tokenizer=tokenizer, device=model.device, dtype=torch.float32
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        why = textwrap.shorten(reason(error), 120)  # the message may list every known architecture
        raise LensrlError(f"TransformerLens cannot open {name} ({why}): activations need it") from None


def site(layer: int, name: str) -> str:
    """Return the hook name of a site: `block_out` of layer 3 is `blocks.3.hook_out`."""
    return f"blocks.{layer}.{_HOOKS[name]}"


def run_with_cache(
    bridge: TransformerBridge, ids: torch.Tensor, mask: torch.Tensor, wanted: Collection[str], positions: torch.Tensor
) -> tuple[torch.Tensor, Any]:
    """Run tokens `ids` (item, token), and return logits (item, position, vocabulary) and activations by hook name.

    `mask` (item, token) is the attention mask, `wanted` the names of hooks. Logits are computed at `positions` alone,
    where the model can do so. Raises LensrlError if the model has no such site: a block of a state-space model has no
    attention output, for example.
    """
    chosen, among = _logits_at(bridge, positions)
    logits, cache = bridge.run_with_cache(ids, attention_mask=mask, names_filter=lambda hook: hook in wanted, **chosen)
    missing = sorted(hook for hook in wanted if hook not in cache)
    if missing:
        model = type(bridge.original_model).__name__
        raise LensrlError(f"TransformerLens finds no {missing[0]} in {model}: activations are taken there")
    return logits[:, among], cache


def run_with_hooks(
    bridge: TransformerBridge, ids: torch.Tensor, mask: torch.Tensor, hooks: Sequence[Any], positions: torch.Tensor
) -> torch.Tensor:
    """Run tokens with hooks, pairs of a name and a function, and return logits as `run_with_cache`."""
    chosen, among = _logits_at(bridge, positions)
    return bridge.run_with_hooks(ids, fwd_hooks=[*hooks], attention_mask=mask, **chosen)[:, among]


def _logits_at(bridge: TransformerBridge, positions: torch.Tensor) -> tuple[dict[str, Any], Any]:
    """Return the argument with which a model computes logits at `positions` alone, and where they are in its logits."""
    if keeps_logits(type(bridge.original_model)):  # pyright: ignore[reportArgumentType]
        return {"logits_to_keep": positions}, slice(None)
    return {}, positions


def sites_of(bridge: TransformerBridge, n_layers: int) -> list[str]:
    """Return the sites of `SITES` that every layer has. Raises LensrlError for a site that no layer has.

    In a hybrid model, layers with linear attention have no attention output, and layers with full attention have one.
    """
    found = {name: sum(site(layer, name) in bridge.hook_dict for layer in range(n_layers)) for name in SITES}
    missing = next((name for name, layers in found.items() if not layers), None)
    if missing is not None:
        model = type(bridge.original_model).__name__
        raise LensrlError(f"TransformerLens finds no {site(0, missing)} in {model}: activations are taken there")
    return [name for name, layers in found.items() if layers == n_layers]


def probe_set(prompts: Prompts, items: Sequence[Item]) -> Probe:
    """Return the tokens of the items' prompts and references, one entry per token, without padding."""
    teacher = references(prompts, items)
    return probe_of(prompts, teacher.ids, teacher.mask)


def probe_of(prompts: Prompts, ids: torch.Tensor, mask: torch.Tensor) -> Probe:
    """Return tokens `ids` (item, token), one entry per token, without padding. `mask` is the attention mask."""
    prompt, position = torch.nonzero(mask, as_tuple=True)
    kept = ids[prompt, position]
    return Probe(
        token_id=kept.numpy().astype(np.int32),
        prompt=prompt.numpy().astype(np.int32),
        position=position.numpy().astype(np.int32),
        text=[str(prompts.tokenizer.decode([i])) for i in kept.tolist()],
    )


def capture(
    model: PreTrainedModel, prompts: Prompts, items: Sequence[Item], n_layers: int, *, batch: int = 32
) -> dict[str, Float32[np.ndarray, "layer token feature"]]:
    """Capture the output of every block (the residual stream after it), attention and MLP on the probe set.

    Returns one array (layer, token, feature) per site that every layer has. The tokens are the tokens of `probe_set`,
    in its order. The bridge takes `model` over: do not use the model afterwards.
    """
    teacher = references(prompts, items)
    return capture_tokens(model, prompts, teacher.ids, teacher.mask, n_layers, batch=batch)


@torch.no_grad()
def capture_tokens(
    model: PreTrainedModel, prompts: Prompts, ids: torch.Tensor, mask: torch.Tensor, n_layers: int, *, batch: int = 32
) -> dict[str, Float32[np.ndarray, "layer token feature"]]:
    """Capture the same on tokens `ids` (item, token) with their attention mask: see `capture`."""
    bridge = boot(model, prompts.tokenizer)
    hooks = {name: [site(layer, name) for layer in range(n_layers)] for name in sites_of(bridge, n_layers)}
    wanted = {hook for names in hooks.values() for hook in names}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in hooks}
    size = max(1, min(batch, STREAMS // (len(wanted) * ids.shape[1] * model.config.get_text_config().hidden_size)))
    last = torch.tensor([ids.shape[1] - 1], device=model.device)  # no logits are wanted, and some must be computed
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        kept = mask[rows].to(model.device)
        _, cache = run_with_cache(bridge, ids[rows].to(model.device), kept, wanted, last)
        for name, names in hooks.items():
            parts[name].append(torch.stack([cache[hook][kept.bool()] for hook in names]).float().cpu().numpy())
    return {name: np.concatenate(chunks, axis=1) for name, chunks in parts.items()}

"""Look into the model of a run: with TransformerLens' hooks, or at its activations on prompts of your own.

- `load_bridge(run)`, or `run.bridge()`, returns a TransformerBridge.
- `activations(study, "full-rl", ["47+38="])` returns the activations that every run keeps of the study's own items.

Both have raw weights and eager attention, as all activations of lensrl: see `lensrl.models.bridge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32
from transformer_lens.model_bridge import TransformerBridge

from lensrl.compare.patching.graft import check_has_weights, run_weights
from lensrl.errors import LensrlError
from lensrl.models.base import load_base, pick_device
from lensrl.models.bridge import boot, capture_tokens, probe_of
from lensrl.models.generation import pad_id
from lensrl.models.references import check_positions, right_padded
from lensrl.store.look import result_html
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.tasks import Item


class Activations(NamedTuple):
    """Activations of one run on some prompts, in the form that a run file has: `run.probe()`, `run.activations`."""

    probe: pd.DataFrame  # one row per token: token_id, prompt (from 0), position (from 0), text
    sites: dict[str, Float32[np.ndarray, "layer token feature"]]  # block_out, attn_out, mlp_out; tokens as in `probe`

    def __repr__(self) -> str:
        prompts = self.probe["prompt"].nunique()
        shapes = ", ".join(f"{site} {found.shape}" for site, found in self.sites.items())
        return f"<Activations of {prompts} prompt{'s' * (prompts != 1)}, {len(self.probe)} tokens: {shapes}>"

    def _repr_html_(self) -> str:
        rows = [
            {"site": site, "shape": found.shape, "axes": "layer, token, feature"} for site, found in self.sites.items()
        ]
        texts = self.probe.groupby("prompt")["text"].agg("".join)
        return result_html("Activations of " + ", ".join(map(repr, texts)), rows)


def load_bridge(run: Run) -> TransformerBridge:
    """Return the model of a run as a TransformerBridge of TransformerLens, on the GPU if there is one, in fp32.

    The weights are raw: no norm is folded into a matrix, and nothing is centred. Attention is eager, which differs from
    the attention of `lensrl.load_model` by about 1e-3: compare activations of bridges with activations of bridges.

    Raises LensrlError when the run diverged, when its base model cannot be loaded or has changed, and for an
    architecture that TransformerLens does not know.
    """
    check_has_weights(run)
    base = load_base(run.base)
    return boot(base.fresh(run_weights(run, base), device=pick_device()), base.tokenizer)


def activations(study: Study, run: str, prompts: str | Sequence[str], *, seed: int | None = None) -> Activations:
    """Return the activations of a run on prompts: `probe, sites = lensrl.activations(study, "full-rl", ["47+38="])`.

    `sites["block_out"]` (layer, token, feature) is the residual stream after each layer; `attn_out` and `mlp_out` are
    what its attention and its MLP add, where every layer has them. `probe` has one row per token: the tokens of the
    first prompt, then those of the next, without padding. `sites["block_out"][4, probe["prompt"] == 1]` is the second
    prompt after layer 4.

    A prompt is read as the prompt of an item is: with the special tokens of the tokenizer, and in a study with
    `prompt.chat` as a user's message. No reference and no end of sequence follow. `seed=None`: see
    `lensrl.store.runs.Runs`.

    Raises LensrlError as `load_bridge` does, for no prompts, and for a prompt without tokens or with too many.
    """
    texts = [prompts] if isinstance(prompts, str) else [*prompts]
    source = study.runs.find_scored(run, study.runs.shared_seed(run, scored=True) if seed is None else seed)
    base = load_base(study.recipe.model, study.recipe.prompt)
    rows = [base.prompts.ids(Item(str(number), text, "", "")) for number, text in enumerate(texts)]
    if not all(rows) or not rows:
        empty = next((repr(text) for text, row in zip(texts, rows, strict=True) if not row), "[]")
        raise LensrlError(f'prompts {empty}: there is no token to read; give texts, for example ["47+38="]')
    ids, mask = right_padded(rows, pad_id(base.tokenizer))
    check_positions(base.model, ids.shape[1])
    model = base.fresh(run_weights(source, base), device=pick_device())
    found = probe_of(base.prompts, ids, mask)
    probe = {"token_id": found.token_id, "prompt": found.prompt, "position": found.position, "text": found.text}
    return Activations(pd.DataFrame(probe), capture_tokens(model, base.prompts, ids, mask, base.blocks.n_layers))

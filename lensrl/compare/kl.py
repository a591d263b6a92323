"""How far each run went from the base: KL divergence on completions of held-out items, and entropy.

For completions y that a run samples after a prompt x, with q the run and p the base,

    KL(q || p) = E_y sum_t KL(q(. | x, y_<t) || p(. | x, y_<t))

by the chain rule. Each summand is exact over the vocabulary; only y is sampled. This has less variance than the mean of
log q(y) - log p(y), and the same expectation. A completion ends with its end of sequence, or at the token limit.

Two runs with one score may be far from each other in KL: C_l compares gains, and the KL divergence is their price.

The base is at exactly 0 from itself. The null of a run is a model at the same distance in weights: the base plus a
random direction with the norm of the run's delta in each parameter (`lensrl.compare.random_direction`), measured in the
same way. It tells how much of the KL comes with the size of the change alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.graft import run_weights
from lensrl.compare.progress import with_bar
from lensrl.compare.random_direction import random_direction
from lensrl.errors import LensrlError
from lensrl.models.base import Base, load_base, pick_device
from lensrl.models.generation import pad_id, sampling_settings, stop_tokens
from lensrl.models.noise import SCORING
from lensrl.models.references import LOGITS, batches, keeps_logits, logits_at, right_padded
from lensrl.models.sampler import SAMPLERS
from lensrl.recipe.runs import BASE, run_layer
from lensrl.store.names import order
from lensrl.store.origin import check_base
from lensrl.store.study import Study
from lensrl.tasks import AgentTask, Item, Texts, evaluation_items, load_task

KL_COLUMNS = ["run", "layer", "seed", "gain", "kl", "low", "high", "random", "entropy", "base_entropy"]
NORMAL_95 = 1.959964


class Divergence(NamedTuple):
    """Of one completion: KL(run || base) in nats, and the mean entropy of both per token, in nats."""

    kl: float
    entropy: float
    base_entropy: float


@with_bar("KL")
def kl_to_base(
    study: Study,
    *,
    seed: int | None = None,
    items: int | None = None,
    draws: int = 1,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Measure KL(run || base) of every run with weights, on one completion of each held-out item of the study's task.

    `items` takes the first so many; None takes all. Columns: run; layer, <NA> for other runs than single layers; seed;
    gain of the score over the base; kl, in nats a completion, with its 95 % interval over items, low and high; random,
    the mean KL of `draws` random directions with the norm of each parameter's delta, NaN for 0 draws; entropy and
    base_entropy, of both policies along the run's completions, in nats a token. Sampling is at temperature 1, from the
    whole distribution: other settings would sample another policy.

    Raises LensrlError for a task in turns, for texts, and when the base model is not the study's.
    """
    recipe = study.recipe
    task = load_task(recipe)
    if isinstance(task, AgentTask | Texts):
        raise LensrlError(f"KL is measured on completions, and task {recipe.task.name!r} has none")
    if draws < 0:
        raise LensrlError(f"draws is {draws}; it may not be negative")
    base, asked = load_base(recipe.model, recipe.prompt), evaluation_items(task, recipe)[:items]
    device, score = pick_device(), study[BASE].score
    before = base.reading(device=device).eval()

    def measured(weights: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Return KL, entropy and the base's entropy of each item: (3, item)."""
        found = divergences(
            base.reading(weights, device=device).eval(), before, base, asked,
            max_tokens={name: recipe.evaluation_tokens(name) for name in {item.benchmark for item in asked}},
            seed=recipe.evaluation.seed, generation=recipe.generation, batch=recipe.evaluation.batch,
        )  # fmt: skip
        return np.array(found).T

    wanted = [run for run in study.runs.values() if run.name != BASE and run.has_weights and seed in (None, run.seed)]
    rows = []
    for done, run in enumerate(sorted(wanted, key=lambda run: order(run.name, run.seed))):
        check_base(run, base.name, base.fingerprint)
        weights = run_weights(run, base)
        kl, entropy, base_entropy = measured(weights)
        nulls = [measured(_random_weights(weights, base, draw))[0].mean() for draw in range(draws)]
        error = NORMAL_95 * kl.std(ddof=1) / math.sqrt(len(kl)) if len(kl) > 1 else math.nan
        middle = float(kl.mean())
        rows.append(
            (run.name, run_layer(run.name), run.seed, run.score - score, middle, middle - error, middle + error,
             float(np.mean(nulls)) if draws else math.nan, float(entropy.mean()), float(base_entropy.mean()))
        )  # fmt: skip
        if on_progress is not None:
            on_progress("runs", done + 1, len(wanted))
    return pd.DataFrame(rows, columns=KL_COLUMNS).astype({"layer": "Int64"})


def _random_weights(weights: Mapping[str, torch.Tensor], base: Base, draw: int) -> dict[str, torch.Tensor]:
    """Return the base with a random direction in the place of each parameter's delta."""
    before = {name: weight.numpy() for name, weight in base.weights.items()}
    after = {n: before[n] if weights[n] is base.weights[n] else weights[n].numpy() for n in before}
    moved = random_direction(before, after, draw)
    return {n: weights[n] if moved[n] is before[n] else torch.from_numpy(moved[n]) for n in before}


@torch.no_grad()
def divergences(
    model: PreTrainedModel,
    before: PreTrainedModel,
    base: Base,
    items: Sequence[Item],
    *,
    max_tokens: dict[str, int],
    seed: int,
    generation: str,
    batch: int,
) -> list[Divergence]:
    """Sample a completion of each item from `model`, and compare `model` with `before` along it."""
    sampler, ends = SAMPLERS[generation](model, base.tokenizer), stop_tokens(model, base.tokenizer)
    found: dict[int, Divergence] = {}
    for benchmark, limit in max_tokens.items():
        settings = sampling_settings(ends, base.tokenizer, max_tokens=limit, temperature=1.0)
        places = [place for place, item in enumerate(items) if item.benchmark == benchmark]
        for chunk in batches(places, batch):
            prompts = [base.prompts.ids(items[place]) for place in chunk]
            torch.manual_seed(seed)
            written = sampler.generate(prompts, settings, [(seed, SCORING, place, 0) for place in chunk])
            rows = [(prompt, one.tokens) for prompt, one in zip(prompts, written, strict=True)]
            first, last = _span(rows)
            width = last - first if keeps_logits(type(model)) else last + 1
            few = max(1, LOGITS // (2 * width * model.config.get_text_config().vocab_size))
            compared = [
                one for part in batches(rows, few) for one in _compare(model, before, part, pad_id(base.tokenizer))
            ]
            found |= dict(zip(chunk, compared, strict=True))
    return [found[place] for place in range(len(items))]


def _span(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[int, int]:
    """Return the first position that predicts a token of a completion, and the position after the last one."""
    return min(len(prompt) for prompt, _ in rows) - 1, max(len(prompt) + len(tokens) for prompt, tokens in rows) - 1


def _compare(
    model: PreTrainedModel, before: PreTrainedModel, rows: Sequence[tuple[list[int], list[int]]], pad: int
) -> list[Divergence]:
    """Compare two models at the positions that predict a token of a completion. Rows are right-padded."""
    ids, mask = (part.to(model.device) for part in right_padded([[*prompt, *tokens] for prompt, tokens in rows], pad))
    first, last = _span(rows)
    kept = torch.arange(first, last, device=model.device)
    after, old = (logits_at(m, ids, mask, kept).log_softmax(-1) for m in (model, before))
    kl = (after.exp() * (after - old)).sum(-1)
    entropy, old_entropy = (-(each.exp() * each).sum(-1) for each in (after, old))
    found = []
    for i, (prompt, tokens) in enumerate(rows):
        said = slice(len(prompt) - 1 - first, len(prompt) + len(tokens) - 1 - first)
        found.append(
            Divergence(float(kl[i, said].sum()), float(entropy[i, said].mean()), float(old_entropy[i, said].mean()))
        )
    return found

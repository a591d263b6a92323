"""Score a model on held-out items: sampled completions, and the log-probability of the reference answer.

Everything that could differ between two runs of a study is explicit: the items, the number of samples, temperature,
top-p, top-k and the seed of the sampler. The model's own generation defaults are not used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32
from transformers import PreTrainedModel

from lensrl.models.generation import sampling_settings, stop_tokens
from lensrl.models.noise import SCORING
from lensrl.models.prompts import Prompts
from lensrl.models.references import batches, reference_logprobs
from lensrl.models.rollouts import play
from lensrl.models.sampler import SAMPLERS
from lensrl.recipe import Recipe
from lensrl.store.write import Scores
from lensrl.tasks import AgentTask, Item, Task, Texts, batch

PROBE_TOKENS = 8  # tokens a row, sampled to estimate the time of many


def evaluate(
    model: PreTrainedModel,
    prompts: Prompts,
    task: Task | AgentTask | Texts,
    items: Sequence[Item],
    recipe: Recipe,
) -> Scores:
    """Sample and score `recipe.evaluation.samples` completions, or episodes, of every item.

    Scores, lengths (in tokens that the model wrote) and truncation have shape (item, sample). A completion without an
    end, or an unfinished episode, is truncated. Reference log-probabilities have shape (item,). Texts are not sampled:
    they have a log-probability alone.
    """
    forced = Scores(
        item=[item.id for item in items],
        benchmark=[item.benchmark for item in items],
        reference_logprob=reference_logprobs(model.eval(), prompts, items, batch=recipe.evaluation.batch),
    )
    if isinstance(task, Texts):
        return forced
    score, length, truncated = _sample(model, prompts, task, items, recipe)
    return replace(forced, score=score, length=length, truncated=truncated)


def sampled_scores(
    model: PreTrainedModel,
    prompts: Prompts,
    task: Task | AgentTask,
    items: Sequence[Item],
    recipe: Recipe,
) -> Float32[np.ndarray, " item"]:
    """Return the score of each item, the mean over its samples: `evaluate` without log-probabilities."""
    return _sample(model, prompts, task, items, recipe)[0].mean(axis=1)


def seconds_to_sample(model: PreTrainedModel, prompts: Prompts, items: Sequence[Item], recipe: Recipe) -> float:
    """Estimate how many seconds `sampled_scores` takes at most: as if every completion had the largest length.

    Samples a few tokens of one batch. Rewards, and the turns of an environment, take more time beside these.
    """
    settings = recipe.evaluation
    rows = [item for item in items for _ in range(settings.samples)]
    asked = rows[: settings.batch]
    few = min(PROBE_TOKENS, recipe.evaluation_tokens)
    never = model.config.get_text_config().vocab_size  # the id of no token: no row ends
    generation = sampling_settings([never], prompts.tokenizer, max_tokens=few, temperature=settings.temperature)
    sampler = SAMPLERS[recipe.generation](model.eval(), prompts.tokenizer)
    keys = [(settings.seed, SCORING, row) for row in range(len(asked))]
    start = time.perf_counter()
    sampler.generate([prompts.ids(item) for item in asked], generation, keys)
    return (time.perf_counter() - start) * recipe.evaluation_tokens / few * -(-len(rows) // settings.batch)


def _sample(
    model: PreTrainedModel,
    prompts: Prompts,
    task: Task | AgentTask,
    items: Sequence[Item],
    recipe: Recipe,
) -> tuple[Float32[np.ndarray, "item sample"], Int32[np.ndarray, "item sample"], Bool[np.ndarray, "item sample"]]:
    """Return scores, lengths and truncation."""
    settings = recipe.evaluation
    model.eval()
    torch.manual_seed(settings.seed)
    tokenizer = prompts.tokenizer
    ends = prompts.turn_ends(model) if isinstance(task, AgentTask) else stop_tokens(model, tokenizer)
    generation = sampling_settings(
        ends, tokenizer, max_tokens=recipe.evaluation_tokens,
        temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k,
    )  # fmt: skip
    sampler = SAMPLERS[recipe.generation](model, tokenizer)
    # Sample batch by batch, all samples of an item side by side. A row's random numbers follow from both.
    keys = [(settings.seed, SCORING, item, sample) for item in range(len(items)) for sample in range(settings.samples)]
    outcomes: list[tuple[float, int, bool]] = []
    for rows in batches(keys, settings.batch):
        asked = [items[item] for _, _, item, _ in rows]
        if isinstance(task, AgentTask):
            played = play(sampler, prompts, task, asked, generation, rows)
            outcomes += [(rollout.score, rollout.length, not rollout.done) for rollout in played]
        else:
            written = sampler.generate([prompts.ids(item) for item in asked], generation, rows)
            texts = [prompts.said(str(tokenizer.decode(one.tokens, skip_special_tokens=True))) for one in written]
            scores = batch.scores(task, asked, texts)
            outcomes += [(s, len(one.tokens), not one.ended) for s, one in zip(scores, written, strict=True)]
    # Back to one row per item.
    score, length, truncated = zip(*outcomes, strict=True)
    shape = (len(items), settings.samples)
    return (
        np.array(score, np.float32).reshape(shape),
        np.array(length, np.int32).reshape(shape),
        np.array(truncated, bool).reshape(shape),
    )

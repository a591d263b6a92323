"""Score a model on held-out items: sampled completions, and the log-probability of the reference answer.

Everything that could differ between two runs of a study is explicit: the items, the number of samples, temperature,
top-p, top-k and the seed of the sampler. The model's own generation defaults are not used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lensrl.models.generation import (
    generate,
    left_padded,
    pad_id,
    sample,
    sampling_settings,
    stop_tokens,
    token_ids,
    turn_ends,
)
from lensrl.models.references import batches, reference_logprobs
from lensrl.models.rollouts import play
from lensrl.recipe import Recipe
from lensrl.store.write import Scores
from lensrl.tasks import AgentTask, Item, Task, batch

PROBE_TOKENS = 8  # tokens a row, sampled to estimate the time of many


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task | AgentTask,
    items: Sequence[Item],
    recipe: Recipe,
) -> Scores:
    """Sample and score `recipe.evaluation.samples` completions, or episodes, of every item.

    Scores, lengths (in tokens that the model wrote) and truncation have shape (item, sample). A completion without an
    end, or an unfinished episode, is truncated. Reference log-probabilities have shape (item,).
    """
    score, length, truncated = _sample(model, tokenizer, task, items, recipe)
    return Scores(
        item=[item.id for item in items],
        benchmark=[item.benchmark for item in items],
        score=score,
        length=length,
        truncated=truncated,
        reference_logprob=reference_logprobs(model, tokenizer, items, batch=recipe.evaluation.batch),
    )


def sampled_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task | AgentTask,
    items: Sequence[Item],
    recipe: Recipe,
) -> np.ndarray:
    """Return the score of each item, the mean over its samples: `evaluate` without log-probabilities."""
    return _sample(model, tokenizer, task, items, recipe)[0].mean(axis=1)


def seconds_to_sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], recipe: Recipe
) -> float:
    """Estimate how many seconds `sampled_scores` takes at most: as if every completion had the largest length.

    Samples a few tokens of one batch. Rewards, and the turns of an environment, take more time beside these.
    """
    settings = recipe.evaluation
    rows = [item for item in items for _ in range(settings.samples)]
    prompts = [token_ids(tokenizer, item.prompt) for item in rows[: settings.batch]]
    few = min(PROBE_TOKENS, recipe.evaluation_tokens)
    generation = sampling_settings([], tokenizer, max_tokens=few, temperature=settings.temperature)
    generation.eos_token_id = None
    start = time.perf_counter()
    sample(model.eval(), *left_padded(prompts, pad_id(tokenizer)), generation)
    return (time.perf_counter() - start) * recipe.evaluation_tokens / few * -(-len(rows) // settings.batch)


def _sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task | AgentTask,
    items: Sequence[Item],
    recipe: Recipe,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, lengths and truncation, each (item, sample)."""
    settings = recipe.evaluation
    model.eval()
    torch.manual_seed(settings.seed)
    ends = turn_ends if isinstance(task, AgentTask) else stop_tokens
    generation = sampling_settings(
        ends(model, tokenizer), tokenizer, max_tokens=recipe.evaluation_tokens,
        temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k,
    )  # fmt: skip
    # Sample batch by batch, all samples of an item side by side.
    rows = [item for item in items for _ in range(settings.samples)]
    outcomes: list[tuple[float, int, bool]] = []
    for asked in batches(rows, settings.batch):
        if isinstance(task, AgentTask):
            played = play(model, tokenizer, task, asked, generation)
            outcomes += [(rollout.score, rollout.length, not rollout.done) for rollout in played]
        else:
            prompts = [token_ids(tokenizer, item.prompt) for item in asked]
            completions, ended = generate(model, tokenizer, prompts, generation)
            texts = [str(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in completions]
            scores = batch.scores(task, asked, texts)
            outcomes += [(s, len(c), not e) for s, c, e in zip(scores, completions, ended, strict=True)]
    # Back to one row per item.
    score, length, truncated = zip(*outcomes, strict=True)
    shape = (len(items), settings.samples)
    return (
        np.array(score, np.float32).reshape(shape),
        np.array(length, np.int32).reshape(shape),
        np.array(truncated, bool).reshape(shape),
    )

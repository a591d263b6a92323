"""Score a model on held-out items: sampled completions, and the log-probability of the reference answer.

Everything that could differ between two runs of a study is explicit: the items, the number of samples, temperature,
top-p, top-k and the seed of the sampler. The model's own generation defaults are not used.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from transformers import GenerationConfig, PreTrainedModel

from lensrl.measures.item_scores import NO_ANSWER, NOT_KEPT, item_means
from lensrl.models.generation import sampling_settings, stop_tokens
from lensrl.models.noise import SCORING, Row
from lensrl.models.prompts import Prompts
from lensrl.models.references import batches, reference_logprobs
from lensrl.models.rollouts import play
from lensrl.models.sampler import SAMPLERS, Sampler
from lensrl.recipe import Recipe
from lensrl.store.completions import Completions, as_text
from lensrl.store.write import Scores
from lensrl.tasks import AgentTask, Item, Task, Texts, batch

PROBE_TOKENS = 8  # tokens a row, sampled to estimate the time of many


def evaluate(
    model: PreTrainedModel,
    prompts: Prompts,
    task: Task | AgentTask | Texts,
    items: Sequence[Item],
    recipe: Recipe,
    *,
    first: int = 0,
) -> Scores:
    """Sample and score completions, or episodes, of every item: as many as `[evaluation]` says for its benchmark.

    Scores, lengths (in tokens that the model wrote) and truncation have shape (item, sample). Where benchmarks have
    different numbers of samples, scores are NaN, and the others 0, in the places of samples that an item does not have.
    A completion without an end, or an unfinished episode, is truncated. Reference log-probabilities have shape (item,).
    Texts are not sampled: they have a log-probability alone.

    `first` is the number of the first item among all items of a study: the random numbers of an item follow from it.
    """
    forced = Scores(
        item=[item.id for item in items],
        benchmark=[item.benchmark for item in items],
        reference_logprob=reference_logprobs(model.eval(), prompts, items, batch=recipe.evaluation.batch),
    )
    if isinstance(task, Texts):
        return forced
    found = _sample(model, prompts, task, items, recipe, first)
    answer = found.answer if isinstance(task, batch.AnswerTask) else None
    texts = Completions([item.prompt for item in items], [as_text(item.reference) for item in items], found.text)
    return replace(
        forced, score=found.score, length=found.length, truncated=found.truncated, answer=answer, completions=texts
    )


def sampled_scores(
    model: PreTrainedModel,
    prompts: Prompts,
    task: Task | AgentTask,
    items: Sequence[Item],
    recipe: Recipe,
) -> Float32[np.ndarray, " item"]:
    """Return the score of each item, the mean over its samples: `evaluate` without log-probabilities."""
    score = _sample(model, prompts, task, items, recipe).score
    return item_means(score, np.isfinite(score)).astype(np.float32)


def seconds_to_sample(model: PreTrainedModel, prompts: Prompts, items: Sequence[Item], recipe: Recipe) -> float:
    """Estimate how many seconds `sampled_scores` takes at most: as if every completion had the largest length.

    Samples a few tokens of one batch. Rewards take more time beside these, and each further turn of an episode takes as
    much again.
    """
    settings = recipe.evaluation
    rows = [item for item in items for _ in range(settings.of(item.benchmark).samples)]
    asked = rows[: settings.batch]
    most = max(recipe.evaluation_tokens(benchmark) for benchmark in {item.benchmark for item in items})
    few = min(PROBE_TOKENS, most)
    never = model.config.get_text_config().vocab_size  # the id of no token: no row ends
    generation = sampling_settings([never], prompts.tokenizer, max_tokens=few, temperature=settings.temperature)
    sampler = SAMPLERS[recipe.generation](model.eval(), prompts.tokenizer)
    keys = [(settings.seed, SCORING, row) for row in range(len(asked))]
    start = time.perf_counter()
    sampler.generate([prompts.ids(item) for item in asked], generation, keys)
    return (time.perf_counter() - start) * most / few * -(-len(rows) // settings.batch)


@dataclass(frozen=True)
class _Sampled:
    """What was sampled of each item: see `evaluate`."""

    score: Float32[np.ndarray, "item sample"]
    length: Int32[np.ndarray, "item sample"]
    truncated: Bool[np.ndarray, "item sample"]
    answer: Int64[np.ndarray, "item sample"]
    text: list[list[str]]  # of each item, a text for each of its samples


def _sample(
    model: PreTrainedModel,
    prompts: Prompts,
    task: Task | AgentTask,
    items: Sequence[Item],
    recipe: Recipe,
    first: int = 0,
) -> _Sampled:
    """Sample and judge every item, each as its benchmark says."""
    settings = recipe.evaluation
    model.eval()
    torch.manual_seed(settings.seed)
    sampler = SAMPLERS[recipe.generation](model, prompts.tokenizer)
    ends = prompts.turn_ends(model) if isinstance(task, AgentTask) else stop_tokens(model, prompts.tokenizer)
    # Items that are sampled in the same way are sampled together, in their order.
    kinds: dict[_Sampling, list[int]] = {}
    for place, item in enumerate(items):
        own = settings.of(item.benchmark)
        tokens = recipe.evaluation_tokens(item.benchmark)
        kinds.setdefault(_Sampling(own.samples, tokens, own.temperature, own.top_p, own.top_k), []).append(place)
    shape = (len(items), max(kind.samples for kind in kinds))
    score, length = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int32)
    truncated, answer = np.zeros(shape, bool), np.full(shape, NOT_KEPT, np.int64)
    text: list[list[str]] = [[] for _ in items]
    for kind, places in kinds.items():
        generation = sampling_settings(
            ends, prompts.tokenizer, max_tokens=kind.tokens, temperature=kind.temperature, top_p=kind.top_p,
            top_k=kind.top_k,
        )  # fmt: skip
        # Batch by batch, all samples of an item side by side. A row's random numbers follow from both.
        rows = [(place, sample) for place in places for sample in range(kind.samples)]
        for chunk in batches(rows, settings.batch):
            keys = [(settings.seed, SCORING, first + place, sample) for place, sample in chunk]
            asked = [items[place] for place, _ in chunk]
            for where, outcome in zip(chunk, _outcomes(sampler, prompts, task, asked, generation, keys), strict=True):
                score[where], length[where], truncated[where], answer[where] = outcome[:4]
                text[where[0]].append(outcome.text)
    return _Sampled(score, length, truncated, answer, text)


class _Sampling(NamedTuple):
    """How the items of a benchmark are sampled."""

    samples: int
    tokens: int
    temperature: float
    top_p: float
    top_k: int


class _Outcome(NamedTuple):
    score: float
    length: int
    truncated: bool
    answer: int
    text: str


def _outcomes(
    sampler: Sampler,
    prompts: Prompts,
    task: Task | AgentTask,
    asked: Sequence[Item],
    generation: GenerationConfig,
    keys: Sequence[Row],
) -> list[_Outcome]:
    """Sample one completion, or play one episode, of each item asked, and judge it."""
    if isinstance(task, AgentTask):
        played = play(sampler, prompts, task, asked, generation, keys)
        return [_Outcome(r.score, r.length, not r.done, NOT_KEPT, as_text(r.texts)) for r in played]
    written = sampler.generate([prompts.ids(item) for item in asked], generation, keys)
    decoded = (str(prompts.tokenizer.decode(one.tokens, skip_special_tokens=True)) for one in written)
    texts = [prompts.said(text) for text in decoded]
    judged = zip(batch.scores(task, asked, texts), written, batch.answers(task, asked, texts), texts, strict=True)
    return [
        _Outcome(score, len(one.tokens), not one.ended, _number(answer), text) for score, one, answer, text in judged
    ]


def _number(answer: str | None) -> int:
    """Return the number of an answer: the first 63 bits of its sha256, the same in every run."""
    if answer is None:
        return NO_ANSWER
    return int.from_bytes(hashlib.sha256(answer.encode(errors="surrogatepass")).digest()[:8]) >> 1

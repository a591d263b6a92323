"""Scoring a model on held-out items: sampled completions, and the log-probability of the reference answer.

Everything that could differ between two runs of a study is explicit: the items, the number of samples, temperature,
top-p, top-k and the seed of the sampler. A model's own generation defaults are not consulted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lensrl.generation import generate, pad_id, sampling_settings, stop_tokens, token_ids, turn_ends
from lensrl.recipe import Recipe
from lensrl.rollouts import play
from lensrl.tasks import AgentTask, Item, Task, batch

LOGITS = 2**28  # logits held at once while scoring references: 1 GiB of fp32


@dataclass(frozen=True)
class Scores:
    """What a model did on the items, kept per item and sample.

    `length` counts a completion's tokens with its end-of-sequence token. `truncated` marks completions that reached
    the limit without one. In a task in turns they are the tokens that the model wrote in all its turns, and whether it
    ran out of turns. `reference_logprob` is the mean log-probability, in nats per token, of the reference answer and
    the end-of-sequence token after it, given the prompt.
    """

    items: tuple[Item, ...]
    score: Float32[np.ndarray, "item sample"]
    length: Int32[np.ndarray, "item sample"]
    truncated: Bool[np.ndarray, "item sample"]
    reference_logprob: Float32[np.ndarray, " item"]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task | AgentTask,
    items: Sequence[Item],
    recipe: Recipe,
) -> Scores:
    """Sample and score `recipe.evaluation.samples` completions, or episodes, of every item."""
    settings = recipe.evaluation
    model.eval()
    torch.manual_seed(settings.seed)
    ends = turn_ends if isinstance(task, AgentTask) else stop_tokens
    generation = sampling_settings(
        ends(model, tokenizer), tokenizer, max_tokens=recipe.evaluation_tokens,
        temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k,
    )  # fmt: skip
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
    score, length, truncated = zip(*outcomes, strict=True)
    shape = (len(items), settings.samples)
    return Scores(
        items=tuple(items),
        score=np.array(score, np.float32).reshape(shape),
        length=np.array(length, np.int32).reshape(shape),
        truncated=np.array(truncated, bool).reshape(shape),
        reference_logprob=reference_logprobs(model, tokenizer, items, batch=settings.batch),
    )


@dataclass(frozen=True)
class References:
    """Prompts followed by their reference answers, right-padded.

    `answer[i, t]` marks the positions t whose *next* token belongs to the answer: logits there predict it.
    """

    ids: torch.Tensor  # (item, token)
    mask: torch.Tensor  # (item, token)
    answer: torch.Tensor  # (item, token - 1)

    def to(self, device: torch.device | str) -> References:
        return References(self.ids.to(device), self.mask.to(device), self.answer.to(device))


def references(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> References:
    """Tokenise items for teacher forcing: prompt, reference, end of sequence.

    What an environment says in the middle of a reference is read and not predicted.
    """
    end = tokenizer.eos_token_id
    assert isinstance(end, int)  # `load_base` makes sure of it
    rows: list[list[int]] = []
    theirs: list[list[bool]] = []  # which tokens the model is expected to write
    for item in items:
        row = token_ids(tokenizer, item.prompt)
        written = [False] * len(row)
        for turn, text in enumerate(item.written):
            tokens = token_ids(tokenizer, text, start=False)
            row += tokens
            written += [turn % 2 == 0] * len(tokens)
        rows.append([*row, end])
        theirs.append([*written, True])
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id(tokenizer))
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    answer = torch.zeros(len(rows), width - 1, dtype=torch.bool)
    for i, (row, written) in enumerate(zip(rows, theirs, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        answer[i, : len(row) - 1] = torch.tensor(written[1:])
    return References(ids, mask, answer)


def reference_logprobs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, batch: int
) -> Float32[np.ndarray, " item"]:
    """Mean log-probability, in nats per token, of each reference answer given its prompt."""
    means: list[torch.Tensor] = []
    with torch.no_grad():
        for chunk in batches(items, teacher_batch(tokenizer, items, batch)):
            teacher = references(tokenizer, chunk).to(model.device)
            logits = model(input_ids=teacher.ids, attention_mask=teacher.mask).logits
            means.append(answer_mean(token_logprobs(logits, teacher.ids), teacher.answer).cpu())
    return torch.cat(means).numpy()


def teacher_batch(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], batch: int) -> int:
    """How many items to score at once: `batch`, or as many as keep the logits within LOGITS numbers."""
    width = references(tokenizer, items).ids.shape[1]
    return max(1, min(batch, LOGITS // (width * len(tokenizer))))


def token_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log p(token t + 1 | tokens up to t), shape (item, token - 1), from logits (item, token, vocabulary)."""
    logprobs = logits[:, :-1].log_softmax(-1)
    return logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1)


def answer_mean(values: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """The mean of per-position values over the answer's tokens: (item, token - 1) to (item,)."""
    return values.masked_fill(~answer, 0).sum(-1) / answer.sum(-1)


def batches(rows: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]

"""Teacher forcing: reference answers after their prompts, and the log-probability that a model gives them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from transformers import PreTrainedModel

from lensrl.errors import LensrlError
from lensrl.models.generation import learned_positions, pad_id
from lensrl.models.prompts import Prompts
from lensrl.tasks import Item

T = TypeVar("T")
LOGITS = 2**28  # most logits in memory at once while scoring references: 1 GiB of fp32


@dataclass(frozen=True)
class References:
    """Prompts followed by their reference answers, right-padded.

    `answer[i, t]` marks a position t whose *next* token belongs to the answer: the logits at t predict this token.
    """

    ids: torch.Tensor  # (item, token)
    mask: torch.Tensor  # (item, token)
    answer: torch.Tensor  # (item, token - 1)

    def to(self, device: torch.device | str) -> References:
        """Return a copy on another device."""
        return References(self.ids.to(device), self.mask.to(device), self.answer.to(device))


def references(prompts: Prompts, items: Sequence[Item]) -> References:
    """Tokenise items for teacher forcing: prompt, reference, end of sequence.

    In a task in turns, the environment's text in the middle of a reference is read but not predicted.
    """
    forced = [prompts.forced(item) for item in items]
    rows = [ids for ids, _ in forced]
    ids, mask = right_padded(rows, pad_id(prompts.tokenizer))
    # The mark of a token moves to the position that predicts it, one to the left.
    answer = torch.zeros(len(rows), ids.shape[1] - 1, dtype=torch.bool)
    for i, (row, written) in enumerate(forced):
        answer[i, : len(row) - 1] = torch.tensor(written[1:])
    return References(ids, mask, answer)


def right_padded(rows: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of tokens as one tensor (row, token), padded on the right, and their attention mask."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def reference_logprobs(
    model: PreTrainedModel, prompts: Prompts, items: Sequence[Item], *, batch: int
) -> Float32[np.ndarray, " item"]:
    """Return the mean log-probability, in nats per token, of each reference answer given its prompt.

    `batch` is the most items in one forward pass.
    """
    means: list[torch.Tensor] = []
    with torch.no_grad():
        for chunk in batches(items, answer_batch(model, prompts, items, batch)):
            means.append(answer_logprobs(model, references(prompts, chunk).to(model.device)).cpu())
    return torch.cat(means).numpy()


def answer_logprobs(model: PreTrainedModel, teacher: References) -> Float[torch.Tensor, " item"]:
    """Return the mean log-probability of each reference answer, from one forward pass.

    The logits of a vocabulary take far more memory than all else. They are computed only at positions that predict a
    token of an answer, where the model can do so, and kept only there elsewhere.
    """
    kept = teacher.answer.any(0).nonzero().squeeze(-1)
    logprobs = logits_at(model, teacher.ids, teacher.mask, kept).log_softmax(-1)
    targets = teacher.ids[:, kept + 1, None]
    return answer_mean(logprobs.gather(-1, targets).squeeze(-1), teacher.answer[:, kept])


def logits_at(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the logits of rows of tokens at the positions `kept` alone: (row, position kept, vocabulary)."""
    if keeps_logits(type(model)):
        return model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, kept]


@cache
def keeps_logits(kind: type[PreTrainedModel]) -> bool:
    """Return whether a class of models can compute logits at chosen positions alone."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters


def check_positions(model: PreTrainedModel, longest: int) -> None:
    """Raise LensrlError where `longest`, the tokens of the longest row, outgrows a model's table of positions."""
    limit = learned_positions(model)
    if limit is not None and longest > limit:
        raise LensrlError(
            f"the model has {limit} positions, fewer than the {longest} tokens of the longest text or prompt; choose "
            f"shorter ones"
        )


def answer_batch(model: PreTrainedModel, prompts: Prompts, items: Sequence[Item], batch: int) -> int:
    """Return the items per forward pass of `answer_logprobs`: `batch`, or fewer, for logits within LOGITS numbers."""
    answer = references(prompts, items).answer
    width = int(answer.any(0).sum()) if keeps_logits(type(model)) else answer.shape[1] + 1
    return max(1, min(batch, LOGITS // (width * model.config.get_text_config().vocab_size)))


def teacher_batch(prompts: Prompts, items: Sequence[Item], batch: int) -> int:
    """Return the items per forward pass with logits at all positions: `batch`, or fewer, for LOGITS numbers."""
    return max(1, min(batch, LOGITS // (references(prompts, items).ids.shape[1] * len(prompts.tokenizer))))


def answer_mean(values: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Average values per position over the tokens of the answer: (item, token - 1) to (item,)."""
    return values.masked_fill(~answer, 0).sum(-1) / answer.sum(-1)


def batches(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield consecutive batches of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]

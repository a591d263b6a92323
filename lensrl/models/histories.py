"""Texts that grow: sample the next tokens of several rows with the keys and values of all tokens that were read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from transformers import Cache, DynamicCache, GenerationConfig, LogitsProcessorList, PreTrainedModel

from lensrl.models.generation import end_tokens, left_padded, until_end
from lensrl.models.noise import Chooser, Noise, Row
from lensrl.models.precision import autocast, new_cache

LONG = 64  # tokens; below, reading once gains little, and completions keep their bits


class Written(NamedTuple):
    """Tokens that a model wrote."""

    tokens: list[int]  # with the end token, where there is one
    ended: bool
    logprobs: list[float]  # of each token, in nats; empty in greedy decoding, and without keys of rows


@runtime_checkable
class Growing(Protocol):
    """Texts that grow turn by turn: the model's tokens, and those of an environment."""

    def continued(self, settings: GenerationConfig) -> list[Written]:
        """Sample the next tokens of every row, append them, and return them."""
        ...

    def extend(self, rows: Sequence[Sequence[int]]) -> None:
        """Append the environment's answer to every row."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        ...


class Histories:
    """Texts that grow, with the keys and values of all tokens that were read.

    All rows are as wide as the longest row at every call. The mask excludes the gaps from attention and from positions.
    Long prompts that are alike, as those of a group are, are read once, and their keys and values are repeated.
    `rows` holds the keys of the rows' random numbers (`lensrl.models.noise`). None samples with torch's own generator.
    """

    def __init__(
        self, model: PreTrainedModel, pad: int, prompts: Sequence[Sequence[int]], rows: Sequence[Row] | None
    ) -> None:
        self._model = model
        self._pad = pad
        self._noise = None if rows is None else Noise(rows)
        self._cache: Cache | None = None
        self._ids, self._mask = left_padded(prompts, pad)

    @property
    def can_drop(self) -> bool:
        """Whether rows can be left out without reading the others again. Beam search asks the same of a cache."""
        return self._cache is None or isinstance(self._cache, DynamicCache)

    @torch.no_grad()
    def continued(self, settings: GenerationConfig) -> list[Written]:
        """Sample the next tokens of every row, append them, and return them."""
        width = self._ids.shape[1]
        if self._cache is None and self._noise is not None and width > LONG:
            self._cache = self._read_once(settings)
        output, self._cache, logprobs = sample(
            self._model, self._ids, self._mask, settings, cache=self._cache, noise=self._noise
        )
        ends = end_tokens(settings)  # hundreds, if many tokens of a vocabulary contain a line break
        cut = [until_end(ends, tokens) for tokens in output[:, width:].tolist()]
        lengths = torch.tensor([len(tokens) for tokens, _ in cut])
        self._ids = output
        self._mask = torch.cat([self._mask, (torch.arange(output.shape[1] - width) < lengths[:, None]).long()], 1)
        return [Written(tokens, ended, row[: len(tokens)]) for (tokens, ended), row in zip(cut, logprobs, strict=True)]

    def _read_once(self, settings: GenerationConfig) -> Cache | None:
        """Return the keys and values of all tokens but the last, from one pass over the rows that differ.

        None where all rows differ, where a row has no token but the last, and where keys and values have no rows.
        """
        distinct, row = torch.unique(torch.cat([self._ids, self._mask], 1), dim=0, return_inverse=True)
        ids, mask = (half[:, :-1] for half in distinct.chunk(2, 1))
        if len(distinct) == len(self._ids) or not mask[:, -1].all():
            return None
        one = _greedy(settings)
        one.max_new_tokens = 1  # its keys and values are not computed
        _, cache, _ = sample(self._model, ids, mask, one)
        if not isinstance(cache, DynamicCache):
            return None
        cache.reorder_cache(row.to(self._model.device))  # pyright: ignore[reportArgumentType]
        return cache

    def extend(self, rows: Sequence[Sequence[int]]) -> None:
        """Append the environment's answer to every row."""
        ids, mask = left_padded(rows, self._pad)
        self._ids, self._mask = torch.cat([self._ids, ids], 1), torch.cat([self._mask, mask], 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows. Where the keys and values have no rows to choose, they are read again."""
        self._ids, self._mask = self._ids[rows], self._mask[rows]
        if self._noise is not None:
            self._noise.keep(rows)
        if isinstance(self._cache, DynamicCache):
            self._cache.reorder_cache(torch.tensor(rows, device=self._model.device))  # pyright: ignore[reportArgumentType]
        else:
            self._cache = None


def drops_ended(model: PreTrainedModel, pad: int) -> bool:
    """Return whether rows that have ended can be left out of a batch of this model. Samples one token."""
    histories = Histories(model, pad, [[pad]], None)
    one = GenerationConfig(max_new_tokens=1, eos_token_id=[pad], pad_token_id=pad, do_sample=False)
    one.return_dict_in_generate = True
    histories.continued(one)
    return histories.can_drop


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    settings: GenerationConfig,
    *,
    cache: Cache | None = None,
    noise: Noise | None = None,
) -> tuple[torch.Tensor, Cache | None, list[list[float]]]:
    """Continue every row by sampling.

    `ids` and `mask` are (row, token). `cache` holds the keys and values of the rows' first tokens, from an earlier
    call. `noise` holds the random numbers of the rows; None samples with torch's own generator.

    Returns the rows with their continuations, on the CPU; the keys and values of all tokens but the last; and the
    log-probabilities of the new tokens, (row, token), empty rows where there are none.
    """
    options: dict[str, Any] = {}
    chooser = None
    if noise is not None and settings.do_sample:
        steps = int(settings.max_new_tokens)  # pyright: ignore[reportArgumentType]
        chooser = Chooser(settings, noise.uniform(steps).to(model.device))
        settings = _greedy(settings)
        options["logits_processor"] = LogitsProcessorList([chooser])
    with autocast(model):
        output = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device),
            past_key_values=cache if cache is not None else new_cache(model), generation_config=settings, **options,
        )  # fmt: skip
    logprobs = torch.stack(chooser.logprobs, 1).tolist() if chooser is not None else [[] for _ in ids]
    return output.sequences.cpu(), output.past_key_values, logprobs


def _greedy(settings: GenerationConfig) -> GenerationConfig:
    """Return settings that take the most probable token, with the ends and the length of `settings`."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=settings.max_new_tokens,
        pad_token_id=settings.pad_token_id,
        eos_token_id=settings.eos_token_id,
        return_dict_in_generate=True,
    )

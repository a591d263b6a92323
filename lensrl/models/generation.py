"""Sampling completions: explicit settings, prompts as token ids, and where a completion or a turn ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token's id; `load_base` makes sure that there is one."""
    assert isinstance(tokenizer.pad_token_id, int)
    return tokenizer.pad_token_id


def learned_positions(model: PreTrainedModel) -> int | None:
    """How many tokens fit into a model whose positions are a table of weights (GPT-2, OPT); None for any other."""
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not model.get_input_embeddings()]
    limit = getattr(model.config, "max_position_embeddings", None)
    return limit if limit is not None and any(table.num_embeddings in (limit, limit + 2) for table in tables) else None


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, start: bool = True) -> list[int]:
    """The tokens of a text: of a prompt's `start`, with what the tokenizer puts there, or of what follows it."""
    return list(tokenizer(text, add_special_tokens=start)["input_ids"])  # pyright: ignore[reportReturnType]


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion: the tokenizer's end of sequence and those that the model declares."""
    config = model.generation_config
    declared = config.eos_token_id if config is not None else None
    ids = declared if isinstance(declared, list) else [declared]
    return sorted({i for i in [*ids, tokenizer.eos_token_id] if i is not None})


def turn_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a turn: those that end a completion, and those with a line break in them."""
    return sorted({*stop_tokens(model, tokenizer), *_line_breaks(tokenizer)})


@cache
def _line_breaks(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return frozenset(i for i, text in enumerate(texts) if "\n" in text)


def sampling_settings(
    ends: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
) -> GenerationConfig:
    """Settings under which nothing is left to a model's own defaults. Temperature 0 is greedy decoding."""
    choice = {"temperature": temperature, "top_p": top_p, "top_k": top_k} if temperature > 0 else {}
    return GenerationConfig(
        do_sample=temperature > 0,
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=list(ends),
        return_dict_in_generate=True,
        **choice,
    )


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerationConfig,
) -> tuple[list[list[int]], list[bool]]:
    """A completion of every prompt, with the token that ended it, and whether there was one."""
    ids, mask = left_padded(prompts, pad_id(tokenizer))
    output, _ = sample(model, ids, mask, settings)
    ends = end_tokens(settings)
    completions, ended = zip(*(until_end(ends, row) for row in output[:, ids.shape[1] :].tolist()), strict=True)
    return list(completions), list(ended)


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (row, token)."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, width - len(row) :] = 1
    return ids, mask


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    settings: GenerationConfig,
    cache: Cache | None = None,
) -> tuple[torch.Tensor, Cache]:
    """Rows with what the model writes after them, on the CPU, and the keys and values of all but the last token.

    `cache` holds those of the rows' first tokens, from an earlier call.
    """
    # As in training: fp32 masters, bf16 compute where there is a GPU.
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        output = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), past_key_values=cache,
            generation_config=settings,
        )  # fmt: skip
    return output.sequences.cpu(), output.past_key_values


def end_tokens(settings: GenerationConfig) -> frozenset[int]:
    """The tokens at which sampling under these settings ends."""
    return frozenset(settings.eos_token_id)  # pyright: ignore[reportArgumentType]


def until_end(ends: frozenset[int], tokens: list[int]) -> tuple[list[int], bool]:
    """Sampled tokens up to the one that ends them, and whether there is one."""
    end = next((i for i, token in enumerate(tokens) if token in ends), None)
    return (tokens, False) if end is None else (tokens[: end + 1], True)

"""What sampling is asked for: explicit settings, prompts as token ids, and the ends of completions and turns.

`histories.py` samples, `sampler.py` completes prompts, `rollouts.py` plays episodes in turns, `evaluate.py` scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the padding token. `load_base` makes sure that it exists."""
    assert isinstance(tokenizer.pad_token_id, int)
    return tokenizer.pad_token_id


def learned_positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens fit into a model whose positions are a table of weights (GPT-2, OPT).

    None for any other model.
    """
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not model.get_input_embeddings()]
    limit = getattr(model.config, "max_position_embeddings", None)
    return limit if limit is not None and any(table.num_embeddings in (limit, limit + 2) for table in tables) else None


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, start: bool = True) -> list[int]:
    """Tokenise a text. With `start`, the text is the start of a prompt and gets the tokenizer's special tokens."""
    return list(tokenizer(text, add_special_tokens=start)["input_ids"])  # pyright: ignore[reportReturnType]


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends a completion.

    These are the tokenizer's end of sequence and the end tokens that the model declares.
    """
    config = model.generation_config
    declared = config.eos_token_id if config is not None else None
    ids = declared if isinstance(declared, list) else [declared]
    return sorted({i for i in [*ids, tokenizer.eos_token_id] if i is not None})


def turn_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token that ends a turn.

    These are the tokens that end a completion, and all tokens that contain a line break.
    """
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
    """Return sampling settings that leave nothing to a model's own defaults. Temperature 0 is greedy decoding."""
    choice = {"temperature": temperature, "top_p": top_p, "top_k": top_k} if temperature > 0 else {}
    return GenerationConfig(
        do_sample=temperature > 0,
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=list(ends),
        return_dict_in_generate=True,
        **choice,
    )


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows on the left. Returns token ids and attention mask, both (row, token)."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, width - len(row) :] = 1
    return ids, mask


def end_tokens(settings: GenerationConfig) -> frozenset[int]:
    """Return the tokens at which sampling under these settings ends."""
    return frozenset(settings.eos_token_id)  # pyright: ignore[reportArgumentType]


def until_end(ends: frozenset[int], tokens: list[int]) -> tuple[list[int], bool]:
    """Cut sampled tokens after the first end token. Returns the tokens, and whether there is an end token."""
    end = next((i for i, token in enumerate(tokens) if token in ends), None)
    return (tokens, False) if end is None else (tokens[: end + 1], True)

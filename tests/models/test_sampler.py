"""Sampling in pieces: rows that have ended are left out, and no completion depends on the rows beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from transformers import GenerationConfig, Qwen3NextConfig

from lensrl.models import histories
from lensrl.models.base import Base
from lensrl.models.generation import sampling_settings, stop_tokens, token_ids
from lensrl.models.histories import Histories, Written
from lensrl.models.sampler import SAMPLERS, Pieces, Whole
from lensrl.tasks.arithmetic import Arithmetic
from tests.families import CAPPED, FAMILIES, TOKENIZER, opened

PROMPTS = [item.prompt for item in Arithmetic().items("test")[:40]]
LIMIT = 14


def asked(base: Base, *, temperature: float = 4.0) -> tuple[list[list[int]], GenerationConfig]:
    """Prompts of several lengths. In half of them the answer is begun, so that rows end at different steps."""
    texts = [prompt + "1" * (i % 3) for i, prompt in enumerate(PROMPTS)]
    ends = stop_tokens(base.model, base.tokenizer)
    settings = sampling_settings(ends, base.tokenizer, max_tokens=LIMIT, temperature=temperature)
    return [token_ids(base.tokenizer, text) for text in texts], settings


def rows(count: int) -> list[tuple[int, ...]]:
    return [(3, row) for row in range(count)]


def test_greedy_pieces_are_one_generate(base: Base) -> None:
    prompts, settings = asked(base, temperature=0.0)
    expected = Whole(base.model, base.tokenizer).generate(prompts, settings, rows(40))
    for piece in (1, 3, 16):
        assert Pieces(base.model, base.tokenizer, piece=piece).generate(prompts, settings, rows(40)) == expected


def tokens(found: list[Written]) -> list[list[int]]:
    return [one.tokens for one in found]


def test_a_completion_depends_on_its_own_row_alone(base: Base) -> None:
    prompts, settings = asked(base)
    expected = Pieces(base.model, base.tokenizer, piece=LIMIT).generate(prompts, settings, rows(40))
    assert len({len(one.tokens) for one in expected}) > 3, "lengths differ"
    for piece, size in ((1, 40), (3, 40), (4, 7), (16, 1)):
        sampler = Pieces(base.model, base.tokenizer, piece=piece)
        found: list[Written] = []
        for start in range(0, 40, size):
            part = slice(start, start + size)
            found += sampler.generate(prompts[part], settings, rows(40)[part])
        assert tokens(found) == tokens(expected), (piece, size)
        assert [one.ended for one in found] == [one.ended for one in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_log_probabilities_are_those_of_a_pass_over_the_text(base: Base) -> None:
    prompts, settings = asked(base, temperature=0.7)
    found = Pieces(base.model, base.tokenizer, piece=4).generate(prompts[:6], settings, rows(6))
    for prompt, one in zip(prompts, found, strict=False):
        with torch.no_grad():
            logits = base.model(torch.tensor([prompt + one.tokens])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1)[torch.arange(len(one.tokens)), one.tokens]
        np.testing.assert_allclose(one.logprobs, expected, atol=1e-4)


def test_first_tokens_are_distributed_as_those_of_transformers(base: Base) -> None:
    prompt, (_, settings) = token_ids(base.tokenizer, "47+38="), asked(base)
    settings.max_new_tokens = 2
    torch.manual_seed(0)
    counts = []
    for sampler in (Pieces(base.model, base.tokenizer), Whole(base.model, base.tokenizer)):
        found = sampler.generate([prompt] * 1_500, settings, rows(1_500))
        pairs = [one.tokens[0] * 1000 + one.tokens[-1] for one in found]
        counts.append(pairs)
    kinds = [kind for kind in {*counts[0], *counts[1]} if min(c.count(kind) for c in counts) >= 5]
    assert len(kinds) > 3
    p: float = chi2_contingency([[c.count(kind) for kind in kinds] for c in counts])[1]  # pyright: ignore
    assert p > 1e-3


def test_rows_that_have_ended_are_not_computed(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, settings = asked(base)
    seen: list[int] = []
    original = Histories.continued

    def spy(self: Histories, settings: GenerationConfig) -> list[Written]:
        found = original(self, settings)
        seen.append(len(found))
        return found

    monkeypatch.setattr(Histories, "continued", spy)
    found = Pieces(base.model, base.tokenizer, piece=2).generate(prompts, settings, rows(40))
    lengths = [len(one.tokens) - (0 if one.ended else -1) for one in found]  # a row that has no end goes on
    assert seen == [sum(length > done for length in lengths) for done in range(0, max(lengths), 2)][: len(seen)]
    assert seen[-1] < 40


def long_prompts(base: Base) -> list[list[int]]:
    """Four groups of three equal prompts of 70 to 79 tokens."""
    texts = [";".join(f"{i}+{j}={i + j}" for j in range(1, 15))[: 70 + 3 * i] for i in range(1, 5)]
    return [token_ids(base.tokenizer, text) for text in texts for _ in range(3)]


@pytest.mark.parametrize("temperature", [0.0, 4.0])
def test_equal_prompts_are_read_once(base: Base, monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    prompts, (_, settings) = long_prompts(base), asked(base, temperature=temperature)
    shapes: list[tuple[int, ...]] = []

    def spy(*given: Any) -> None:
        shapes.append(tuple(given[1][0].shape))

    hook = base.model.get_input_embeddings().register_forward_pre_hook(spy)
    with hook:
        found = Pieces(base.model, base.tokenizer).generate(prompts, settings, rows(12))
    width = max(map(len, prompts))
    assert shapes[:2] == [(4, width - 1), (12, 1)]
    alone = [
        Pieces(base.model, base.tokenizer).generate([p], settings, [rows(12)[i]])[0] for i, p in enumerate(prompts)
    ]
    assert tokens(found) == tokens(alone)
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_short_prompts_are_read_as_they_were(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below `LONG`, completions and log-probabilities keep the bits that they had before."""
    monkeypatch.setattr(Histories, "_read_once", lambda *_: pytest.fail("in two passes"))
    prompts, settings = asked(base)
    Pieces(base.model, base.tokenizer).generate(prompts[:2] * 2, settings, rows(4))


@pytest.mark.parametrize("family", ["gemma3", "mistral", "gpt2", "bloom", "opt", "gpt-neox", "qwen3-next"])
def test_other_caches_are_cut_too(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that slide (8 tokens here), learned positions, ALiBi, and layers with a state in place of keys."""
    hybrid = Qwen3NextConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"], intermediate_size=24, num_experts=0, bos_token_id=None,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    config = hybrid if family == "qwen3-next" else FAMILIES[family]
    if family == "mistral":
        config = type(config)(**{**config.to_dict(), "sliding_window": CAPPED["sliding_window"]})
    base = opened(config, tmp_path)
    model = base.model
    monkeypatch.setattr(histories, "LONG", 3)  # prompts are read once
    texts = ("1+1=", "22+2=4;33+3=", "5+5=10;6+6=12;7+", "8=")
    prompts = [token_ids(base.tokenizer, text) for text in (*texts, texts[1])]
    settings = sampling_settings([1, *range(3, 20)], base.tokenizer, max_tokens=12, temperature=1.0)
    expected = [
        Pieces(model, base.tokenizer, piece=12).generate([p], settings, [(0, i)])[0] for i, p in enumerate(prompts)
    ]
    found = Pieces(model, base.tokenizer, piece=2).generate(prompts, settings, [(0, i) for i in range(5)])
    assert tokens(found) == tokens(expected)
    assert len({len(one.tokens) for one in found}) > 1, "rows end at different steps"


def test_a_cache_without_rows_is_carried_to_the_end(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, settings = asked(base)
    expected = Pieces(base.model, base.tokenizer, piece=3).generate(prompts, settings, rows(40))
    monkeypatch.setattr(Histories, "can_drop", False)
    found = Pieces(base.model, base.tokenizer, piece=3).generate(prompts, settings, rows(40))
    assert tokens(found) == tokens(expected)


def test_every_name_in_a_recipe_has_a_sampler() -> None:
    assert SAMPLERS.keys() == {"pieces", "vllm", "generate"}

"""TRL pads prompts on the left and gives no positions; a model that learned its positions must not notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lensrl.models.base import load_base
from lensrl.recipe import Recipe
from lensrl.tasks import Item
from lensrl.train.trainer import Trainer
from lensrl.train.training import train


class Lengths:
    """Prompts of different lengths, so that some rows are padded."""

    def items(self, split: Any) -> list[Item]:
        return [Item(str(n), "1" * n + "=", str(n), "lengths") for n in range(1, 13)]

    def reward(self, item: Item, completion: str) -> float:
        return float(len(completion) % 2)

    score = reward


@pytest.mark.parametrize("kl_beta", [0.0, 0.1])  # with it, TRL asks a reference model that it loads itself
def test_trl_sees_the_log_probabilities_of_unpadded_rows(
    kl_beta: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_base("tiny:qwen3").tokenizer
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, eos_token_id=1, bos_token_id=None,
        pad_token_id=0, initializer_range=0.5,
    )).eval()  # fmt: skip
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = load_base(str(tmp_path))
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    original = Trainer._get_per_token_logps_and_entropies

    def spy(
        self: Trainer, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, *rest: Any, **named: Any
    ) -> Any:
        result = original(self, model, ids, mask, keep, *rest, **named)
        seen.append((ids, mask, result[0].detach()))
        return result

    monkeypatch.setattr(Trainer, "_get_per_token_logps_and_entropies", spy)
    recipe = Recipe.model_validate({
        "model": "gpt2", "task": {"name": "arithmetic"},
        "rl": {"steps": 1, "prompts_per_step": 6, "completions_per_prompt": 2, "max_completion_tokens": 4,
               "kl_beta": kl_beta},
    })  # fmt: skip
    train(base, Lengths(), recipe, layers=None, seed=0)
    assert len(seen) == (2 if kl_beta else 1)
    for ids, mask, logprobs in seen:
        assert (mask[:, 0] == 0).any(), "some prompt is padded"
        for row, row_mask, row_logprobs in zip(ids, mask, logprobs, strict=True):
            with torch.no_grad():
                alone = model(row[row_mask.bool()][None]).logits[0].log_softmax(-1)
            tokens = row[row_mask.bool()]
            count = int(row_mask[-len(row_logprobs) :].sum())
            expected = alone[-count - 1 : -1].gather(-1, tokens[-count:, None]).squeeze(-1)
            torch.testing.assert_close(row_logprobs[:count], expected, atol=1e-4, rtol=0)

"""Blocks are found by structure in every family that one is likely to bring."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import (
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from lensrl.errors import LensrlError
from lensrl.models.blocks import find_blocks, train_only

N_LAYERS = 3
_GATED: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": N_LAYERS,
          "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}  # fmt: skip
CONFIGURATIONS = {
    "qwen3": Qwen3Config(**_GATED),
    "qwen3-untied": Qwen3Config(**_GATED, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**_GATED),
    "llama": LlamaConfig(**_GATED),
    "gemma": GemmaConfig(**_GATED),
    "gpt2": GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=N_LAYERS, n_head=2),
    "opt": OPTConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=N_LAYERS, ffn_dim=24, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=16,
    ),
}  # fmt: skip


def random_model(configuration: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(deepcopy(configuration))  # the model keeps, and a test may change, its own


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_every_parameter_has_a_part_and_every_layer_has_all_components(family: str) -> None:
    model = random_model(CONFIGURATIONS[family])
    blocks = find_blocks(model)
    names = [name for name, _ in model.named_parameters()]
    assert blocks.n_layers == N_LAYERS
    assert {blocks.part(name) for name in names} >= {*range(N_LAYERS), "embed", "final_norm"}
    assert ("lm_head" in {blocks.part(name) for name in names}) == (not model.config.tie_word_embeddings)
    for layer in range(N_LAYERS):
        assert {blocks.component(name) for name in names if blocks.layer(name) == layer} == {"attn", "mlp", "norm"}


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_a_gradient_reaches_the_chosen_layer_and_nothing_else(family: str) -> None:
    model = random_model(CONFIGURATIONS[family])
    blocks = find_blocks(model)
    train_only(model, blocks, [1])
    ids = torch.arange(2, 10)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert not reached or blocks.layer(name) == 1, name
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained == [n for n, _ in model.named_parameters() if blocks.layer(n) == 1]


def test_layer_ten_is_not_layer_one() -> None:
    model = random_model(Qwen3Config(**{**_GATED, "num_hidden_layers": 12}))
    blocks = find_blocks(model)
    assert blocks.layer("model.layers.10.mlp.up_proj.weight") == 10
    assert blocks.inner("model.layers.10.mlp.up_proj.weight") == "mlp.up_proj.weight"


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(LensrlError, match="GPT2LMHeadModel has no stack of decoder blocks"):
        find_blocks(random_model(GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=0, n_head=2)))

"""Small random models of the families that one is likely to bring, saved as their checkpoints are."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from lensrl.models.base import Base, load_base
from lensrl.models.tiny.pretrain import EOS, PAD, character_tokenizer

N_LAYERS = 2
TOKENIZER = character_tokenizer()
TOKENS: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "pad_token_id": TOKENIZER.get_vocab()[PAD],
    "eos_token_id": TOKENIZER.get_vocab()[EOS],
    "bos_token_id": None,
}
_PLAIN: dict[str, Any] = TOKENS | {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": N_LAYERS, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
_GROUPED: dict[str, Any] = _PLAIN | {"num_key_value_heads": 1}
_GEMMA: dict[str, Any] = _GROUPED | {"head_dim": 8}
CAPPED: dict[str, Any] = _GEMMA | {"query_pre_attn_scalar": 8, "sliding_window": 8}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
_SHARED: dict[str, Any] = _EXPERTS | {"shared_expert_intermediate_size": 8}
_HYBRID: dict[str, Any] = _GEMMA | {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_GPT2: dict[str, Any] = TOKENS | {"n_positions": 64, "n_embd": 16, "n_layer": N_LAYERS, "n_head": 2}
_OPT: dict[str, Any] = TOKENS | {
    "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": N_LAYERS, "num_attention_heads": 2,
    "max_position_embeddings": 64, "word_embed_proj_dim": 16,
}  # fmt: skip
_NARROW: dict[str, Any] = _OPT | {"word_embed_proj_dim": 8}
FAMILIES: dict[str, PretrainedConfig] = {
    "qwen3": Qwen3Config(**_GEMMA, tie_word_embeddings=True),
    "qwen3-untied": Qwen3Config(**_GEMMA, tie_word_embeddings=False),
    "qwen3-moe": Qwen3MoeConfig(**_GEMMA, **_EXPERTS),
    "qwen3-next": Qwen3NextConfig(**_HYBRID, **_SHARED),
    "qwen3.5": Qwen3_5TextConfig(**_HYBRID),
    "qwen3.5-moe": Qwen3_5MoeTextConfig(**_HYBRID, **_SHARED),
    "qwen2.5": Qwen2Config(**_GROUPED, tie_word_embeddings=True),
    "qwen2.5-untied": Qwen2Config(**_GROUPED, tie_word_embeddings=False),
    "llama": LlamaConfig(**_GROUPED, tie_word_embeddings=False),
    "llama-tied": LlamaConfig(**_GROUPED, tie_word_embeddings=True),
    "mistral": MistralConfig(**_GROUPED),
    "phi3": Phi3Config(**_GROUPED),
    "gemma": GemmaConfig(**_GEMMA),
    "gemma2": Gemma2Config(**CAPPED),
    "gemma3": Gemma3TextConfig(**CAPPED),
    "gpt2": GPT2Config(**_GPT2),
    "gpt2-untied": GPT2Config(**_GPT2, tie_word_embeddings=False),
    "gpt-neox": GPTNeoXConfig(**_PLAIN),
    "bloom": BloomConfig(**TOKENS, hidden_size=16, n_layer=N_LAYERS, n_head=2),
    "opt": OPTConfig(**_OPT),
    "opt-projected": OPTConfig(**_NARROW),
    "opt-post-norm": OPTConfig(**_NARROW, do_layer_norm_before=False),  # OPT-350m
}
HYBRID = {"qwen3-next", "qwen3.5", "qwen3.5-moe"}  # linear attention in some layers, where no attention output is found


def save(configuration: PretrainedConfig, folder: Path) -> str:
    """A model folder with random weights, large enough for layers to matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(configuration), dtype=torch.float32)
    with torch.no_grad():
        for weight in (w for w in model.parameters() if w.ndim > 1):
            weight.copy_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def opened(configuration: PretrainedConfig, folder: Path) -> Base:
    return load_base(save(configuration, folder))

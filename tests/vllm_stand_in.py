"""A stand-in for the package `vllm`, with as much of its interface as `lensrl.models.vllm_sampler` uses.

The names and arguments are those of vLLM 0.31. Under it works transformers, in fp32 and one row at a time. Like vLLM,
it has weights of its own and random numbers by request, and it stops at `stop_token_ids` alone where `ignore_eos` is
set. Between `load_weights` and `reset_prefix_cache`, vLLM would use keys and values of old weights: this one refuses.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensrl.models import vllm_sampler


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


class Logprob(NamedTuple):
    logprob: float


class CompletionOutput(NamedTuple):
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str


class RequestOutput(NamedTuple):
    outputs: list[CompletionOutput]


class LLM:
    started: list[LLM] = []  # noqa: RUF012

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool,
        trust_remote_code: bool,
        dtype: str,
        gpu_memory_utilization: float,
        max_num_batched_tokens: int,
        logprobs_mode: str,
        generation_config: str,
    ) -> None:
        assert (logprobs_mode, trust_remote_code) == ("processed_logprobs", False)
        torch.manual_seed(0)  # vLLM sets the random states of its process
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._model.load_weights = self._load_weights
        self._stale = False
        self.pushed: list[list[str]] = []
        self.requests: list[SamplingParams] = []
        self.started.append(self)

    def _load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        own = dict(self._model.named_parameters())
        names = [name for name, tensor in weights if own[name].data.copy_(tensor) is not None]
        self.pushed.append(names)
        self._stale = True
        return set(names)

    def apply_model(self, func: Callable[[Any], Any]) -> list[Any]:
        return [func(self._model)]

    def reset_prefix_cache(self) -> bool:
        self._stale = False
        return True

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[dict[str, list[int]]], sampling_params: Sequence[SamplingParams], *, use_tqdm: bool
    ) -> list[RequestOutput]:
        assert not self._stale, "the prefix cache holds keys and values of other weights"
        self.requests += sampling_params
        asked = zip(prompts, sampling_params, strict=True)
        return [RequestOutput([self._complete(prompt["prompt_token_ids"], one)]) for prompt, one in asked]

    def _complete(self, prompt: list[int], asked: SamplingParams) -> CompletionOutput:
        assert (asked.ignore_eos, asked.n, asked.top_p, asked.top_k) == (True, 1, 1.0, 0)
        noise = torch.Generator().manual_seed(asked.seed or 0)
        tokens: list[int] = []
        logprobs: list[dict[int, Logprob]] = []
        while len(tokens) < (asked.max_tokens or 0):
            logits = self._model(torch.tensor([prompt + tokens])).logits[0, -1].float()
            if asked.temperature == 0:
                tokens.append(int(logits.argmax()))
            else:
                all_of_them = (logits / asked.temperature).log_softmax(-1)
                tokens.append(int(torch.multinomial(all_of_them.exp(), 1, generator=noise)))
                logprobs.append({tokens[-1]: Logprob(float(all_of_them[tokens[-1]]))})
            if tokens[-1] in (asked.stop_token_ids or ()):
                return CompletionOutput(tokens, logprobs if asked.logprobs is not None else None, "stop")
        return CompletionOutput(tokens, logprobs if asked.logprobs is not None else None, "length")


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """Put the stand-in in the place of vLLM, with no engine started yet."""
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SamplingParams  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm_sampler, "_started", [])
    monkeypatch.setattr(LLM, "started", [])
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # put back after the test
    return LLM

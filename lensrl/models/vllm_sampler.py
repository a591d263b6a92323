"""Sampling with vLLM: `generation = "vllm"`.

Completions were sampled with vLLM 0.26 on one H100 (`runs/GPU.md`). Training and scoring with it have not run on a GPU
yet: they are tested against a stand-in of its interface.

An engine of vLLM lives in this process, beside the model that is trained or scored, and keeps weights of its own in
bf16 (fp32 on a CPU). It is started once in a process and serves every model of the study: a new sampler loads all
weights of its model into it, and before each step of training `refresh` loads only those that train (11 of 90 tensors
for a layer of Qwen3).

What was read in vLLM 0.22 and 0.31 (`vllm/entrypoints/llm.py`, `vllm/sampling_params.py`), and in the colocated mode of
TRL 1.16 (`trl/generation/vllm_generation.py`), which loads weights in the same way:

- `LLM.apply_model(f)` calls `f` on vLLM's model, and its `load_weights` takes (name, tensor) pairs by the names of a
  checkpoint. VLLM_ENABLE_V1_MULTIPROCESSING=0 keeps that model in this process, so no tensor is serialised.
- `LLM.reset_prefix_cache()` forgets the keys and values of the weights before.
- `logprobs_mode="processed_logprobs"` gives log-probabilities as sampled: after the temperature, top-k and top-p.
- A request has a seed of its own, `SamplingParams(seed=...)`, here made of the keys of its row (`lensrl.models.noise`).
  So a row has its own noise, whatever stands beside it. The numbers are not those of `"pieces"`, and vLLM's kernels
  may differ in the last bits with the batch.
- Turns go on with token prompts. vLLM finds the keys and values of their beginning in its prefix cache.

TRL does not correct the loss for the difference between vLLM's log-probabilities and the trainer's. Each step's mean
difference is in the curve, `sampler_mismatch`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lensrl.errors import LensrlError, reason
from lensrl.models.generation import end_tokens
from lensrl.models.histories import Written
from lensrl.models.lora import named_weights
from lensrl.models.noise import Row

MEMORY = 0.3  # share of the GPU's memory that vLLM takes, for weights, keys and values: TRL's default
BATCHED_TOKENS = 4096  # TRL's: vLLM's default, 32,768, makes it count too little memory for keys and values


def check_vllm(model: PreTrainedModel) -> None:
    """Raise LensrlError where vLLM is not installed, and for a mixture of experts."""
    if find_spec("vllm") is None:
        raise LensrlError(
            "generation = 'vllm' needs vLLM: pip install 'lensrl[vllm]', or write generation = 'pieces' into the recipe"
        )
    if any(".experts." in name for name, _ in model.named_parameters()):
        raise LensrlError(
            "generation = 'vllm': vLLM arranges the experts of a mixture anew after it has loaded them, so trained "
            "experts would not reach it; write generation = 'pieces'"
        )


class Vllm:
    """Samples with vLLM. Raises LensrlError where vLLM is not installed or does not start, and for experts."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        check_vllm(model)
        self._model = model
        self._key = object()  # what the engine knows it by: the sampler itself would keep its model in memory
        self._engine = _engine_of(model)
        self._load()

    def _load(self) -> None:
        self._engine.load(self._key, named_weights(self._model), whole=True)

    def refresh(self) -> None:
        """Load the weights that train into vLLM; all of them where another model was sampled meanwhile."""
        if self._engine.holder is self._key:
            self._engine.load(self._key, named_weights(self._model, trained=True), whole=False)
        else:
            self._load()

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: GenerationConfig, rows: Sequence[Row]
    ) -> list[Written]:
        if self._engine.holder is not self._key:
            self._load()
        return self._engine.complete(prompts, settings, rows)

    def start(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> VllmHistories:
        return VllmHistories(self, prompts, rows)


class VllmHistories:
    """Texts that grow, as token prompts of vLLM. The key of a row's seed has the number of the turn at its end."""

    def __init__(self, sampler: Vllm, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> None:
        self._sampler = sampler
        self._texts = [list(prompt) for prompt in prompts]
        self._rows = list(rows)
        self._turn = 0

    def continued(self, settings: GenerationConfig) -> list[Written]:
        found = self._sampler.generate(self._texts, settings, [(*row, self._turn) for row in self._rows])
        self._turn += 1
        self._texts = [text + one.tokens for text, one in zip(self._texts, found, strict=True)]
        return found

    def extend(self, rows: Sequence[Sequence[int]]) -> None:
        self._texts = [text + list(seen) for text, seen in zip(self._texts, rows, strict=True)]

    def keep(self, rows: Sequence[int]) -> None:
        self._texts, self._rows = [self._texts[row] for row in rows], [self._rows[row] for row in rows]


class _Engine:
    """vLLM with the weights of one model at a time: `holder` is the key of the sampler whose weights it has."""

    def __init__(self, source: str, device: str) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read when the engine starts
        import vllm  # pyright: ignore[reportMissingImports]

        self.source = source
        self.holder: object = None
        self._settings = vllm.SamplingParams
        with _own_randomness():
            try:
                self._llm: Any = vllm.LLM(
                    model=source,
                    skip_tokenizer_init=True,  # prompts and completions are tokens
                    trust_remote_code=False,
                    dtype="bfloat16" if device == "cuda" else "float32",
                    gpu_memory_utilization=MEMORY,
                    max_num_batched_tokens=BATCHED_TOKENS,
                    logprobs_mode="processed_logprobs",
                    generation_config="vllm",  # nothing from the model's own sampling defaults
                )
            except Exception as error:  # of any kind: vLLM checks the model, the GPU and its memory
                raise LensrlError(
                    f"vLLM does not start with {source} ({reason(error)}); write generation = 'pieces'"
                ) from error

    def load(self, holder: object, weights: Iterator[tuple[str, torch.Tensor]], *, whole: bool) -> None:
        """Load weights by their names, and forget the keys and values of those before.

        Raises LensrlError where the `whole` of a model leaves one of vLLM's own parameters as it was.
        """

        def load(model: Any) -> list[str]:
            loaded = model.load_weights(weights)  # vLLM's own names: it joins some matrices
            return sorted({name for name, _ in model.named_parameters()} - set(loaded)) if whole else []

        self.holder = None  # until all of them are there
        with torch.no_grad():
            (left,) = self._llm.apply_model(load)
        if left:
            raise LensrlError(f"generation = 'vllm': {left[0]} of vLLM's model has no weight here; write 'pieces'")
        self._llm.reset_prefix_cache()
        self.holder = holder

    def complete(
        self, prompts: Sequence[Sequence[int]], settings: GenerationConfig, rows: Sequence[Row]
    ) -> list[Written]:
        """Complete every prompt, each with the seed of its row."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [self._settings(**_request(settings, row)) for row in rows],
            use_tqdm=False,
        )
        found = []
        for output in (one.outputs[0] for one in outputs):
            tokens = list(output.token_ids)
            chosen = zip(tokens, output.logprobs or [], strict=False)
            logprobs = [float(of_step[token].logprob) for token, of_step in chosen] if settings.do_sample else []
            found.append(Written(tokens, output.finish_reason == "stop", logprobs))
        return found


def _request(settings: GenerationConfig, row: Row) -> dict[str, Any]:
    """Return the arguments of vLLM's `SamplingParams` for one completion. Its ends are those of `settings` alone."""
    asked: dict[str, Any] = {
        "n": 1,
        "max_tokens": settings.max_new_tokens,
        "stop_token_ids": sorted(end_tokens(settings)),
        "ignore_eos": True,
        "detokenize": False,
        "temperature": 0.0,
    }
    if not settings.do_sample:
        return asked
    return asked | {
        "temperature": float(settings.temperature),  # pyright: ignore[reportArgumentType]
        "top_p": 1.0 if settings.top_p is None else float(settings.top_p),
        "top_k": settings.top_k or 0,
        "seed": seed_of(row),
        "logprobs": 0,  # of the sampled token alone
    }


def seed_of(row: Row) -> int:
    """Return the seed of a row's request: 63 bits that follow from its key."""
    key = np.random.SeedSequence([part % 2**64 for part in row])
    return int(key.generate_state(1, np.uint64)[0]) >> 1


_started: list[_Engine] = []  # at most one: its memory is a share of the whole GPU


def _engine_of(model: PreTrainedModel) -> _Engine:
    """Return this process's engine, started from the folder or the hub name that the model was loaded from."""
    source = str(model.name_or_path)
    if not _started:
        _started.append(_Engine(source, model.device.type))
    if _started[0].source != source:
        raise LensrlError(
            f"generation = 'vllm': this process samples {_started[0].source}, and one process has one engine; use "
            f"another process for {source}"
        )
    return _started[0]


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Put the random states back: vLLM sets them when it starts in this process."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)

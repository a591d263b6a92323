"""Tokens per second of the ways to sample, on one model and the same prompts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from lensrl.models.base import Base, load_base, pick_device
from lensrl.models.generation import sampling_settings, token_ids
from lensrl.models.histories import Written
from lensrl.models.noise import Row
from lensrl.models.precision import copy_in_bf16
from lensrl.models.sampler import SAMPLERS, Pieces, Sampler, Whole
from tests.benchmarks.cuda_models import CUDA, GB, Lengths, Report, model_folder, plant_end, random_base, synchronised

DEVICE = pick_device()


def sampling(report: Report, quick: bool) -> None:
    """lensrl's pieces and `generate` of transformers, on prompts whose completions have very different lengths."""
    base, limit = _ending(quick)
    model = copy_in_bf16(base.reading(), DEVICE)  # what samples in training
    for count in (8 if quick else 128, 16 if quick else 512):
        prompts, settings, rows = _asked(base, count, limit)
        ways: dict[str, Sampler] = {"pieces of 16": Pieces(model, base.tokenizer)}
        if count <= 128:
            ways["pieces of 16, again"] = Pieces(model, base.tokenizer)
            ways["to the end of the longest"] = Pieces(model, base.tokenizer, piece=limit)
            ways["generate of transformers"] = Whole(model, base.tokenizer)
            own = base.fresh(device=DEVICE).eval()
            ways["pieces of 16, the model itself in place of its copy in bf16"] = Pieces(own, base.tokenizer)
        found = {way: _timed(report, way, sampler, prompts, settings, rows) for way, sampler in ways.items()}
        if count <= 128:
            first, second = (found[way] for way in ("pieces of 16", "to the end of the longest"))
            equal = np.mean([a.tokens == b.tokens for a, b in zip(first, second, strict=True)])
            report(
                f"rows equal in pieces and to the end, {count} prompts", float(equal), "share", "bf16 kernels differ"
            )


def continuous(report: Report, quick: bool) -> None:
    """The continuous batching of transformers on the same prompts."""
    base, limit = _ending(quick)
    model: Any = copy_in_bf16(base.reading(), DEVICE)
    prompts, settings, _ = _asked(base, 8 if quick else 128, limit)
    began = synchronised()
    outputs = model.generate_batch(prompts, generation_config=settings, progress_bar=False)
    seconds = synchronised() - began
    total = sum(len(output.generated_tokens) for output in outputs.values())
    report(
        f"continuous batching, {len(prompts)} prompts", total / seconds, "tokens/s", f"{total} tokens, {seconds:.1f} s"
    )


def with_vllm(report: Report, quick: bool) -> None:
    """vLLM on the same model and prompts, beside pieces in the same process."""
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        base, limit = _ending(quick)
        folder = model_folder(base, Path(scratch))
        base = load_base(str(folder))
        model = copy_in_bf16(base.reading(), DEVICE)
        began = synchronised()
        sampler = SAMPLERS["vllm"](model, base.tokenizer)
        report("start of vLLM, with all weights", synchronised() - began, "s")
        began = synchronised()
        sampler = SAMPLERS["vllm"](model, base.tokenizer)
        report("all weights again, in the same engine", synchronised() - began, "s")
        for count in (8 if quick else 128, 16 if quick else 512):
            prompts, settings, rows = _asked(base, count, limit)
            for way in ("vLLM", "vLLM, again"):
                _timed(report, way, sampler, prompts, settings, rows)
        prompts, settings, rows = _asked(base, 8 if quick else 128, limit)
        _timed(report, "pieces of 16", Pieces(model, base.tokenizer), prompts, settings, rows)
        _compare(report, base, model, sampler, prompts[:16], settings, rows[:16])


def _compare(
    report: Report, base: Base, model: Any, sampler: Sampler, prompts: list[list[int]], settings: GenerationConfig,
    rows: list[Row],
) -> None:  # fmt: skip
    """Are the log-probabilities of vLLM those of transformers, and do rows follow from their seeds?"""
    written = sampler.generate(prompts, settings, rows)
    turned = [*reversed(sampler.generate([*reversed(prompts)], settings, [*reversed(rows)]))]
    equal = np.mean([a.tokens == b.tokens for a, b in zip(written, turned, strict=True)])
    report("vLLM: rows equal in another order", float(equal), "share", "bf16 kernels differ with the batch")
    ended = all(one.ended == (one.tokens[-1] == 1) for one in written)
    report("vLLM: rows that ended have the end token, and no others", str(ended))
    differences = []
    for prompt, one in zip(prompts, written, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + one.tokens], device=DEVICE)).logits[0, len(prompt) - 1 : -1].float()
        expected = logits.log_softmax(-1)[torch.arange(len(one.tokens)), torch.tensor(one.tokens)].cpu().numpy()
        differences.append(np.abs(expected - np.array(one.logprobs)))
    apart = np.concatenate(differences)
    report(
        "vLLM: log-probabilities against transformers in bf16, mean",
        float(apart.mean()),
        "nats",
        f"max {apart.max():.3f}",
    )


def _ending(quick: bool) -> tuple[Base, int]:
    """Return a base that ends after about 100 tokens, and the largest number of tokens."""
    base = random_base("quick" if quick else "0.6B")
    limit, mean = (48, 12) if quick else (512, 100)
    plant_end(base, 1 / mean)
    return base, limit


def _asked(base: Base, count: int, limit: int) -> tuple[list[list[int]], GenerationConfig, list[Row]]:
    prompts = [token_ids(base.tokenizer, item.prompt) for item in Lengths().items("train")]
    settings = sampling_settings([1], base.tokenizer, max_tokens=limit, temperature=1.0)
    return [prompts[row % len(prompts)] for row in range(count)], settings, [(0, row) for row in range(count)]


def _timed(
    report: Report,
    way: str,
    sampler: Sampler,
    prompts: list[list[int]],
    settings: GenerationConfig,
    rows: list[Row],
) -> list[Written]:
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    began = synchronised()
    written = sampler.generate(prompts, settings, rows)
    seconds = synchronised() - began
    lengths = [len(one.tokens) for one in written]
    peak = f", peak {torch.cuda.max_memory_allocated() / GB:.1f} GB" if CUDA else ""
    note = f"{sum(lengths)} tokens, {seconds:.1f} s, mean {np.mean(lengths):.0f}, longest {max(lengths)}{peak}"
    report(f"{way}, {len(prompts)} prompts", sum(lengths) / seconds, "tokens/s", note)
    return written

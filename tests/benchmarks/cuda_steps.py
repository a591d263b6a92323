"""Steps of training on a GPU: the same numbers as on a CPU? And what full RL and single layers cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lensrl.train.config as config_module
from lensrl.models.base import Base, load_base, pick_device
from lensrl.models.sampler import SAMPLERS, Pieces
from lensrl.train.training import Training, train
from tests.benchmarks.cuda_models import (
    CUDA,
    GB,
    Given,
    Lengths,
    Report,
    model_folder,
    phases,
    random_base,
    recipe,
    synchronised,
)  # fmt: skip

DEVICE = pick_device()


def against_cpu(report: Report, quick: bool) -> None:
    """One step of full RL with given completions: the changes of the weights and the gradients, GPU against CPU."""
    base = load_base("tiny:qwen3")
    Given.vocabulary = 60
    settings = recipe(steps=1, max_completion_tokens=12, learning_rate=1e-4)
    runs = {"cpu": _given(base, settings, "cpu")}
    if CUDA:
        runs["GPU in bf16"] = _given(base, settings, "cuda")
        kept = config_module.compute_dtype
        config_module.compute_dtype = lambda *_: "float32"
        try:
            runs["GPU in fp32"] = _given(base, settings, "cuda")
        finally:
            config_module.compute_dtype = kept
    runs["CPU in bf16"] = _given(base, recipe(**settings.rl.model_dump() | {"frozen_dtype": "bfloat16"}), "cpu")
    mine = _changes(base, runs["cpu"])
    for name, training in runs.items():
        change = _changes(base, training)
        report(f"changes, {name} against CPU", float(np.linalg.norm(change - mine) / np.linalg.norm(mine)), "relative")
        norm, other = training.curve.grad_norm[0], runs["cpu"].curve.grad_norm[0]
        report(f"norm of the gradient, {name} against CPU", abs(norm / other - 1), "relative")


def _given(base: Base, settings: Any, device: str) -> Training:
    return _with_given(lambda: train(base, Lengths(), settings, layers=None, seed=0, device=device))


def _with_given(action: Callable[[], Training]) -> Training:
    SAMPLERS["pieces"] = Given
    try:
        return action()
    finally:
        SAMPLERS["pieces"] = Pieces


def _changes(base: Base, training: Training) -> np.ndarray:
    parts = [(weight.cpu() - base.weights[n]).flatten() for n, weight in training.weights.items()]
    return torch.cat(parts).double().numpy()


def steps_06(report: Report, quick: bool) -> None:
    """Steps of full RL and of single layers in the 0.6B shape, without sampling."""
    base = random_base("quick" if quick else "0.6B")
    last = base.blocks.n_layers - 1
    micro = 8
    for frozen in ("float32", "bfloat16"):
        for layers in ([0], [last // 2], [last]):
            _step(report, base, layers, frozen=frozen, micro=micro, quick=quick)
    _step(report, base, None, frozen="float32", micro=micro, quick=quick)
    _step(report, base, [last // 2], frozen="bfloat16", micro=micro, quick=quick, gradient_checkpointing=True)
    _step(report, base, [last // 2], frozen="bfloat16", micro=micro, quick=quick, kl_beta=0.01)


def steps_8bit(report: Report, quick: bool) -> None:
    """Steps whose moments of Adam have 8 bits, in the 0.6B shape: beside them, the same in 32 bits."""
    base = random_base("quick" if quick else "0.6B")
    middle = [base.blocks.n_layers // 2 - 1]
    for layers, frozen in ((None, "float32"), (middle, "bfloat16")):
        for optim in ("adamw_torch", "adamw_8bit", "paged_adamw_8bit"):
            _step(report, base, layers, frozen=frozen, micro=8, quick=quick, optim=optim)


def sampled_06(report: Report, quick: bool) -> None:
    """Whole steps in the 0.6B shape, sampled in pieces."""
    base = random_base("quick" if quick else "0.6B")
    _step(report, base, [base.blocks.n_layers // 2 - 1], frozen="bfloat16", micro=8, quick=quick, way="pieces")
    _step(report, base, None, frozen="float32", micro=8, quick=quick, way="pieces")


def steps_17(report: Report, quick: bool) -> None:
    """Steps of full RL and of the middle layer in the 1.7B shape, with completions given and sampled."""
    base = random_base("quick" if quick else "1.7B")
    layers = [base.blocks.n_layers // 2 - 1]
    for way in (None, "pieces"):
        _step(report, base, layers, frozen="bfloat16", micro=4, quick=quick, way=way)
        _step(report, base, None, frozen="float32", micro=4, quick=quick, way=way)


def vllm_steps_06(report: Report, quick: bool) -> None:
    """Whole steps in the 0.6B shape, sampled with vLLM."""
    _vllm_steps(report, "0.6B", micro=8, quick=quick)


def vllm_steps_17(report: Report, quick: bool) -> None:
    """Whole steps in the 1.7B shape, sampled with vLLM."""
    _vllm_steps(report, "1.7B", micro=2, quick=quick)


def _vllm_steps(report: Report, shape: str, *, micro: int, quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        base = load_base(str(model_folder("quick" if quick else shape, Path(scratch))))
        middle = [base.blocks.n_layers // 2 - 1]
        for layers, frozen in ((middle, "bfloat16"), (None, "float32")):
            _step(report, base, layers, frozen=frozen, micro=micro, quick=quick, way="vllm")


def _step(
    report: Report,
    base: Base,
    layers: list[int] | None,
    *,
    frozen: str,
    micro: int,
    quick: bool,
    way: str | None = None,
    **rl: Any,
) -> None:
    """Train for two steps, and report the second: the first one also compiles. A step of pieces is made once.

    `way` is how completions are sampled. With None they are given.
    """
    tokens = 24 if quick else 1024
    settings = recipe(
        generation=way or "pieces", steps=1 if way == "pieces" else 2, prompts_per_step=4, completions_per_prompt=8,
        max_completion_tokens=tokens, micro_batch=micro,
        frozen_dtype=None if frozen == "float32" and layers is None else frozen,
        sampler_dtype=None if way else "float32", **rl,
    )  # fmt: skip
    name = "full RL" if layers is None else f"layer {layers[0]}, frozen {frozen}"
    name += "".join(f", {key} {value}" for key, value in rl.items()) + (f", sampled by {way}" if way else "")
    marks: list[dict[str, float]] = []
    held: list[int] = []  # bytes on the GPU between two steps: weights and Adam's moments
    if CUDA:
        torch.cuda.empty_cache()
    began = synchronised()
    with phases() as spent:

        def mark() -> None:
            marks.append(dict(spent))
            held.append(torch.cuda.memory_allocated() if CUDA else 0)

        def run() -> Training:
            return train(
                base, Lengths(), settings, layers=layers, seed=0, device=DEVICE,
                on_step=lambda _: mark(),
            )  # fmt: skip

        training = run() if way else _with_given(run)
    whole = synchronised() - began
    before = marks[-2] if len(marks) > 1 else {}
    parts = {phase: seconds - before.get(phase, 0.0) for phase, seconds in marks[-1].items()}
    curve = training.curve
    rows = settings.rl.prompts_per_step * settings.rl.completions_per_prompt
    report(f"{name}: step", curve.step_time[-1], "s", ", ".join(f"{k} {v:.2f}" for k, v in parts.items()))
    report(f"{name}: tokens", rows * curve.completion_length[-1] / curve.step_time[-1], "tokens/s", training.status)
    formula = _bytes(base, layers, frozen)
    report(f"{name}: weights and moments by formula", formula / GB, "GB", "12 bytes if trained, else 4 or 2")
    if CUDA:
        report(f"{name}: held between steps", held[-1] / GB, "GB")
        report(f"{name}: peak", curve.peak_memory[-1] / GB, "GB", f"{rows} rows of {tokens}, micro-batch {micro}")
    report(f"{name}: around its steps", whole - sum(curve.step_time), "s", "copy, trainer, checks")
    for mismatch in curve.sampler_mismatch:
        report(f"{name}: sampler mismatch", mismatch, "nats a token")


def _bytes(base: Base, layers: list[int] | None, frozen: str) -> int:
    """Return the bytes of weights and Adam's moments: fp32 for what trains, and the stored type for what is frozen."""
    return sum(
        weight.numel()
        * (12 if base.blocks.trains(name, layers) else 2 if frozen == "bfloat16" and weight.ndim > 1 else 4)
        for name, weight in base.weights.items()
    )

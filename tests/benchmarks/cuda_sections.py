"""The sections of `tests.benchmarks.cuda`: each part measures one thing and reports it in rows."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lensrl.models.base import pick_device
from tests.benchmarks.cuda_models import CUDA, GB, Report, synchronised
from tests.benchmarks.cuda_sampling import continuous, sampling, with_vllm
from tests.benchmarks.cuda_steps import (
    against_cpu,
    sampled_06,
    steps_06,
    steps_8bit,
    steps_17,
    vllm_steps_06,
    vllm_steps_17,
)  # fmt: skip
from tests.benchmarks.cuda_studies import forwards, small_study, vllm_study, whole_path, workers

DEVICE = pick_device()


def versions(report: Report, quick: bool) -> None:
    """The versions and the card."""
    for package in ("torch", "transformers", "trl", "transformer-lens", "accelerate", "bitsandbytes", "vllm"):
        try:
            report(package, version(package))
        except PackageNotFoundError:
            report(package, "not installed")
    report("device", torch.cuda.get_device_name() if CUDA else "cpu", note=f"CUDA {torch.version.cuda}")
    if CUDA:
        report("memory", torch.cuda.mem_get_info()[1] / GB, "GB")


def ceilings(report: Report, quick: bool) -> None:
    """The speed of a copy and of matrix products."""
    size = 2**22 if quick else 2**30
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    report("copy", 2 * size / _shortest(lambda: target.copy_(source)) / GB, "GB/s", "bytes read and written")
    n = 256 if quick else 8192
    for kind in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(n, n, device=DEVICE, dtype=kind) for _ in range(2))
        report(f"product {n}, {kind}", 2 * n**3 / _shortest(lambda a=a, b=b: a @ b) / 1e12, "TFLOP/s")
    report("one kernel", 1e6 * _shortest(lambda: target[:1].add_(1)), "microseconds", "launched and waited for")


def _shortest(action: Callable[[], Any], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        began = synchronised()
        action()
        times.append(synchronised() - began)
    return min(times)


Part = Callable[[Report, bool], None]
PARTS: dict[str, tuple[Part, ...]] = {
    "machine": (versions, ceilings),
    "study": (against_cpu, small_study),
    "step": (steps_06,),
    "step-8bit": (steps_8bit,),
    "step-sampled": (sampled_06,),
    "step-1.7B": (steps_17,),
    "sampling": (sampling, continuous),
    "vllm": (with_vllm,),
    "vllm-step": (vllm_steps_06,),
    "vllm-1.7B": (vllm_steps_17,),
    "vllm-study": (vllm_study,),
    "forwards": (forwards,),
    "workers": (workers,),
    "whole-path": (whole_path,),
}

"""The sections of `tests.benchmarks.cuda`: each part measures one thing and reports it in rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lensrl.train.config as config_module
from lensrl import open_study
from lensrl.compare.patching.graft import graft, run_weights
from lensrl.models.base import Base, load_base, pick_device
from lensrl.models.bridge import capture
from lensrl.models.generation import sampling_settings, token_ids
from lensrl.models.precision import copy_in_bf16
from lensrl.models.references import reference_logprobs
from lensrl.models.sampler import SAMPLERS, Pieces, Sampler, Whole
from lensrl.recipe.layers import OUTSIDE
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.train.training import Training, train
from tests.benchmarks.cuda_models import CUDA, Given, Lengths, Report, phases, random_base, recipe, synchronised
from tests.cli.typed import lensrl

DEVICE = pick_device()
GB = 1e9


def versions(report: Report, quick: bool) -> None:
    """The versions and the card."""
    for package in ("torch", "transformers", "trl", "transformer-lens", "accelerate"):
        report(package, version(package))
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


def small_study(report: Report, quick: bool) -> None:
    """A whole study of the embedded base, through the verbs. Then grafts of it, bit for bit."""
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        recipe_file, study = Path(scratch) / "small.toml", Path(scratch) / "small"
        recipe_file.write_text(
            'model = "tiny:qwen3"\ntask = "arithmetic"\nlayers = [0, 3, 7]\n[rl]\nsteps = 10\n'
            "max_completion_tokens = 5\nlearning_rate = 1.5e-4\n"
            "[evaluation]\nitems = 64\nsamples = 2\nbatch = 256\n[store]\nprobe_items = 8\n",
            encoding="utf-8",
        )
        verbs: list[list[object]] = [
            ["run", recipe_file, "--out", study],
            ["contribution", study, "--json"],
            ["patch", study, "--from", "full-rl", "--layer", "all", "--json"],
            ["patch", study, "--from", "full-rl", "--layer", "all", "--sets", "bottom", "--what", "weights", "--json"],
            ["deltas", study, "--json"],
            ["cka", study, "--json"],
            ["bottleneck", study, "--json"],
            ["verify", study],
        ]
        for words in verbs:
            began = synchronised()
            done = lensrl(*words)
            note = f"exit {done.returncode}" + (f": {done.stderr.strip()[-200:]}" if done.returncode else "")
            report(f"lensrl {words[0]}", synchronised() - began, "s", note)
            if "bottom" in words and done.returncode == 0:
                rows = json.loads(done.stdout)
                found = rows if isinstance(rows, list) else next(v for v in rows.values() if isinstance(v, list))
                whole = [row["recovery"] for row in found if row.get("layers") == "everything"]
                defined = sorted({recovery for recovery in whole if recovery is not None})
                report("recovery of all weights", str(defined), note="1.0 exactly is wanted; undefined ones left out")
        opened = open_study(study)
        base = load_base("tiny:qwen3")
        for name in ("full-rl", "layer-3"):
            run = opened.runs.find(name, 0)
            weights = run_weights(run, base)
            mended = graft(base, base.weights, weights, [*range(base.blocks.n_layers), *OUTSIDE])
            report(f"graft of all parts of {name} is the run", str(_same(mended, weights)))
            moved = {base.blocks.part(key) for key in weights if not torch.equal(weights[key], base.weights[key])}
            report(f"parts that {name} moved", str(sorted(map(str, moved))))
            curve = run.training()
            report(f"sampler mismatch, {name}", float(curve["sampler_mismatch"].mean()), "nats a token")
            report(f"step, {name}", float(curve["step_time"][1:].median()), "s")


def _same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[key].view(torch.int32), other[key].view(torch.int32)) for key in other)


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
    parts = [(p.detach().cpu() - base.weights[n]).flatten() for n, p in training.model.named_parameters()]
    return torch.cat(parts).double().numpy()


def steps_06(report: Report, quick: bool) -> None:
    """Steps of full RL and of single layers in the 0.6B shape."""
    base = random_base("quick" if quick else "0.6B")
    last = base.blocks.n_layers - 1
    micro = 8
    for frozen in ("float32", "bfloat16"):
        for layers in ([0], [last // 2], [last]):
            _step(report, base, layers, frozen=frozen, micro=micro, quick=quick)
    _step(report, base, None, frozen="float32", micro=micro, quick=quick)
    _step(report, base, [last // 2], frozen="bfloat16", micro=micro, quick=quick, gradient_checkpointing=True)
    _step(report, base, [last // 2], frozen="bfloat16", micro=micro, quick=quick, kl_beta=0.01)
    _step(report, base, None, frozen="float32", micro=micro, quick=quick, sampled=True)


def steps_17(report: Report, quick: bool) -> None:
    """Steps of full RL and of the middle layer in the 1.7B shape."""
    base = random_base("quick" if quick else "1.7B")
    layers = [base.blocks.n_layers // 2 - 1]
    _step(report, base, layers, frozen="bfloat16", micro=4, quick=quick)
    _step(report, base, None, frozen="float32", micro=4, quick=quick)
    _step(report, base, layers, frozen="bfloat16", micro=4, quick=quick, sampled=True)


def _step(
    report: Report,
    base: Base,
    layers: list[int] | None,
    *,
    frozen: str,
    micro: int,
    quick: bool,
    sampled: bool = False,
    **rl: Any,
) -> None:
    """Train for two steps, and report the second: the first one also compiles. A step that samples is made once."""
    tokens = 24 if quick else 1024
    settings = recipe(
        steps=1 if sampled else 2, prompts_per_step=4, completions_per_prompt=8, max_completion_tokens=tokens,
        micro_batch=micro, frozen_dtype=None if frozen == "float32" and layers is None else frozen,
        sampler_dtype=None if sampled else "float32", **rl,
    )  # fmt: skip
    name = "full RL" if layers is None else f"layer {layers[0]}, frozen {frozen}"
    name += "".join(f", {key}" for key in rl) + (", sampled" if sampled else "")
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

        training = run() if sampled else _with_given(run)
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


def sampling(report: Report, quick: bool) -> None:
    """The ways to sample, on prompts whose completions have very different lengths."""
    base = random_base("quick" if quick else "0.6B")
    limit, mean = (48, 12) if quick else (512, 100)
    model = _in_bf16(base)
    _end_with(model, 1 / mean)
    settings = sampling_settings([1], base.tokenizer, max_tokens=limit, temperature=1.0)
    prompts = [token_ids(base.tokenizer, item.prompt) for item in Lengths().items("train")]
    for count in (8 if quick else 128, 16 if quick else 512):
        asked = [prompts[row % len(prompts)] for row in range(count)]
        rows = [(0, row) for row in range(count)]
        ways: dict[str, Sampler] = {
            "pieces of 16": Pieces(model, base.tokenizer),
            "to the end": Pieces(model, base.tokenizer, piece=limit),
        }
        if count <= 128:
            ways["generate of transformers"] = Whole(model, base.tokenizer)
            own = base.fresh(device=DEVICE).eval()
            _end_with(own, 1 / mean)
            ways["pieces of 16, the model itself in place of its copy in bf16"] = Pieces(own, base.tokenizer)
        found: dict[str, list[list[int]]] = {}
        for way, sampler in ways.items():
            if CUDA:
                torch.cuda.reset_peak_memory_stats()
            began = synchronised()
            written = sampler.generate(asked, settings, rows)
            seconds = synchronised() - began
            found[way] = [one.tokens for one in written]
            total = sum(map(len, found[way]))
            peak = f", peak {torch.cuda.max_memory_allocated() / GB:.1f} GB" if CUDA else ""
            note = f"{total} tokens, {seconds:.1f} s, longest {max(map(len, found[way]))}{peak}"
            report(f"{way}, {count} prompts", total / seconds, "tokens/s", note)
        equal = np.mean([a == b for a, b in zip(found["pieces of 16"], found["to the end"], strict=True)])
        report(f"rows equal in pieces and to the end, {count} prompts", float(equal), "share", "bf16 kernels differ")


def continuous(report: Report, quick: bool) -> None:
    """The continuous batching of transformers on the same prompts."""
    base = random_base("quick" if quick else "0.6B")
    limit, mean = (48, 12) if quick else (512, 100)
    model = _in_bf16(base)
    _end_with(model, 1 / mean)
    settings = sampling_settings([1], base.tokenizer, max_tokens=limit, temperature=1.0)
    prompts = [token_ids(base.tokenizer, item.prompt) for item in Lengths().items("train")]
    asked = [prompts[row % len(prompts)] for row in range(8 if quick else 128)]
    began = synchronised()
    outputs: Any = model.generate_batch(asked, generation_config=settings, progress_bar=False)
    seconds = synchronised() - began
    total = sum(len(output.generated_tokens) for output in outputs.values())
    report("continuous batching, 128 prompts", total / seconds, "tokens/s", f"{total} tokens, {seconds:.1f} s")


def _in_bf16(base: Base) -> Any:
    """Return the copy that samples in training."""
    return copy_in_bf16(base.model, DEVICE)


def _end_with(model: Any, probability: float) -> None:
    """Make the model end at every token with about this probability: lengths are then geometric."""

    def biased(_module: Any, _given: Any, logits: torch.Tensor) -> torch.Tensor:
        others = logits.float().logsumexp(-1)
        logits[..., 1] = (others + np.log(probability / (1 - probability))).to(logits)
        return logits

    model.get_output_embeddings().register_forward_hook(biased)


def forwards(report: Report, quick: bool) -> None:
    """Activations and log-probabilities of references."""
    base = random_base("quick" if quick else "0.6B")
    items = Arithmetic().items("test")[: 8 if quick else 64]
    model = base.fresh(device=DEVICE)
    for what in ("log-probabilities", "log-probabilities, again"):
        began = synchronised()
        reference_logprobs(model, base.prompts, items, batch=64)
        report(f"{what} of {len(items)} references", synchronised() - began, "s")
    del model
    began = synchronised()
    capture(base.fresh(device=DEVICE), base.prompts, items, base.blocks.n_layers)
    report(f"activations of {len(items)} references", synchronised() - began, "s", "with the copy of the model")


def large_study(report: Report, quick: bool) -> None:
    """A study in the 0.6B shape through the verbs: base, full RL and the middle layer, of one step each."""
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        model, study, recipe_file = (Path(scratch) / name for name in ("model", "study", "study.toml"))
        base = random_base("quick" if quick else "0.6B")
        middle = base.blocks.n_layers // 2 - 1
        base.model.to(torch.bfloat16).save_pretrained(model)  # pyright: ignore[reportArgumentType]
        base.tokenizer.save_pretrained(model)
        del base
        recipe_file.write_text(
            f'model = "{model}"\ntask = "arithmetic"\nlayers = [{middle}]\n[rl]\nsteps = 1\nmax_completion_tokens = 5\n'
            "learning_rate = 1e-4\n[evaluation]\nitems = 64\nsamples = 1\n[store]\nprobe_items = 16\n",
            encoding="utf-8",
        )
        verbs: list[list[object]] = [
            ["run", recipe_file, "--out", study],
            ["patch", study, "--from", "full-rl", "--layer", "all", "--what", "activations", "--json"],
            ["cka", study, "--json"],
            ["deltas", study, "--run", f"layer-{middle}", "--by", "layer", "--json"],
            ["deltas", study, "--by", "layer", "--json"],
        ]
        for words in verbs:
            began = synchronised()
            done = lensrl(*words)
            note = f"exit {done.returncode}" + (f": {done.stderr.strip()[-200:]}" if done.returncode else "")
            asked = " ".join(map(str, (word for word in words if not isinstance(word, Path))))
            report(f"lensrl {asked}", synchronised() - began, "s", note)


Part = Callable[[Report, bool], None]
PARTS: dict[str, tuple[Part, ...]] = {
    "machine": (versions, ceilings),
    "study": (against_cpu, small_study),
    "step": (steps_06,),
    "sampling": (sampling, continuous),
    "step-1.7B": (steps_17,),
    "analyses": (forwards, large_study),
}

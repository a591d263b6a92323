"""Studies on a GPU through the verbs: small ones that must come out right, and the shape of Qwen3-0.6B."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from lensrl import open_study
from lensrl.compare.patching.graft import graft, run_weights
from lensrl.models.base import load_base, pick_device
from lensrl.models.bridge import capture
from lensrl.models.references import reference_logprobs
from lensrl.recipe.layers import OUTSIDE
from lensrl.tasks.arithmetic import Arithmetic
from tests.benchmarks.cuda_models import Report, model_folder, random_base, synchronised
from tests.cli.typed import lensrl

DEVICE = pick_device()
SMALL = """\
model = "tiny:qwen3"
task = "arithmetic"
layers = [0, 3, 7]
rl = { steps = 10, max_completion_tokens = 5, learning_rate = 1.5e-4 }
evaluation = { items = 64, samples = 2, batch = 256 }
store = { probe_items = 8 }
"""
LARGE = """\
model = "MODEL"
task = "arithmetic"
layers = LAYERS
generation = "WAY"
on_no_gain = "go on"
rl = { reward = "random", steps = 1, max_completion_tokens = 128, micro_batch = 8, learning_rate = 1e-5 }
evaluation = { items = 64, samples = 1, batch = 64 }
store = { probe_items = 8 }
"""


def small_study(report: Report, quick: bool) -> None:
    """A whole study of the embedded base, through the verbs. Then grafts of it, bit for bit."""
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        recipe_file, study, shared = (Path(scratch) / name for name in ("small.toml", "small", "shared"))
        recipe_file.write_text(SMALL, encoding="utf-8")
        _verb(report, "run", recipe_file, "--out", study)
        _verb(report, "contribution", study, "--json")
        _verb(report, "patch", study, "--from", "full-rl", "--layer", "all", "--json")
        words = [
            "patch",
            study,
            "--from",
            "full-rl",
            "--layer",
            "all",
            "--sets",
            "bottom",
            "--what",
            "weights",
            "--json",
        ]
        rows = json.loads(_verb(report, *words))
        found = rows if isinstance(rows, list) else next(value for value in rows.values() if isinstance(value, list))
        whole = [row["recovery"] for row in found if row.get("layers") == "everything"]
        defined = sorted({recovery for recovery in whole if recovery is not None})
        report("recovery of all weights", str(defined), note="1.0 exactly is wanted; undefined ones left out")
        for words in (["deltas"], ["cka"], ["bottleneck"], ["deltas", "--device", DEVICE], ["cka", "--device", DEVICE]):
            _verb(report, words[0], study, *words[1:], "--json")
        _verb(report, "verify", study)
        opened, base = open_study(study), load_base("tiny:qwen3")
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
        # Workers are copies of a process that has its libraries loaded, but has not touched CUDA.
        _verb(report, "run", recipe_file, "--out", shared, "--workers", 2)
        _verb(report, "verify", shared)
        again = open_study(shared)
        for name in ("full-rl", "layer-0", "layer-3", "layer-7"):
            one, other = (found.runs.find(name, 0) for found in (opened, again))
            pairs = zip(run_weights(one, base).values(), run_weights(other, base).values(), strict=True)
            apart = max(float((a - b).abs().max()) for a, b in pairs)
            note = f"largest difference of a weight; scores {one.score} and {other.score}"
            report(f"{name} by workers and by one process", apart, "", note)


def _same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[key].view(torch.int32), other[key].view(torch.int32)) for key in other)


def _verb(report: Report, *words: object, note: str = "") -> str:
    """Run a verb, and report its time and how it ended. Return what it printed."""
    began = synchronised()
    done = lensrl(*words)
    ended = f"exit {done.returncode}" + (f": {done.stderr.strip()[-200:]}" if done.returncode else "")
    asked = " ".join(map(str, (word for word in words if not isinstance(word, Path))))
    report(f"lensrl {asked}", synchronised() - began, "s", " ".join([ended, note]).strip())
    return done.stdout


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


def whole_path(report: Report, quick: bool) -> None:
    """`runs/qwen3-0.6b-cpu.toml` on the GPU: every verb, a process each (`tests.benchmarks.whole_path`)."""
    if quick:
        return  # it has one size
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        words = [sys.executable, "-m", "tests.benchmarks.whole_path", str(Path(scratch) / "study")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        print(done.stdout, done.stderr[-2000:], flush=True)
        for line in dict.fromkeys(done.stdout.splitlines()):  # a line comes twice
            if line.startswith("| `lensrl"):
                verb, wall, processor, peak, code = (cell.strip() for cell in line.strip("|").split("|"))
                report(verb.strip("`"), float(wall), "s", f"processor {processor} s, peak {peak} GB, exit {code}")


def workers(report: Report, quick: bool) -> None:
    """A study in the 0.6B shape by one process, and by two workers on the same GPU."""
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        folder = model_folder("quick" if quick else "0.6B", Path(scratch))
        recipe_file = Path(scratch) / "large.toml"
        recipe_file.write_text(_large(folder, "[0, 1, 2]" if quick else "[0, 13, 27]", "pieces"), encoding="utf-8")
        for count in (1, 2):
            options = [] if count == 1 else ["--devices", "0", "--per-device", count]
            _verb(report, "run", recipe_file, "--out", Path(scratch) / f"by-{count}", *options)


def vllm_study(report: Report, quick: bool) -> None:
    """A study in the 0.6B shape that is sampled with vLLM, through the verbs."""
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        folder = model_folder("quick" if quick else "0.6B", Path(scratch))
        recipe_file, study = Path(scratch) / "large.toml", Path(scratch) / "study"
        recipe_file.write_text(_large(folder, "[1]" if quick else "[13]", "vllm"), encoding="utf-8")
        _verb(report, "run", recipe_file, "--out", study)
        _verb(report, "patch", study, "--from", "full-rl", "--layer", "1", "--metric", "score", "--what", "weights")
        _verb(report, "verify", study)
        opened = open_study(study)
        report("versions", str(opened["base"].provenance["versions"]))
        for name, _ in opened.runs:
            if name != "base":
                curve = opened[name].training()
                report(f"{name}: sampler mismatch", float(curve["sampler_mismatch"].mean()), "nats a token")


def _large(folder: Path, layers: str, way: str) -> str:
    return LARGE.replace("MODEL", str(folder)).replace("LAYERS", layers).replace("WAY", way)

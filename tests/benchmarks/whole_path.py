"""Every verb on a study of the shape of Qwen3-0.6B, on a CPU: the time and the peak memory of each.

    python -m tests.benchmarks.whole_path [STUDY]

Makes the random model of `runs/qwen3-0.6b-cpu.toml` (`tests.benchmarks.shapes`) where it is not there yet, and then
the study: the folder `runs/qwen3-0.6b-cpu`, unless another one is given. Each verb is a process of its own. Prints
what each verb says, and a table at the end, with exit codes: a random model gains nothing, so `bottleneck` ends with 2.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "runs" / "qwen3-0.6b-cpu.toml"
TYPED = ["-m", "lensrl_cli.main"]
LIBRARIES = ["-c", "import torch, transformers, trl, transformer_lens.model_bridge, lensrl"]
VERBS = [
    ["run", str(RECIPE), "--out", "STUDY"],
    ["show", "STUDY"],
    ["contribution", "STUDY"],
    ["deltas", "STUDY", "--by", "layer"],
    ["deltas", "STUDY", "--run", "layer-13", "--by", "layer"],
    ["cka", "STUDY"],
    ["patch", "STUDY", "--layer", "all", "--metric", "logprob"],
    ["bottleneck", "STUDY"],
    ["report", "STUDY"],
    ["verify", "STUDY"],
]


def main() -> None:
    """Make the study, run every verb on it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", default=RECIPE.with_suffix(""))
    study = parser.parse_args().study
    if study.exists():
        sys.exit(f"{study} is there, and every verb is to be timed on a study that is made here: remove it")
    names = ("torch", "transformers", "trl", "transformer-lens", "h5py")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"{os.cpu_count()} cores; Python {platform.python_version()}, {versions}")
    # Not in this process: a verb's peak begins with the memory of the process that starts it.
    made = [sys.executable, "-m", "tests.benchmarks.shapes", "0.6B", RECIPE.parent / "data"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    began, rows = time.perf_counter(), []
    libraries = measured(LIBRARIES)
    for words in VERBS:
        typed = [str(study) if word == "STUDY" else word for word in words]
        shown = " ".join(["lensrl", *(os.path.relpath(word) if "/" in word else word for word in typed)])
        print(f"\n$ {shown}", flush=True)
        seconds, processor, peak, code = measured([*TYPED, *typed])
        rows.append(f"| `{shown}` | {seconds:.0f} | {processor:.0f} | {peak / 1e9:.2f} | {code} |")
        print(rows[-1], flush=True)  # also where a later verb is stopped
    minutes = (time.perf_counter() - began) / 60
    print(f"\n{minutes:.0f} minutes for all verbs; libraries alone take {libraries[2] / 1e9:.2f} GB\n")
    print("| verb | time, s | processor, s | peak, GB | exit code |\n|---|---|---|---|---|")
    print("\n".join(rows))


def measured(words: list[str]) -> tuple[float, float, int, int]:
    """Run Python. Return seconds on the wall, seconds of all threads, peak memory in bytes, and the exit code."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, process.returncode


if __name__ == "__main__":
    main()

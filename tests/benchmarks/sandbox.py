"""How many small programs a second the sandbox runs: `python -m tests.benchmarks.sandbox`.

A solution of HumanEval with its tests each time, all of which pass. Beside it: the same with NumPy at hand, and a fresh
interpreter for each, confined by nothing. Medians over rounds, with as many at once as there are cores.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lensrl.recipe import CodeTask
from lensrl.tasks.code import Code
from lensrl.tasks.sandbox import active_layers, run_programs

HUMAN_EVAL = Path(__file__).parents[1] / "data" / "HumanEval.jsonl.gz"
ROUNDS = 5
WANTED = 100


def main() -> None:
    """Print the rates."""
    task = Code(CodeTask(name="code", train=HUMAN_EVAL, test={"human-eval": HUMAN_EVAL}))
    programs = [task.program(item, str(item.reference)) for item in task.items("test")]
    cores = len(os.sched_getaffinity(0))
    confined = statistics.median(len(programs) / in_the_sandbox(programs) for _ in range(ROUNDS))
    numpy = statistics.median(len(programs) / in_the_sandbox(programs, ("numpy",)) for _ in range(ROUNDS))
    plain = statistics.median(len(programs) / in_interpreters(programs, cores) for _ in range(ROUNDS))
    print(f"{cores} cores, {ROUNDS} rounds of {len(programs)} programs; {', '.join(active_layers())}")
    print(f"sandbox             {confined:5.0f} programs/s   ≥ {WANTED}: {'met' if confined >= WANTED else 'missed'}")
    print(f"... with numpy      {numpy:5.0f} programs/s")
    print(f"fresh interpreters  {plain:5.0f} programs/s")


def in_the_sandbox(programs: list[tuple[str, ...]], packages: tuple[str, ...] = ()) -> float:
    start = time.perf_counter()
    outcomes = run_programs(programs, timeout=10, memory=512, packages=packages)
    seconds = time.perf_counter() - start
    if not all(outcome.passed for outcome in outcomes):
        raise SystemExit(f"a solution failed: {next(outcome for outcome in outcomes if not outcome.passed)}")
    return seconds


def in_interpreters(programs: list[tuple[str, ...]], cores: int) -> float:
    def run(program: tuple[str, ...]) -> None:
        command = [sys.executable, "-I", "-S", "-c", "\n".join(program)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    start = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(run, programs))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

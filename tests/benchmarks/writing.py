"""How the processor time of writing a run file is spread over its passes: `python -m tests.benchmarks.writing`.

The file is that of `tests.benchmarks.store`: 403 MB of deltas, and the rest of a run. Times are of the processor,
summed over all threads: other processes change it less than the time on the wall. Beside them stand two peers in the
same rounds: the passes that a proof of exactness cannot do without, and these with what the format promises besides.

Writing into the page cache takes several times as long where its memory is cold, in any of the three. So `write` stands
apart, and ratios are with it and without it.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from threading import Lock, local
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from lensrl.store import write
from lensrl.store.file import deltas
from tests.benchmarks.store import make_weights, write_bare, write_ours

ROUNDS = 7
Spent = dict[str, float]

# The passes over the deltas, and what else a run has.
PASSES: dict[str, tuple[Any, str]] = {
    "after - before; before + delta, compared with after": (deltas, "subtract"),
    "write": (os, "pwrite"),
    "read back": (os, "preadv"),
    "compare with what was read back": (deltas, "same_bits"),
    "count the changed entries": (deltas, "count_changed"),
    "norms": (deltas, "sum_of_squares"),
    "fdatasync, every 32 MiB": (os, "fdatasync"),
    "HDF5 lays out the deltas": (deltas, "_create"),
    "tables: training, scores, activations, with fletcher32": (write, "create"),
    "axes": (write, "axis"),
    "the seal: tables and structure are hashed": (write, "write_seal"),
}


def main() -> None:
    """Print the tables."""
    weights = make_weights()
    rounds: list[dict[str, Spent]] = []
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="lensrl-bench-") as scratch:
        file = Path(scratch, "full-rl.seed-0.h5")
        jobs: dict[str, Callable[[], None]] = {
            "lensrl": lambda: write_ours(file, weights),
            "exactness": lambda: write_bare(file, *weights[:2]),
            "exactness and what the format promises": lambda: write_bare(file, *weights[:2], promised=True),
        }
        for number in range(1 + ROUNDS):
            found: dict[str, Spent] = {}
            for name in [*jobs][:: 1 if number % 2 else -1]:
                file.unlink(missing_ok=True)
                os.sync()
                found[name] = passes_of(jobs[name])
            rounds.append(found)
    rounds = rounds[1:]
    table = Table("lensrl, by pass", "processor, s", box=None, pad_edge=False, header_style="dim")
    for name in rounds[0]["lensrl"]:
        table.add_row(name, f"{statistics.median(one['lensrl'][name] for one in rounds):.3f}")
    console.print(f"{os.cpu_count()} cores, {ROUNDS} rounds, medians; files in {tempfile.gettempdir()}")
    console.print(table)
    for name in [*jobs][1:]:
        ratios = [statistics.median(rest(one[name], parts) / rest(one["lensrl"], parts) for one in rounds)
                  for parts in ((), ("write",))]  # fmt: skip
        seconds = statistics.median(one[name]["all"] for one in rounds)
        console.print(f"{name}: {seconds:.3f} s, {ratios[0]:.2f} of lensrl; without `write` in both: {ratios[1]:.2f}")


def rest(spent: Spent, without: Collection[str]) -> float:
    """Processor seconds of all passes but some."""
    return spent["all"] - sum(spent[name] for name in without)


def passes_of(job: Callable[[], None]) -> Spent:
    """Write a file, and return the processor seconds of every pass. A pass inside another counts as the outer one."""
    spent: Spent = {}
    lock, this_thread = Lock(), local()

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if getattr(this_thread, "inside", False):
                return function(*arguments, **named)
            this_thread.inside, start = True, time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                this_thread.inside = False
                with lock:
                    spent[name] = spent.get(name, 0.0) + time.thread_time() - start

        return call

    class Timed:
        """A sha256 whose updates are timed."""

        def __init__(self) -> None:
            digest = hashlib.sha256()
            self.update, self.hexdigest = around("sha256", digest.update), digest.hexdigest

    with ExitStack() as stack:
        for name, (owner, function) in PASSES.items():
            stack.enter_context(patch.object(owner, function, around(name, getattr(owner, function))))
        stack.enter_context(patch.object(deltas, "hashlib", type("hashlib", (), {"sha256": Timed})))
        start = time.process_time()
        job()
        whole = time.process_time() - start
    spent["the rest: Python, threads, HDF5's header and end"] = whole - sum(spent.values())
    spent["all"] = whole
    return spent


if __name__ == "__main__":
    main()

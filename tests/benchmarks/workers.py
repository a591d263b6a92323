"""How much faster several processes make a study than one: `make bench`, or for a longer look

    python -m tests.benchmarks.workers --rounds 5

`runs/smoke.toml`, ten runs: by `lensrl run` alone, with --workers 1, 2 and 4, by two commands at once, and on a Ray
cluster of two nodes with one worker each. Every process computes with one thread. A row has the shortest time of the
whole command, with its start, and the ratio of the time of one process to it. All files are compared with those of one
process. The load of the machine stands beside each time: the ratio means little while others use the cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.store import verdict
from tests.train.test_engine import assert_same_data
from tests.two_nodes import two_nodes

RECIPE = Path(__file__).parents[2] / "runs" / "smoke.toml"
COMMAND = [sys.executable, "-m", "lensrl_cli.main", "run", str(RECIPE)]
WANTED = {"--workers 2": 1.6}  # times as fast as one process
WAYS: dict[str, list[list[str]]] = {  # the options of every command that runs at once
    "one process": [[]],
    "--workers 1": [["--workers", "1"]],
    "--workers 2": [["--workers", "2"]],
    "--workers 4": [["--workers", "4"]],
    "two commands": [[], []],
    "Ray, two nodes": [["--engine", "ray", "--address", "auto"]],
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    ways = {name: way for name, way in WAYS.items() if find_spec("ray") is not None or not name.startswith("Ray")}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="lensrl-bench-") as scratch:
        for turn in range(rounds):
            for name, commands in ways.items():
                folder = Path(scratch) / str(turn) / name
                folder.parent.mkdir(exist_ok=True)
                around: Callable[[], AbstractContextManager[object]] = two_nodes if "Ray" in name else nullcontext
                with around():
                    times[name].append(seconds(commands, folder))
                assert_same_data(folder, Path(scratch) / "0" / "one process")
    console = Console(width=None if sys.stdout.isatty() else 160)
    alone = min(times["one process"])[0]
    table = Table("way", "shortest", "times as fast", "wanted", "load", box=None, pad_edge=False, header_style="dim")
    for name, found in times.items():
        (best, load), wanted = min(found), WANTED.get(name)
        goal = "" if wanted is None else verdict(alone / best >= wanted, f"≥ {wanted:g}")
        table.add_row(name, f"{best:.1f} s", f"{alone / best:.2f}", goal, f"{load:.1f}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "trl"))
    console.print(f"{os.cpu_count()} cores, {rounds} rounds; Python {platform.python_version()}, {versions}")
    console.print(table)
    console.print("all files have the data of one process")


def seconds(commands: list[list[str]], folder: Path) -> tuple[float, float]:
    """The time until all commands have ended, and how many other processes wanted a core at the start."""
    load, start = running(), time.perf_counter()
    started = [
        subprocess.Popen(
            [*COMMAND, "--out", str(folder), *options], stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for options in commands
    ]  # fmt: skip
    codes = [process.wait() for process in started]
    assert not any(codes), codes
    return time.perf_counter() - start, load


def running() -> float:
    """The mean number of processes that want a core, over two seconds, without this one."""
    counts = []
    for _ in range(20):
        counts.append(int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1)
        time.sleep(0.1)
    return sum(counts) / len(counts)


if __name__ == "__main__":
    main()

"""How long the command takes to start, in units of the libraries that it cannot do without: `make bench`.

Every command runs in fresh processes, in turns with `import typer, rich.console`. A row is the shortest time of the
command over the shortest time of that import. The wanted ratio stands beside it; a miss is printed as a miss.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.store import RUNS, make_study, verdict

ROUNDS = 9
BARE = ["-c", "import typer, rich.console"]
COMMAND = ["-m", "lensrl_cli.main"]
LIBRARIES = ("typer", "rich", "numpy", "h5py", "pydantic", "pandas", "scipy")


def main() -> None:
    """Print the table."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("what", "shortest", "ratio", "wanted", box=None, pad_edge=False, header_style="dim")
    with tempfile.TemporaryDirectory(prefix="lensrl-bench-") as scratch:
        study = str(make_study(Path(scratch) / "study"))
        rows = [
            ("import lensrl", ["-c", "import lensrl"], 1.0),
            ("lensrl --help", [*COMMAND, "--help"], 2.5),
            ("lensrl run --help", [*COMMAND, "run", "--help"], None),  # typer loads pydantic for a verb's options
            (f"lensrl show STUDY, {RUNS} runs", [*COMMAND, "show", study], 10.0),
            ("lensrl verify FILE", [*COMMAND, "verify", f"{study}/base.h5"], None),
            (f"lensrl contribution STUDY, {RUNS} runs", [*COMMAND, "contribution", study], None),
        ]
        times = [[seconds(arguments) for arguments in (BARE, *(row[1] for row in rows))] for _ in range(ROUNDS)]
    bare, *shortest = map(min, zip(*times, strict=True))
    for (name, _, wanted), best in zip(rows, shortest, strict=True):
        goal = "" if wanted is None else verdict(best / bare <= wanted, f"≤ {wanted:g}")
        table.add_row(name, f"{best * 1e3:.0f} ms", f"{best / bare:.2f}", goal)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    console.print(f"{os.cpu_count()} cores, {ROUNDS} rounds; Python {platform.python_version()}, {versions}")
    console.print(f"ratios to `import typer, rich.console`, {bare * 1e3:.0f} ms with the start of Python")
    console.print(table)


def seconds(arguments: list[str]) -> float:
    """The time of one fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

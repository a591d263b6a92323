"""How long the command takes to start, in units of the libraries that it cannot do without: `make bench`.

Every command runs in fresh processes, in turns with `import typer, rich.console` and `import pandas`. A row is the
shortest time of the command over the shortest time of one of these imports. The wanted ratio stands beside it; a miss
is printed as a miss.
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

from tests.benchmarks.store import STUDY, make_study, verdict

ROUNDS = 9
BARE = ["-c", "import typer, rich.console"]
PANDAS = ["-c", "import pandas"]
COMMAND = ["-m", "lensrl_cli.main"]
LIBRARIES = ("typer", "rich", "numpy", "h5py", "pydantic", "pandas", "scipy")


def main() -> None:
    """Print the table."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("what", "shortest", "ratio", "to", "wanted", box=None, pad_edge=False, header_style="dim")
    with tempfile.TemporaryDirectory(prefix="lensrl-bench-") as scratch:
        study = str(make_study(Path(scratch) / "study"))
        rows = [
            ("import lensrl", ["-c", "import lensrl"], BARE, 1.0),
            ("lensrl --help", [*COMMAND, "--help"], BARE, 2.5),
            ("lensrl run --help", [*COMMAND, "run", "--help"], BARE, None),  # typer loads pydantic for a verb's options
            (f"lensrl show STUDY, {STUDY}", [*COMMAND, "show", study], PANDAS, 3.0),
            ("lensrl verify FILE", [*COMMAND, "verify", f"{study}/base.h5"], BARE, None),
            (f"lensrl contribution STUDY, {STUDY}", [*COMMAND, "contribution", study], PANDAS, 3.0),
        ]
        commands = [BARE, PANDAS, *(row[1] for row in rows)]
        times = [[seconds(arguments) for arguments in commands] for _ in range(ROUNDS)]
    bare, pandas, *shortest = map(min, zip(*times, strict=True))
    for (name, _, peer, wanted), best in zip(rows, shortest, strict=True):
        ratio = best / (bare if peer is BARE else pandas)
        goal = "" if wanted is None else verdict(ratio <= wanted, f"≤ {wanted:g}")
        table.add_row(name, f"{best * 1e3:.0f} ms", f"{ratio:.2f}", peer[1].removeprefix("import "), goal)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    console.print(f"{os.cpu_count()} cores, {ROUNDS} rounds; Python {platform.python_version()}, {versions}")
    console.print(
        f"with the start of Python, `import typer, rich.console` takes {bare * 1e3:.0f} ms, `import pandas` "
        f"{pandas * 1e3:.0f} ms"
    )
    console.print(table)


def seconds(arguments: list[str]) -> float:
    """The time of one fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

"""The whole path on a GPU, and what it costs there: correctness, time, memory and tokens per second.

    python -m tests.benchmarks.cuda                    # one GPU with 80 GB, about a quarter of an hour
    python -m tests.benchmarks.cuda --quick            # every section in small, also on a CPU
    python -m tests.benchmarks.cuda --only study,step  # some sections; those of vLLM need it

Each section runs in a process of its own and has a time limit, so that one failure loses no other section. The table is
printed at the end and written to `--out` as cuda.md and cuda.json, after every section. Models are random, made here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

SECTIONS = {  # name -> seconds that a section may take
    "machine": 30,
    "study": 100,
    "step": 90,
    "step-8bit": 60,
    "step-sampled": 90,
    "step-1.7B": 150,
    "sampling": 120,
    "vllm": 180,
    "vllm-step": 180,
    "vllm-1.7B": 180,
    "vllm-study": 240,
    "forwards": 40,
    "workers": 180,
    "whole-path": 240,
}


def main() -> None:
    """Run the sections and print the table, or run one section of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every section in small")
    parser.add_argument("--only", help="sections, separated by commas")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # where a section writes its rows
    parser.add_argument("--section", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section is not None:
        _run_section(arguments.section, arguments.rows, quick=arguments.quick)
        return
    names = arguments.only.split(",") if arguments.only else [*SECTIONS]
    started = time.perf_counter()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="lensrl-cuda-") as scratch:
        for name in names:
            rows += _section(name, Path(scratch) / f"{name}.jsonl", quick=arguments.quick)
            _write(rows, arguments.out)
    print((arguments.out / "cuda.md").read_text(encoding="utf-8"))
    print(f"{time.perf_counter() - started:.0f} s in all")


def _section(name: str, path: Path, *, quick: bool) -> list[dict[str, object]]:
    """Run a section in its own process. Return its rows, and one row for its own time or for how it failed."""
    words = [sys.executable, "-m", "tests.benchmarks.cuda", "--section", name, "--rows", str(path)]
    began = time.perf_counter()
    try:
        code = subprocess.run(words + (["--quick"] if quick else []), timeout=SECTIONS[name], check=False).returncode
        ended = "" if code == 0 else f"ended with {code}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {SECTIONS[name]} s"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    seconds = time.perf_counter() - began
    return [*rows, {"section": name, "what": "the section", "value": round(seconds, 1), "unit": "s", "note": ended}]


def _run_section(name: str, path: Path, *, quick: bool) -> None:
    """Run the parts of a section one after another. The error of one part is a row, and the next part follows."""
    from tests.benchmarks import cuda_sections  # torch, which the process above does not need

    failed = False
    with path.open("w", encoding="utf-8") as file:

        def report(what: str, value: float | str, unit: str = "", note: str = "") -> None:
            row = {"section": name, "what": what, "value": value, "unit": unit, "note": note}
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(name, what, value, unit, note, flush=True)

        for part in cuda_sections.PARTS[name]:
            try:
                part(report, quick)
            except Exception as error:  # the other parts still have something to say
                traceback.print_exc()
                report(part.__name__, "failed", note=f"{type(error).__name__}: {error}"[:300])
                failed = True
    sys.exit(failed)


def _write(rows: list[dict[str, object]], out: Path) -> None:
    """Write cuda.json and cuda.md."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "cuda.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    lines = ["| section | what | value | unit | note |", "|---|---|---|---|---|"]
    for row in rows:
        value = row["value"]
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        note = str(row["note"]).replace("|", "/").replace("\n", " ")
        lines.append(f"| {row['section']} | {row['what']} | {shown} | {row['unit']} | {note} |")
    (out / "cuda.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Calibration of the judge: how often claims are supported or contradicted on simulated studies with a known truth.

`make calibrate` prints the tables of CALIBRATION.md. Each claim of `CLAIMS` says how it is tried (`Claim.trials`) and
under which truths it is true. Counts are kept in a file, a line for a block of studies, so a run that was stopped goes
on where it was.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import pandas as pd

from lensrl.judge import claims
from lensrl.judge.counting import RATES, count, label, shares, sources
from lensrl.judge.odd import ODD, drifting_errors, odd_coverage, rivals, shared_trends, two_humps
from lensrl.judge.simulation import TRUTHS, Trial

STUDIES = 1_000
BLOCK = 100  # studies of a line in the file
FILE = "runs/calibration/counts.jsonl"
KINDS = [  # layers, seeds, items; no seeds and no items: a table. The quick ones come first
    (8, 3, 500), (8, 1, 500), (28, 0, 0), (8, 0, 0), (28, 1, 100), (28, 3, 500), (36, 3, 500), (28, 2, 500),
    (28, 5, 2000),
]  # fmt: skip

Cell = tuple[str, int, int, int]  # truth, layers, seeds, items
Block = tuple[str, int, int, int, int]  # and the number of the block


def calibrate(
    studies: int = STUDIES, kinds: Sequence[tuple[int, int, int]] = KINDS, *, file: str | Path = FILE
) -> pd.DataFrame:
    """Return `shares` of outcomes for every kind of study (layers, seeds, items) and every truth, one row each.

    Blocks that `file` holds are not counted again, unless the code has changed since (`sources`). A block is written
    when it is complete. There is a process for each core that this process may use.
    """
    file, code, size = Path(file), sources(), min(BLOCK, studies)
    file.parent.mkdir(parents=True, exist_ok=True)
    done = _read(file, code, size)
    blocks = -(-studies // size)
    cells: list[Cell] = [(truth, *kind) for kind in kinds for truth in TRUTHS]
    missing: list[Block] = [(*cell, block) for cell in cells for block in range(blocks) if (*cell, block) not in done]
    with file.open("a", encoding="utf-8") as lines, ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        if lines.tell():
            lines.write("\n")  # the last line may be torn
        made = {pool.submit(count, *of[:4], size, of[4]): of for of in missing}
        for future in as_completed(made):
            done[made[future]] = future.result()
            lines.write(json.dumps({"code": code, "of": made[future], "counts": future.result()}) + "\n")
            lines.flush()
    found: dict[Cell, Counter[str]] = defaultdict(Counter)
    for of, counts in done.items():
        if of[4] < blocks:
            found[of[:4]] += counts
    index = pd.MultiIndex.from_tuples(cells, names=["truth", "layers", "seeds", "items"])
    return pd.DataFrame([shares(found[cell]) for cell in cells], index=index)


def _read(file: Path, code: str, size: int) -> dict[Block, Counter[str]]:
    """Read the blocks of this size that this code has counted; a line that is not whole is left out."""
    done: dict[Block, Counter[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            block = json.loads(line)
        except json.JSONDecodeError:
            continue
        if block["code"] == code and block["counts"]["studies"] == size:
            done[tuple(block["of"])] = Counter(block["counts"])
    return done


def summary(rates: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return one table for the intervals and one for each claim, with one row per kind of study (and trial).

    `studies` is the number of simulated studies of each truth; the smallest, where truths differ.
    Error rates are the largest over truths, and name the truth. Power is the smallest and the largest. `rightly
    contradicted` is the rate at which a claim that is false is contradicted. "–": no study of this kind can test the
    claim, or no truth counts.
    """
    kinds = list(rates.groupby(level=["layers", "seeds", "items"], sort=False))
    overall = [
        _kind(kind)
        | {
            "studies": f"{part['studies'].min():,.0f}",
            "coverage": _range(part["coverage"]),
            "undefined": f"{part['undefined'].max():.2f}",
            "family": _worst(part["family"].droplevel(["layers", "seeds", "items"])),
        }
        for kind, part in kinds
    ]
    tables = {"": pd.DataFrame(overall)}
    for claim in claims.CLAIMS:
        rows = [
            _kind(kind)
            | {"trial": trial.name or "the study", "studies": f"{part['studies'].min():,.0f}"}
            | _row(part, claim.name, trial)
            for trial in claim.trials
            for kind, part in kinds
        ]
        tables[claim.name] = pd.DataFrame(rows)
    return tables


def _kind(kind: Hashable) -> dict[str, object]:
    layers, seeds, items = kind  # pyright: ignore[reportGeneralTypeIssues]
    return {"layers": layers, "seeds": seeds or "table", "items": items or "–"}


def _row(part: pd.DataFrame, claim: str, trial: Trial) -> dict[str, str]:
    """Return the four rates of a claim in one trial, over the truths that each of them counts."""
    by_truth = part.droplevel(["layers", "seeds", "items"])
    row = {}
    for rate in RATES:
        column = f"{label(claim, trial.name)}: {rate}"
        shown = by_truth.reindex(columns=[column])[column].dropna()
        row[rate] = _worst(shown) if rate.startswith("false") else _range(shown)
    return row


def _worst(rates: pd.Series) -> str:
    """Format the largest of several rates, with the truth that has it."""
    if rates.isna().all():
        return "–"
    return f"{rates.max():.3f} ({rates.idxmax()})" if rates.max() > 0 else "0.000"


def _range(rates: pd.Series) -> str:
    """Format the smallest and the largest of several rates."""
    if rates.isna().all():
        return "–"
    low, high = f"{rates.min():.3f}", f"{rates.max():.3f}"
    return low if low == high else f"{low} … {high}"


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(map(str, table)) + " |", "|---" * len(table.columns) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def main() -> None:
    """Print the tables as Markdown: `python -m lensrl.judge.calibration [STUDIES [FILE]]`."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else STUDIES
    file = Path(sys.argv[2] if len(sys.argv) > 2 else FILE)
    print(f"Counts in {file}, of the sources {sources()}.\n")
    for name, table in summary(calibrate(studies, file=file)).items():
        print(f"### {name}\n" if name else "### Intervals, and whole verdicts\n")
        print(markdown(table) + "\n")
    print("### Odd studies\n\n" + markdown(pd.DataFrame([odd_coverage(kind, studies) for kind in ODD])) + "\n")
    print("### Shared trends\n\n" + markdown(shared_trends(studies)) + "\n")
    print("### Rivals\n\n" + markdown(rivals(studies)) + "\n")
    print("### Two humps\n\n" + markdown(two_humps(studies)) + "\n")
    print("### Errors that drift\n\n" + markdown(drifting_errors(studies)))


if __name__ == "__main__":
    main()

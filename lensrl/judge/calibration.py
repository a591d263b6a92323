"""Calibration of the judge: how often claims are supported or contradicted on simulated studies with a known truth.

`make calibrate` prints the tables of CALIBRATION.md. Each claim of `CLAIMS` says how it is tried (`Claim.trials`) and
under which truths it is true.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from lensrl.judge import claims
from lensrl.judge.findings import judge
from lensrl.judge.measurements import MOST, Measurements, measure_noise
from lensrl.judge.simulation import TABLE_ERROR, TRUTHS, Draws, Trial, simulate
from lensrl.measures.gains import CONFIDENCE, Gains
from lensrl.measures.halves import best_reaches, contributions_on_halves

STUDIES = 1_000
KINDS = [  # layers, seeds, items; no seeds and no items: a table
    (8, 0, 0), (8, 1, 500), (8, 3, 500), (28, 0, 0), (28, 1, 100), (28, 2, 500), (28, 3, 500), (28, 5, 2000),
    (36, 3, 500),
]  # fmt: skip
VERDICTS = ("supported", "contradicted", "undetermined")
RATES = {  # an error rate -> the verdict that it counts, and whether it counts where the claim is true
    "false support": ("supported", False),
    "false contradiction": ("contradicted", True),
    "power": ("supported", True),
    "contradicted": ("contradicted", False),  # rightly
}


def cell(truth: str, n_layers: int, seeds: int, items: int, studies: int, seed: int = 0) -> dict[str, float]:
    """Simulate studies of one kind under one of the `TRUTHS`, and return the rates of all outcomes.

    `CLAIM: VERDICT`, or `CLAIM, TRIAL: VERDICT`: the share of studies with this verdict, each claim judged alone. A
    trial that these studies cannot test has no rate. `family`: the share of whole verdicts with any false claim, after
    Holm's correction, with the first trial of every claim. `coverage`: how often the interval of C_l holds the truth.
    `undefined`: the share of studies without a certain gain of full RL; the other rates leave these studies out.
    """
    rng = np.random.default_rng([seed, n_layers, seeds, items, *truth.encode()])
    verdicts: Counter[tuple[str, str]] = Counter()
    tested: Counter[str] = Counter()
    covered, defined, wrong = 0.0, 0, 0
    for _ in range(studies):
        profile = TRUTHS[truth](np.arange(n_layers) / (n_layers - 1), rng)
        study = _measure_table(profile, rng) if seeds == 0 else _measure_study(profile, seeds, items, rng)
        if study is None:
            continue
        defined += 1
        covered += _covered(study.gains, profile)

        # every claim, alone, on the study with the predictors that the trial plants; the first trials together
        drawn = Draws(profile, study.contribution, seeds, rng)
        first = []
        for claim in claims.CLAIMS:
            for trial in claim.trials:
                if trial.only and truth not in trial.only:
                    continue
                finding = claim.find(replace(study, **trial.plant(drawn)))
                first += [(trial, finding)] if trial is claim.trials[0] else []
                if not finding.reason:
                    name = _label(claim.name, trial.name)
                    tested[name] += 1
                    verdicts[name, judge([finding])[0].verdict] += 1
        judged = judge([finding for _, finding in first])
        wrong += any(_is_wrong(trial, f.verdict, truth) for (trial, _), f in zip(first, judged, strict=True))
    rates = {f"{name}: {verdict}": verdicts[name, verdict] / tested[name] for name in tested for verdict in VERDICTS}
    count = max(defined, 1)
    return rates | {"family": wrong / count, "coverage": covered / count, "undefined": 1 - defined / studies}


def _covered(gains: Gains, truth: np.ndarray) -> float:
    """Return the share of layers whose Fieller interval holds the truth c: S_l - c S_full does not differ from 0."""
    n = len(truth)
    against_truth = gains.contrast(np.eye(n, n + 1) - truth[:, None] * np.eye(n + 1)[-1])
    return float(np.mean(np.minimum(against_truth.p_above(), against_truth.p_below()) >= (1 - CONFIDENCE) / 2))


def _is_wrong(trial: Trial, verdict: str, truth: str) -> bool:
    if truth in trial.either:
        return False
    return verdict == ("contradicted" if truth in trial.true_under else "supported")


def _measure_study(profile: np.ndarray, seeds: int, items: int, rng: np.random.Generator) -> Measurements | None:
    """Measure a simulated study: it has a profile, items and seeds, but no predictors and no other study.

    None where full RL has no certain gain.
    """
    n = len(profile)
    drawn = simulate(profile, seeds, items, rng).gains
    benchmark = np.full(items, "items")
    gains = Gains.from_items(drawn, tuple(benchmark.tolist()))
    if 0 in gains.contrast(np.eye(n + 1)[-1]).interval():
        return None
    return Measurements(
        np.arange(n),
        n,
        gains,
        best=best_reaches(drawn, benchmark, MOST),
        noise=measure_noise(gains),
        halves=contributions_on_halves(drawn, benchmark),
    )


def _measure_table(profile: np.ndarray, rng: np.random.Generator) -> Measurements:
    """Measure a simulated table: the profile with errors, and nothing else."""
    n = len(profile)
    return Measurements(np.arange(n), n, Gains.from_profile(profile + rng.normal(0, TABLE_ERROR, n)))


def _label(claim: str, trial: str) -> str:
    return f"{claim}, {trial}" if trial else claim


class Odd(NamedTuple):
    """A kind of study in which the interval of C_l may miss the truth."""

    name: str
    seeds: int
    benchmarks: tuple[int, ...]  # items of each
    base: float = 0.45
    full_spread: float = 1.0


ODD = (
    Odd("30 items", 1, (30,)),
    Odd("30 items, 3 seeds", 3, (30,)),
    Odd("benchmarks of 40, 500 and 1,319 items", 1, (40, 500, 1319)),
    Odd("base near 0", 3, (500,), base=0.03),
    Odd("full RL near 1", 3, (500,), base=0.72),
    Odd("full RL varies 10 times as much (variance), 2 seeds", 2, (500,), full_spread=10**0.5),
    Odd("full RL varies 10 times as much (variance), 3 seeds", 3, (500,), full_spread=10**0.5),
    Odd("full RL varies 10 times as much (variance), 5 seeds", 5, (500,), full_spread=10**0.5),
)


def odd_coverage(kind: Odd, studies: int) -> dict[str, object]:
    """Return how often the interval of C_l holds the truth in studies of an odd kind, and how often it is undefined.

    `warned`: the share of defined studies with a warning beside the interval.
    """
    rng = np.random.default_rng([7, *kind.name.encode()])
    profile = TRUTHS["monotone"](np.arange(8) / 7, rng)
    benchmark = [f"benchmark {i}" for i, items in enumerate(kind.benchmarks) for _ in range(items)]
    covered, warned, defined = 0.0, 0, 0
    for _ in range(studies):
        drawn = simulate(profile, kind.seeds, len(benchmark), rng, base=kind.base, full_spread=kind.full_spread)
        gains = Gains.from_items(drawn.gains, benchmark)
        if 0 in gains.contrast(np.eye(9)[-1]).interval():
            continue
        defined += 1
        warned += bool(gains.warnings())
        covered += _covered(gains, profile)
    count = max(defined, 1)
    return {
        "kind": kind.name,
        "coverage": f"{covered / count:.3f}",
        "undefined": f"{1 - defined / studies:.2f}",
        "warned": f"{warned / count:.2f}",
    }


def calibrate(studies: int = STUDIES, kinds: Sequence[tuple[int, int, int]] = KINDS) -> pd.DataFrame:
    """Return the rates of `cell` for every kind of study (layers, seeds, items) and every truth, one row each."""
    cells = [(truth, *kind, studies) for kind in kinds for truth in TRUTHS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rates = list(pool.map(_cell, cells))
    index = pd.MultiIndex.from_tuples([c[:4] for c in cells], names=["truth", "layers", "seeds", "items"])
    return pd.DataFrame(rates, index=index)


def _cell(arguments: tuple[str, int, int, int, int]) -> dict[str, float]:
    return cell(*arguments)


def summary(rates: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return one table for the intervals and one for each claim, with one row per kind of study (and trial).

    Error rates are the largest over truths, and name the truth. Power is the smallest and the largest. `contradicted`
    is the largest rate at which a claim that is false is contradicted. "–": no study of this kind can test the claim,
    or no truth counts.
    """
    kinds = list(rates.groupby(level=["layers", "seeds", "items"], sort=False))
    overall = [
        _kind(kind)
        | {
            "coverage": _range(part["coverage"]),
            "undefined": f"{part['undefined'].max():.2f}",
            "family": _worst(part["family"].droplevel(["layers", "seeds", "items"])),
        }
        for kind, part in kinds
    ]
    tables = {"": pd.DataFrame(overall)}
    for claim in claims.CLAIMS:
        rows = [
            _kind(kind) | {"trial": trial.name or "the study"} | _row(part, claim.name, trial)
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
    for rate, (verdict, where_true) in RATES.items():
        counted = [t for t in by_truth.index if t not in trial.either and (t in trial.true_under) is where_true]
        column = f"{_label(claim, trial.name)}: {verdict}"
        shown = by_truth.reindex(index=counted, columns=[column])[column]
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
    """Print the tables as Markdown: `python -m lensrl.judge.calibration [STUDIES]`."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else STUDIES
    print(f"{studies:,} simulated studies per truth and kind.\n")
    for name, table in summary(calibrate(studies)).items():
        print(f"### {name}\n" if name else "### Intervals, and whole verdicts\n")
        print(markdown(table) + "\n")
    print("### Odd studies\n\n" + markdown(pd.DataFrame([odd_coverage(kind, studies) for kind in ODD])))


if __name__ == "__main__":
    main()

"""Counting errors of the judge on simulated studies: how often a claim gets which verdict, under one known truth.

Studies are counted in blocks, each with random numbers of its own. Counts of blocks add up, and `shares` divides them.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from lensrl.judge import claims
from lensrl.judge.findings import judge
from lensrl.judge.measurements import MOST, Measurements, measure_noise
from lensrl.judge.simulation import TABLE_ERROR, TRUTHS, Draws, share_covered, simulate
from lensrl.measures.gains import Gains
from lensrl.measures.halves import best_reaches, contributions_on_halves

VERDICTS = ("supported", "contradicted", "undetermined")
RATES = {  # an error rate -> the verdict that it counts, and whether it counts where the claim is true
    "false support": ("supported", False),
    "false contradiction": ("contradicted", True),
    "power": ("supported", True),
    "rightly contradicted": ("contradicted", False),
}
_SAID = {True: "true", False: "false", None: "either"}


def count(truth: str, n_layers: int, seeds: int, items: int, studies: int, seed: int = 0) -> Counter[str]:
    """Simulate studies of one kind under one of the `TRUTHS`, and count all outcomes.

    `CLAIM|VERDICT|true`, or `CLAIM, TRIAL|VERDICT|true`: studies with this verdict, the claim judged alone, in which it
    is `true`, `false`, or `either`, as chance decides. `family`: whole verdicts with any false claim, after Holm's
    correction, with the first trial of every claim. `covered`: intervals of C_l that hold the truth, as a number of
    studies. `studies`, and `defined`: those with a certain gain of full RL, which alone are counted.
    """
    rng = np.random.default_rng([seed, n_layers, seeds, items, *truth.encode()])
    counts: Counter[str] = Counter(studies=studies)
    for _ in range(studies):
        profile = TRUTHS[truth](np.arange(n_layers) / (n_layers - 1), rng)
        study = _measure_table(profile, rng) if seeds == 0 else _measure_study(profile, seeds, items, rng)
        if study is None:
            continue
        counts["defined"] += 1
        counts["covered"] += share_covered(study.gains, profile)  # pyright: ignore[reportArgumentType]

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
                    true = _SAID[trial.is_true(truth, profile)]
                    counts[f"{label(claim.name, trial.name)}|{judge([finding])[0].verdict}|{true}"] += 1
        judged = judge([finding for _, finding in first])
        counts["family"] += any(
            _is_wrong(trial.is_true(truth, profile), f.verdict) for (trial, _), f in zip(first, judged, strict=True)
        )
    return counts


def shares(counts: Counter[str]) -> dict[str, float]:
    """Return the shares of all outcomes that were counted.

    `CLAIM: VERDICT`, or `CLAIM, TRIAL: VERDICT`: the share of studies with this verdict. A trial that these studies
    cannot test has no rate. With one of `RATES` in place of the verdict: the share among the studies in which the claim
    is true, or false. `family` and `coverage`: shares of the defined studies. `undefined`: the share without a certain
    gain of full RL. `studies`: their number.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(key.split("|")[0] for key in counts if "|" in key):
        of = {(v, true): counts[f"{name}|{v}|{said}"] for v in VERDICTS for true, said in _SAID.items()}
        for verdict in VERDICTS:
            found[f"{name}: {verdict}"] = sum(of[verdict, true] for true in _SAID) / sum(of.values())
        for rate, (verdict, true) in RATES.items():
            tested = sum(of[v, true] for v in VERDICTS)
            if tested:
                found[f"{name}: {rate}"] = of[verdict, true] / tested
    defined = max(counts["defined"], 1)
    return found | {
        "family": counts["family"] / defined,
        "coverage": counts["covered"] / defined,
        "undefined": 1 - counts["defined"] / counts["studies"],
        "studies": counts["studies"],
    }


def cell(truth: str, n_layers: int, seeds: int, items: int, studies: int, seed: int = 0) -> dict[str, float]:
    """Return the `shares` of one `count`."""
    return shares(count(truth, n_layers, seeds, items, studies, seed))


def label(claim: str, trial: str) -> str:
    """Name a claim and the trial that tries it."""
    return f"{claim}, {trial}" if trial else claim


def sources() -> str:
    """Return a digest of the code that decides the counts: this module and what it imports from `judge` and `measures`.

    Comments, docstrings and layout do not change it.
    """
    digest, house = hashlib.sha256(), Path(__file__).parents[1]
    open_, read = [Path(__file__)], set[Path]()
    trees: dict[str, str] = {}
    while open_:
        file = open_.pop()
        read.add(file)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                del node.body[0]
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("lensrl.judge", "lensrl.measures")):
                place = house.parent.joinpath(*str(node.module).split("."))
                named = [place / f"{alias.name}.py" for alias in node.names] if place.is_dir() else []
                open_ += [new for new in (*named, place.with_suffix(".py")) if new.is_file() and new not in read]
        trees[file.relative_to(house).as_posix()] = ast.dump(tree)
    for name in sorted(trees):
        digest.update(trees[name].encode())
    return digest.hexdigest()[:12]


def _is_wrong(true: bool | None, verdict: str) -> bool:
    return true is not None and verdict == ("contradicted" if true else "supported")


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

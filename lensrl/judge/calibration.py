"""Calibration of the judge: how often claims are supported or contradicted on simulated studies with a known truth.

`make calibrate` prints the tables of CALIBRATION.md. Each claim of `CLAIMS` says how it is tried (`Claim.trials`) and
under which truths it is true.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd

from lensrl.judge import claims
from lensrl.judge.findings import judge
from lensrl.judge.measurements import Measurements, fit_shapes
from lensrl.judge.simulation import TRUTHS, Simulated, draw_predictors, simulate
from lensrl.measures.gains import Gains
from lensrl.measures.halves import contributions_on_halves

STUDIES = 1_000
SHAPE_DRAWS = 99
KINDS = [(8, 1, 500), (8, 3, 500), (28, 1, 100), (28, 2, 500), (28, 3, 500), (28, 5, 2000), (36, 3, 500)]
VERDICTS = ("supported", "contradicted", "undetermined")
RATES = {  # an error rate -> the verdict that it counts, and whether it counts where the claim is true
    "false": ("supported", False),
    "wrongly denied": ("contradicted", True),
    "power": ("supported", True),
}


def cell(truth: str, n_layers: int, seeds: int, items: int, studies: int, seed: int = 0) -> dict[str, float]:
    """Simulate studies of one kind under one of the `TRUTHS`, and return the rates of all outcomes.

    `CLAIM: VERDICT`, or `CLAIM, TRIAL: VERDICT`: the share of studies with this verdict, each claim judged alone. A
    trial that these studies cannot test has no rate. `coverage`: how often the interval of C_l holds the truth.
    `undefined`: the share of studies without a certain gain of full RL; the other rates leave these studies out.
    """
    rng = np.random.default_rng([seed, n_layers, seeds, items, *truth.encode()])
    layers = np.arange(n_layers)
    profile = TRUTHS[truth](layers / (n_layers - 1))
    verdicts: Counter[tuple[str, str]] = Counter()
    tested: Counter[str] = Counter()
    covered, defined, undefined = 0.0, 0, 0
    for _ in range(studies):
        study = simulate(profile, seeds, items, rng)
        gains = Gains.from_items(study.gains, ("items",) * items)
        if 0 in gains.contrast(np.eye(n_layers + 1)[-1]).interval():
            undefined += 1
            continue
        defined += 1
        covered += np.mean([c in interval for c, interval in zip(study.truth.tolist(), gains.ratios(), strict=True)])

        # every claim, alone, on the study with the predictors that the trial plants
        measured = _measure(study, gains, layers)
        drawn = draw_predictors(study.truth, gains.contributions, rng)
        for claim in claims.CLAIMS:
            for trial in claim.trials:
                finding = claim.find(replace(measured, **trial.plant(drawn)))
                if not finding.reason:
                    name = _label(claim.name, trial.name)
                    tested[name] += 1
                    verdicts[name, judge([finding])[0].verdict] += 1
    rates = {f"{name}: {verdict}": verdicts[name, verdict] / tested[name] for name in tested for verdict in VERDICTS}
    return rates | {"coverage": covered / max(defined, 1), "undefined": undefined / studies}


def _measure(study: Simulated, gains: Gains, layers: np.ndarray) -> Measurements:
    """Measure a simulated study: it has a profile, items and seeds, but no predictors and no other study."""
    n = len(layers)
    shapes, _ = fit_shapes(gains, layers, n, draws=SHAPE_DRAWS)
    halves = contributions_on_halves(study.gains, np.full(study.gains.shape[2], "items"))
    return Measurements(layers, n, gains, shapes, halves=halves)


def _label(claim: str, trial: str) -> str:
    return f"{claim}, {trial}" if trial else claim


def calibrate(studies: int = STUDIES, kinds: Sequence[tuple[int, int, int]] = KINDS) -> pd.DataFrame:
    """Return the rates of `cell` for every kind of study (layers, seeds, items) and every truth, one row each."""
    cells = [(truth, *kind, studies) for kind in kinds for truth in TRUTHS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rates = list(pool.map(_cell, cells))
    index = pd.MultiIndex.from_tuples([c[:4] for c in cells], names=["truth", "layers", "seeds", "items"])
    return pd.DataFrame(rates, index=index)


def _cell(arguments: tuple[str, int, int, int, int]) -> dict[str, float]:
    return cell(*arguments)


def summary(rates: pd.DataFrame) -> pd.DataFrame:
    """Return one row per kind of study: the smallest and the largest coverage and error rates over truths.

    A column `CLAIM, RATE` ranges over the truths under which the claim is false or true, as `RATES` says. It holds "–"
    where studies of this kind cannot test the claim.
    """
    rows = []
    for kind, part in rates.groupby(level=["layers", "seeds", "items"], sort=False):
        by_truth = part.droplevel(["layers", "seeds", "items"])
        row: dict[str, object] = dict(zip(("layers", "seeds", "items"), kind, strict=True))
        row["coverage"] = _range(by_truth["coverage"])
        row["undefined"] = f"{by_truth['undefined'].max():.2f}"
        for claim in claims.CLAIMS:
            for trial in claim.trials:
                for rate in trial.rates:
                    verdict, where_true = RATES[rate]
                    counted = [truth for truth in by_truth.index if (truth in trial.true_under) is where_true]
                    column = f"{_label(claim.name, trial.name)}: {verdict}"
                    row[f"{claim.name}, {rate}"] = _range(by_truth.reindex(index=counted, columns=[column])[column])
        rows.append(row)
    return pd.DataFrame(rows)


def _range(rates: pd.Series) -> str:
    """Format the smallest and the largest of several rates."""
    if rates.isna().all():
        return "–"
    low, high = f"{rates.min():.3f}", f"{rates.max():.3f}"
    return low if low == high else f"{low} … {high}"


def main() -> None:
    """Print the tables as Markdown: `python -m lensrl.judge.calibration [STUDIES]`."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else STUDIES
    print(f"{studies:,} simulated studies per truth and kind; smallest and largest rate over truths.\n")
    table = summary(calibrate(studies))
    by_claim = ([str(c) for c in table if str(c).startswith(f"{claim.name}, ")] for claim in claims.CLAIMS)
    for columns in (["coverage", "undefined"], *(columns for columns in by_claim if columns)):
        shown = table[["layers", "seeds", "items", *columns]]
        print("| " + " | ".join(map(str, shown)) + " |")
        print("|---" * len(shown.columns) + "|")
        print("\n".join("| " + " | ".join(map(str, row)) + " |" for row in shown.itertuples(index=False)) + "\n")


if __name__ == "__main__":
    main()

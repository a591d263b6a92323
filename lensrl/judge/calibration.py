"""The judge judged: claims on simulated studies whose truth is known. `make calibrate` prints the table.

A simulated study has a profile of true contributions; every run's true skill on the logit scale is what gives it its
expected gain, plus a shift of its own for each training seed; an item is solved with probability
sigmoid(skill - difficulty + how much this run likes this item). Scores are means over a few samples, items are shared
by all runs, as in a study. With one seed, the truth is that of its own runs, which have the profile exactly.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy.special import expit

from lensrl.judge.claims import Claim, concentration, convergence, judge, middle, not_size, shape, stability, tracks
from lensrl.measures.gains import Gains
from lensrl.measures.halves import contributions_on_halves

BASE_SCORE, FULL_GAIN = 0.45, 0.25
DIFFICULTY, SEED = 1.2, 0.12  # standard deviations, in logits: of items; of a training seed
TASTE, OWN_TASTE = 0.4, 0.6  # of how much a run likes an item: with every seed; with this seed alone
SAMPLES = 4
STUDIES = 1_000

TRUTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda x: np.full(len(x), 0.7),
    "high": lambda x: np.full(len(x), 0.95),
    "monotone": lambda x: 0.25 + 0.7 * x,
    "short": lambda x: 0.2 + 0.55 * x,  # no layer recovers 80 %
    "cliff": lambda x: np.where(x < 0.66, 0.95, 0.4),
    "hump": lambda x: 0.3 + 0.65 * np.exp(-(((x - 0.5) / 0.17) ** 2) / 2),
}
HOLDS = {  # under which truths a claim is true; the others make a verdict of "supported" a false one
    "concentration": {"monotone", "hump"},
    "middle": {"hump"},
    "shape": {"hump"},
    "stability": {"monotone", "short", "hump"},
}


@dataclass(frozen=True)
class Simulated:
    """Gains of every layer and, last, of full RL, and the contributions that are true of them."""

    gains: Float64[np.ndarray, "gain seed item"]
    truth: Float64[np.ndarray, " layer"]


def simulate(
    contribution: Float64[np.ndarray, " layer"], seeds: int, items: int, rng: np.random.Generator
) -> Simulated:
    """A study with these expected contributions."""
    wanted = BASE_SCORE + FULL_GAIN * np.append(contribution, 1.0)
    spread = SEED if seeds > 1 else 0.0
    base_skill = _skill(np.array([BASE_SCORE]), 0.0)
    skill = _skill(wanted, spread)
    shifts = rng.normal(0, spread, (len(wanted), seeds))
    difficulty = rng.normal(0, DIFFICULTY, items)

    def scores(skills: np.ndarray) -> np.ndarray:
        taste = rng.normal(0, TASTE, (len(skills), 1, items)) + rng.normal(0, OWN_TASTE, (*skills.shape, items))
        return rng.binomial(SAMPLES, expit(skills[..., None] - difficulty + taste)) / SAMPLES

    gains = scores(skill[:, None] + shifts) - scores(base_skill[:, None])
    return Simulated(gains, contribution)


def _expected(skill: np.ndarray, spread: float) -> np.ndarray:
    """The score on endless items, averaged over seeds that shift the skill by N(0, spread^2)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    deviation = np.sqrt(DIFFICULTY**2 + TASTE**2 + OWN_TASTE**2 + spread**2)
    return expit(skill[..., None] + deviation * nodes) @ (weights / weights.sum())


def _skill(score: np.ndarray, spread: float) -> np.ndarray:
    """The inverse of `_expected`."""
    return np.interp(score, *_curve(spread))


@lru_cache(maxsize=4)
def _curve(spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Expected scores, and the skills that have them."""
    skills = np.linspace(-12, 12, 4001)
    return _expected(skills, spread), skills


def cell(truth: str, n_layers: int, seeds: int, items: int, studies: int, seed: int = 0) -> dict[str, float]:
    """Rates over simulated studies: verdicts by claim, each judged alone, and how often C_l's interval covers."""
    rng = np.random.default_rng([seed, n_layers, seeds, items, *truth.encode()])
    layers = np.arange(n_layers)
    profile = TRUTHS[truth](layers / (n_layers - 1))
    verdicts: Counter[tuple[str, str]] = Counter()
    asked: Counter[str] = Counter()
    covered, defined, undefined = 0.0, 0, 0
    for _ in range(studies):
        study = simulate(profile, seeds, items, rng)
        gains = Gains.from_items(study.gains, ("items",) * items)
        if 0 in gains.contrast(np.eye(n_layers + 1)[-1]).interval():
            undefined += 1
            continue
        defined += 1
        intervals = gains.ratios()
        covered += np.mean([truth in interval for truth, interval in zip(study.truth.tolist(), intervals, strict=True)])
        for name, claim in _claims(study, gains, layers, rng):
            asked[name] += 1
            verdicts[name, judge([claim])[0].verdict] += 1
    rates = {f"{name}: {verdict}": count / asked[name] for (name, verdict), count in verdicts.items()}
    return rates | {"coverage": covered / max(defined, 1), "undefined": undefined / studies}


def _claims(
    study: Simulated, gains: Gains, layers: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, Claim]]:
    n = len(layers)
    contribution = gains.mean[:-1] / gains.mean[-1]
    yield "concentration", concentration(gains)
    yield "middle", middle(gains, layers, n)
    yield "shape", shape(contribution, layers, n, draws=99)[0]
    if study.gains.shape[1] > 1:
        yield (
            "stability",
            stability(contributions_on_halves(study.gains, np.full(study.gains.shape[2], "items")), contribution),
        )
    unrelated, other = _drifting(n, rng), _drifting(n, rng)
    spread = max(float(study.truth.std()), 0.1)
    related = study.truth + rng.normal(0, 0.3 * spread, n)
    half = contribution + rng.normal(0, float(contribution.std()), n)
    yield "not size, unrelated", not_size(layers, contribution, {"full": unrelated, "single": other})
    yield "not size, half explained", not_size(layers, contribution, {"full": half})
    yield "tracks, unrelated", tracks("representation", layers, contribution, {"growth": unrelated})
    yield "tracks, related", tracks("representation", layers, contribution, {"growth": related})
    yield "convergence, unrelated", convergence(layers, contribution, 0.3 + 0.2 * unrelated)


def _drifting(n: int, rng: np.random.Generator, memory: float = 0.6) -> np.ndarray:
    """A predictor that has nothing to do with the contribution, but resembles itself in neighbouring layers."""
    series = rng.normal(size=n)
    for layer in range(1, n):
        series[layer] = memory * series[layer - 1] + np.sqrt(1 - memory**2) * series[layer]
    return series


KINDS = [(8, 1, 500), (8, 3, 500), (28, 1, 100), (28, 2, 500), (28, 3, 500), (28, 5, 2000), (36, 3, 500)]


def calibrate(studies: int = STUDIES, kinds: Sequence[tuple[int, int, int]] = KINDS) -> pd.DataFrame:
    """The rates of `cell` for every kind of study (layers, seeds, items) and truth, one row each."""
    cells = [(truth, *kind, studies) for kind in kinds for truth in TRUTHS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rates = list(pool.map(_cell, cells))
    index = pd.MultiIndex.from_tuples([c[:4] for c in cells], names=["truth", "layers", "seeds", "items"])
    return pd.DataFrame(rates, index=index)


def _cell(arguments: tuple[str, int, int, int, int]) -> dict[str, float]:
    return cell(*arguments)


def summary(rates: pd.DataFrame) -> pd.DataFrame:
    """One row per kind of study: coverage over truths, and for every claim its worst rate of false support and its
    power, over the truths under which it is false and true.
    """
    rows = []
    for kind, part in rates.groupby(level=["layers", "seeds", "items"], sort=False):
        by_truth = part.droplevel(["layers", "seeds", "items"])
        row: dict[str, object] = dict(zip(("layers", "seeds", "items"), kind, strict=True))
        row["coverage"] = _range(by_truth["coverage"])
        row["undefined"] = f"{by_truth['undefined'].max():.2f}"
        for claim, true in HOLDS.items():
            column = by_truth.get(f"{claim}: supported", pd.Series(0.0, by_truth.index)).fillna(0.0)
            if claim == "stability" and kind[1] == 1:
                column = column * float("nan")
            row[f"{claim}, false"] = _range(column.drop(list(true)))
            row[f"{claim}, power"] = _range(column[list(true)])
        for label, column in OVER_ALL_TRUTHS.items():
            row[label] = _range(by_truth.get(column, pd.Series(0.0, by_truth.index)).fillna(0.0))
        rows.append(row)
    return pd.DataFrame(rows)


OVER_ALL_TRUTHS = {
    "not size, false": "not size, half explained: supported",
    "not size, wrongly denied": "not size, unrelated: contradicted",
    "not size, power": "not size, unrelated: supported",
    "tracks, false": "tracks, unrelated: supported",
    "convergence, false": "convergence, unrelated: supported",
}


def _range(values: pd.Series) -> str:
    """The smallest and the largest of several rates."""
    if values.isna().all():
        return "–"
    low, high = f"{values.min():.3f}", f"{values.max():.3f}"
    return low if low == high else f"{low} … {high}"


def main() -> None:
    """Print the table as Markdown: `python -m lensrl.judge.calibration [STUDIES]`."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else STUDIES
    print(f"{studies:,} simulated studies per truth and kind; smallest and largest rate over truths.\n")
    table = summary(calibrate(studies))
    for columns in (["coverage", "undefined"], *([c for c in table if str(c).startswith(claim)] for claim in CLAIMS)):
        shown = table[["layers", "seeds", "items", *map(str, columns)]]
        print("| " + " | ".join(map(str, shown)) + " |")
        print("|---" * len(shown.columns) + "|")
        print("\n".join("| " + " | ".join(map(str, row)) + " |" for row in shown.itertuples(index=False)) + "\n")


CLAIMS = ("concentration", "middle", "shape", "stability", "not size", "tracks", "convergence")

if __name__ == "__main__":
    main()

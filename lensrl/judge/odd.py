"""Calibration on odd ground: odd studies, where the interval of C_l may fail; shared trends, rivals, humps, drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from lensrl.judge.relations import control
from lensrl.judge.simulation import ROUGH, TRUTHS, drifting, share_covered, simulate
from lensrl.measures.gains import CONFIDENCE, Gains
from lensrl.measures.rise_and_fall import holds, rise_and_fall
from lensrl.measures.trend import correlate_detrended


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
    Odd("2 seeds", 2, (500,)),
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
        covered += share_covered(gains, profile)
    count = max(defined, 1)
    return {
        "kind": kind.name,
        "coverage": f"{covered / count:.3f}",
        "undefined": f"{1 - defined / studies:.2f}",
        "warned": f"{warned / count:.2f}",
    }


LEVEL = (1 - CONFIDENCE) / 2  # one-sided
NOISES = (0.02, 0.05, 0.1, 0.2)


def _trends(n: int) -> dict[str, np.ndarray]:
    """Return trends in depth, by name: each of two series has the same one, and noise of its own."""
    layer, x = np.arange(n), np.arange(n) / (n - 1)
    plateau, decay = 0.6 * ((x > 0.2) & (x < 0.7)), 0.6 * np.exp(-layer / 2)
    return {
        "plateau": plateau,
        "decay": decay,
        "plateau and decay": plateau + decay,
        "plateau and slow decay": plateau + 0.6 * np.exp(-layer / 4),
        "decays from both ends": decay + 0.7 * decay[::-1],
        "hump and odd ends": 0.6 * np.exp(-(((x - 0.5) / 0.17) ** 2) / 2) - 0.4 * (x == 0) - 0.25 * (x == 1),
        "narrow hump": 0.6 * np.exp(-(((x - 0.5) / 0.06) ** 2) / 2),
    }


def shared_trends(studies: int) -> pd.DataFrame:
    """Return how often two series that share a trend, and nothing else, are taken for related (one-sided, 2.5 %).

    Columns are the standard deviations of the noise, which drifts with memory 0.3.
    """
    rows = []
    for n in (28, 36):
        for name, trend in _trends(n).items():
            row: dict[str, object] = {"layers": n, "trend": name}
            for noise in NOISES:
                rng = np.random.default_rng([n, round(1000 * noise), *name.encode()])
                pairs = [[a * trend + noise * drifting(n, rng, 0.3) for a in (1.0, 1.3)] for _ in range(studies)]
                related = [correlate_detrended(np.arange(n), *pair).p_above < LEVEL for pair in pairs]
                row[f"{noise:g}"] = f"{np.mean(related):.3f}"
            rows.append(row)
    return pd.DataFrame(rows)


RIVAL_ERRORS = (0.0, 0.1, 0.3)  # standard deviations of a rival's own error, in those of the rival
_EFFECTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "straight line": lambda rival: rival,
    "exponential": lambda rival: np.exp(rival / 1.5),
    "threshold": lambda rival: 1.0 * (rival > 0.5),
}


def rivals(studies: int) -> pd.DataFrame:
    """Return how often two series of 28 layers that a rival drives, and nothing else, are taken for related given it.

    Both are the same effect of the rival with noise of 0.35 of its standard deviation, which drifts with memory 0.3.
    """
    rows, layers = [], np.arange(28)
    for name, effect in _EFFECTS.items():
        row: dict[str, object] = {"effect of the rival": name}
        for error in RIVAL_ERRORS:
            rng, related = np.random.default_rng([round(10 * error), *name.encode()]), []
            for _ in range(studies):
                rival = drifting(28, rng, 0.3)
                driven = effect(rival)
                x, y = (driven + 0.35 * driven.std() * drifting(28, rng, 0.3) for _ in range(2))
                measured = {"rival": rival + error * rng.normal(size=28)}
                related.append(control(layers, x, y, measured).p_above < LEVEL)
            row[f"error {error:g}"] = f"{np.mean(related):.3f}"
        rows.append(row)
    return pd.DataFrame(rows)


ERRORS = {28: 0.1, 36: 0.06}  # layers -> standard deviation of the error of C_l


def two_humps(studies: int) -> pd.DataFrame:
    """Return how often a profile is supported as one rise and fall, alone (one-sided, 2.5 %).

    The profiles have two humps that come nearer, or one hump. Errors are independent.
    """
    rows = []
    for name, profile in _HUMPS.items():
        row: dict[str, object] = {"profile": name, "one hump?": "yes" if holds(_at(profile, 28)) else "no"}
        for n, error in ERRORS.items():
            rng = np.random.default_rng([n, *name.encode()])
            drawn = _at(profile, n) + error * rng.normal(size=(studies, n))
            supported = [rise_and_fall(np.arange(n), values).p_for < LEVEL for values in drawn]
            row[f"{n} layers, errors {error:g}"] = f"{np.mean(supported):.3f}"
        rows.append(row)
    return pd.DataFrame(rows)


def drifting_errors(studies: int) -> pd.DataFrame:
    """Return the worst error rates of the shape, alone (one-sided, 2.5 %), in tables whose errors drift over depth.

    The errors have a standard deviation of 0.1 and are a first-order autoregressive series. No truth has chance in it.
    """
    rows = []
    for memory in (0.0, 0.6, 0.9):
        rates: dict[bool, dict[str, float]] = {True: {}, False: {}}
        for name, profile in TRUTHS.items():
            if name in ROUGH:
                continue
            rng = np.random.default_rng([int(10 * memory), *name.encode()])
            truth = profile(np.arange(28) / 27, rng)
            found = [rise_and_fall(np.arange(28), truth + 0.1 * drifting(28, rng, memory)) for _ in range(studies)]
            true = holds(truth)
            wrong = [(one.p_against if true else one.p_for) < LEVEL for one in found]
            rates[true][name] = float(np.mean(wrong))
        row: dict[str, object] = {"memory": f"{memory:g}"}
        for true, said in ((False, "false support"), (True, "false contradiction")):
            worst = max(rates[true], key=lambda name: rates[true][name])
            row[said] = f"{rates[true][worst]:.3f} ({worst})"
        rows.append(row)
    return pd.DataFrame(rows)


def _at(profile: Callable[[np.ndarray], np.ndarray], n: int) -> np.ndarray:
    return profile(np.arange(n) / (n - 1))


def _pair(first: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a profile with humps at depths `first` and 1 - `first`."""

    def profile(x: np.ndarray) -> np.ndarray:
        one, other = (np.exp(-(((x - peak) / 0.08) ** 2) / 2) for peak in (first, 1 - first))
        return 0.3 + 0.6 * (one + other)

    return profile


_HUMPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{f"humps at {first:g} and {1 - first:g}": _pair(first) for first in (0.38, 0.35, 0.3, 0.22)},
    "two plateaus": lambda x: 0.3 + 0.6 * (abs(abs(x - 0.5) - 0.25) < 0.12),
    **{
        name: lambda x, of=TRUTHS[name]: of(x, np.random.default_rng())
        for name in ("hump", "slow rise", "flat top", "slope")
    },
}

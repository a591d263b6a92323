"""How often the interval of the agreement of two profiles holds the truth: python -m tests.benchmarks.agreement [PAIRS]

Pairs of studies are simulated as in `lensrl.judge.simulation`, each on items of its own, with true profiles that
are known: the same and unlike ones, smooth and rough, and plateaus that fall off a step and differ little else, where
the order of most layers cannot be seen. Coverage per kind of study (layers, seeds, items) and pair of profiles.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from scipy import stats

from lensrl.judge.simulation import simulate
from lensrl.measures.agreement import COEFFICIENTS, Coefficient, Measured, agreement, measured
from lensrl.measures.gains import Gains

KINDS = [(8, 1, 500), (8, 3, 200), (8, 3, 500), (28, 1, 100), (28, 2, 500), (28, 3, 500)]
Pair = tuple[np.ndarray, np.ndarray]


def _profiles(x: np.ndarray, rng: np.random.Generator) -> dict[str, Pair]:
    def rough(size: float) -> np.ndarray:
        return size * rng.normal(size=len(x))

    rise, hump = 0.25 + 0.7 * x, 0.3 + 0.65 * np.exp(-(((x - 0.5) / 0.17) ** 2) / 2)
    cliff = np.where(x < 0.66, 0.95, 0.4)
    some, plateau = 0.6 + rough(0.2), cliff + rough(0.005)
    return {
        "same rise": (rise, rise),
        "rise, fall": (rise, 1.2 - rise),
        "rise, hump": (rise, hump),
        "rise, cliff": (rise, plateau),
        "same cliff": (plateau, plateau),
        "cliffs": (plateau, cliff + rough(0.005)),
        "rough cliffs": (cliff + rough(0.05), cliff + rough(0.05)),
        "rough humps": (hump + rough(0.04), hump + rough(0.04)),
        "same rough": (some, some),
        "half alike": (some, 0.24 + 0.6 * some + rough(0.16)),
        "independent": (some, 0.6 + rough(0.2)),
    }


def coverage(layers: int, seeds: int, items: int, pairs: int) -> dict[str, dict[str, float]]:
    """Per coefficient and pair of profiles the share of intervals that hold the true coefficient."""
    x = (np.arange(layers) + 0.5) / layers
    held: dict[str, dict[str, float]] = {name: {} for name in COEFFICIENTS}
    for i in range(pairs):
        rng = np.random.default_rng([layers, seeds, items, i])
        for kind, (first, second) in _profiles(x, rng).items():
            one, other = (_measured(profile, seeds, items, rng) for profile in (first, second))
            for name in COEFFICIENTS:
                true = _true(name, first, second)
                found = agreement(one, other, name, seed=i)
                inside = found.low - 1e-9 <= true <= found.high + 1e-9
                held[name][kind] = held[name].get(kind, 0.0) + inside / pairs
    return held


def _true(name: Coefficient, x: np.ndarray, y: np.ndarray) -> float:
    found: Any = (stats.spearmanr if name == "spearman" else stats.kendalltau)(x, y)
    return float(found.statistic)


def _measured(profile: np.ndarray, seeds: int, items: int, rng: np.random.Generator) -> Measured:
    gains = Gains.from_items(simulate(profile, seeds, items, rng).gains, ("items",) * items)
    return measured(gains, np.eye(len(profile)))


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for kind in KINDS:
        for name, held in coverage(*kind, pairs).items():
            print(*kind, name, " ".join(f"{k} {share:.2f};" for k, share in held.items()), flush=True)


if __name__ == "__main__":
    main()

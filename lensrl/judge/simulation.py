"""Simulated studies whose true contributions are known, and the ways in which they try a claim.

A simulated study has a true profile C_l. Every run has a skill on the logit scale: the skill of its expected score,
plus a shift for each training seed. A run solves an item with probability sigmoid(skill - difficulty + taste), where
the taste says how much this run likes this item. Scores are means over a few samples. All runs share the items, as in a
study. With one seed nothing shifts the skill: the runs themselves have the true profile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import expit

BASE_SCORE, FULL_GAIN = 0.45, 0.25
DIFFICULTY, SEED = 1.2, 0.12  # standard deviations, in logits: of items; of a training seed
TASTE, OWN_TASTE = 0.4, 0.6  # standard deviations of a run's taste, in logits: common to all seeds; of one seed
SAMPLES = 4

TRUTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # name -> C_l at a depth from 0 to 1
    "constant": lambda x: np.full(len(x), 0.7),
    "high": lambda x: np.full(len(x), 0.95),
    "monotone": lambda x: 0.25 + 0.7 * x,
    "short": lambda x: 0.2 + 0.55 * x,  # no layer recovers 80 %
    "cliff": lambda x: np.where(x < 0.66, 0.95, 0.4),
    "hump": lambda x: 0.3 + 0.65 * np.exp(-(((x - 0.5) / 0.17) ** 2) / 2),
}


@dataclass(frozen=True)
class Simulated:
    """Gains of every layer and, last, of full RL; and the true contributions."""

    gains: Float64[np.ndarray, "gain seed item"]
    truth: Float64[np.ndarray, " layer"]


class DrawnPredictors(NamedTuple):
    """Predictors for one simulated study, all with one value a layer.

    `unrelated` and `other` drift over depth and have nothing to do with C_l. `related` is the true C_l with noise.
    `half` explains half of the variance of the measured C_l.
    """

    unrelated: Float64[np.ndarray, " layer"]
    other: Float64[np.ndarray, " layer"]
    related: Float64[np.ndarray, " layer"]
    half: Float64[np.ndarray, " layer"]


@dataclass(frozen=True)
class Trial:
    """One way to try a claim on simulated studies.

    true_under: the names of the `TRUTHS` under which the claim is true in this trial.
    name: follows the name of the claim; empty for the study as it is simulated.
    plant: returns the fields of `Measurements` that the trial adds to the study.
    rates: the error rates that the calibration shows (see `lensrl.judge.calibration.RATES`).
    """

    true_under: Collection[str] = ()
    name: str = ""
    plant: Callable[[DrawnPredictors], Mapping[str, object]] = lambda drawn: {}
    rates: tuple[str, ...] = ("false", "power")


def simulate(
    contribution: Float64[np.ndarray, " layer"], seeds: int, items: int, rng: np.random.Generator
) -> Simulated:
    """Simulate a study whose layers have these expected contributions."""
    expected = BASE_SCORE + FULL_GAIN * np.append(contribution, 1.0)
    spread = SEED if seeds > 1 else 0.0
    base_skill = _skill(np.array([BASE_SCORE]), 0.0)
    skill = _skill(expected, spread)
    shifts = rng.normal(0, spread, (len(expected), seeds))
    difficulty = rng.normal(0, DIFFICULTY, items)

    def scores(skills: np.ndarray) -> np.ndarray:
        taste = rng.normal(0, TASTE, (len(skills), 1, items)) + rng.normal(0, OWN_TASTE, (*skills.shape, items))
        return rng.binomial(SAMPLES, expit(skills[..., None] - difficulty + taste)) / SAMPLES

    gains = scores(skill[:, None] + shifts) - scores(base_skill[:, None])
    return Simulated(gains, contribution)


def draw_predictors(
    truth: Float64[np.ndarray, " layer"], contribution: Float64[np.ndarray, " layer"], rng: np.random.Generator
) -> DrawnPredictors:
    """Draw predictors for a study with this true and this measured C_l."""
    n = len(truth)
    unrelated, other = drifting(n, rng), drifting(n, rng)
    spread = max(float(truth.std()), 0.1)
    related = truth + rng.normal(0, 0.3 * spread, n)
    half = contribution + rng.normal(0, float(contribution.std()), n)
    return DrawnPredictors(unrelated, other, related, half)


def drifting(n: int, rng: np.random.Generator, memory: float = 0.6) -> Float64[np.ndarray, " layer"]:
    """Draw a stationary first-order autoregressive series over n layers; `memory` is its lag-one correlation."""
    series = rng.normal(size=n)
    for layer in range(1, n):
        series[layer] = memory * series[layer - 1] + np.sqrt(1 - memory**2) * series[layer]
    return series


def _expected(skill: np.ndarray, spread: float) -> np.ndarray:
    """Return the expected score over all items, averaged over seeds that shift the skill by N(0, spread^2)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    deviation = np.sqrt(DIFFICULTY**2 + TASTE**2 + OWN_TASTE**2 + spread**2)
    return expit(skill[..., None] + deviation * nodes) @ (weights / weights.sum())


def _skill(score: np.ndarray, spread: float) -> np.ndarray:
    """Return the skill of an expected score: the inverse of `_expected`."""
    return np.interp(score, *_curve(spread))


@lru_cache(maxsize=4)
def _curve(spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return expected scores and their skills on a grid."""
    skills = np.linspace(-12, 12, 4001)
    return _expected(skills, spread), skills

"""Simulated studies whose true contributions are known, and the ways in which they try a claim.

A simulated study has a true profile C_l. Every run has a skill on the logit scale: the skill of its expected score,
plus a shift for each training seed. A run solves an item with probability sigmoid(skill - difficulty + taste), where
the taste says how much this run likes this item. Scores are means over a few samples. All runs share the items, as in a
study. With one seed nothing shifts the skill: the runs themselves have the true profile.

A simulated table has the true profile with independent errors, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from scipy.special import expit

from lensrl.measures.gains import CONFIDENCE, Gains

BASE_SCORE, FULL_GAIN = 0.45, 0.25
DIFFICULTY, SEED = 1.2, 0.12  # standard deviations, in logits: of items; of a training seed
TASTE, OWN_TASTE = 0.4, 0.6  # standard deviations of a run's taste, in logits: common to all seeds; of one seed
SAMPLES = 4
TABLE_ERROR = 0.1  # standard deviation of C_l in a table


def _bell(x: np.ndarray, peak: float, width: float) -> np.ndarray:
    return np.exp(-(((x - peak) / width) ** 2) / 2)


TRUTHS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {  # name -> C_l at depths from 0 to 1
    "constant": lambda x, rng: np.full(len(x), 0.7),
    "high": lambda x, rng: np.full(len(x), 0.95),
    "monotone": lambda x, rng: 0.25 + 0.7 * x,
    "short": lambda x, rng: 0.2 + 0.55 * x,  # no layer recovers 80 %
    "cliff": lambda x, rng: np.where(x < 0.66, 0.95, 0.4),
    "sigmoid": lambda x, rng: 0.95 - 0.6 * expit((x - 0.65) / 0.06),
    "decay": lambda x, rng: 0.35 + 0.6 * np.exp(-np.arange(len(x)) / 2),  # from layer 0
    "odd ends": lambda x, rng: 0.75 - 0.4 * (x == 0) - 0.25 * (x == 1),
    "hump": lambda x, rng: 0.3 + 0.65 * _bell(x, 0.5, 0.17),
    "slow rise": lambda x, rng: 0.3 + 0.65 * np.where(x < 0.65, _bell(x, 0.65, 0.3), _bell(x, 0.65, 0.1)),
    "flat top": lambda x, rng: 0.35 + 0.6 * ((x > 0.2) & (x < 0.7)),
    "slope": lambda x, rng: 0.2 + 0.3 * x + 0.5 * _bell(x, 0.5, 0.15),  # a hump on a slope
    "two humps": lambda x, rng: 0.3 + 0.6 * (_bell(x, 0.22, 0.08) + _bell(x, 0.78, 0.08)),
    "close humps": lambda x, rng: 0.3 + 0.6 * (_bell(x, 0.35, 0.08) + _bell(x, 0.65, 0.08)),
    "few": lambda x, rng: np.where(abs(x - 0.5) < 0.08, 1.1, 0.1),
    "drift": lambda x, rng: 0.7 + 0.12 * drifting(len(x), rng, 0.9),  # a constant, and errors that drift
    "rough": lambda x, rng: np.where(x < 0.66, 0.85, 0.5) + 0.15 * rng.normal(size=len(x)),
}
ROUGH = frozenset({"drift", "rough"})  # their thirds, their rise and their fall are a matter of chance
SMOOTH = frozenset(
    {"monotone", "short", "decay", "hump", "slow rise", "flat top", "slope", "two humps", "few"}
)  # a seed's profile is more than a step, and alike for all seeds


@dataclass(frozen=True)
class Simulated:
    """Gains of every layer and, last, of full RL; and the true contributions."""

    gains: Float64[np.ndarray, "gain seed item"]
    truth: Float64[np.ndarray, " layer"]


@dataclass(frozen=True)
class Draws:
    """Draws of predictors for one simulated study with this true and this measured C_l."""

    truth: Float64[np.ndarray, " layer"]
    contribution: Float64[np.ndarray, " layer"]
    seeds: int
    rng: np.random.Generator

    def drifting(self) -> Float64[np.ndarray, " layer"]:
        """Return a predictor that drifts over depth and has nothing to do with C_l."""
        return drifting(len(self.truth), self.rng)

    def like_truth(self) -> Float64[np.ndarray, " layer"]:
        """Return the true C_l with drifting noise. It shares the trend in depth, and deviations where C_l has some."""
        return self.truth + 0.3 * max(float(self.truth.std()), 0.1) * self.drifting()

    def correlated(self, r: float) -> Float64[np.ndarray, " layer"]:
        """Return a predictor whose expected correlation with the measured C_l is r."""
        c = self.contribution
        standard = (c - c.mean()) / max(float(c.std()), 1e-9)
        return r * standard + np.sqrt(1 - r * r) * self.rng.normal(size=len(c))

    def lucky(self, kind: str) -> Float64[np.ndarray, "half layer seed"] | None:
        """Return halves of seeds that share a step and nothing else. None for one seed.

        `one layer`: the luck of one layer differs much by seed. `smooth`: the luck of each seed drifts over depth.
        """
        n = len(self.truth)
        if self.seeds < 2:
            return None
        step = np.where(np.arange(n) < 0.66 * n, 0.95, 0.4)[:, None]
        if kind == "one layer":
            luck = 0.02 * self.rng.normal(size=(n, self.seeds))
            luck[n // 2] = 0.4 * self.rng.normal(size=self.seeds)
        else:
            luck = 0.1 * np.stack([drifting(n, self.rng, 0.9) for _ in range(self.seeds)], axis=1)
        return step + luck + 0.03 * self.rng.normal(size=(2, n, self.seeds))


@dataclass(frozen=True)
class Trial:
    """One way to try a claim on simulated studies.

    true_under: the names of the `TRUTHS` under which the claim is true in this trial; or a function that decides it for
        a true profile, by the definition of the claim.
    name: follows the name of the claim; empty for the study as it is simulated.
    plant: returns the fields of `Measurements` that the trial adds to the study.
    either: the names of the `TRUTHS` under which chance decides whether the claim is true; no rate counts them.
    only: the names of the `TRUTHS` under which the trial is made; empty for all of them.
    """

    true_under: Collection[str] | Callable[[Float64[np.ndarray, " layer"]], bool] = ()
    name: str = ""
    plant: Callable[[Draws], Mapping[str, object]] = lambda drawn: {}
    either: Collection[str] = ()
    only: Collection[str] = ()

    def is_true(self, truth: str, profile: Float64[np.ndarray, " layer"]) -> bool | None:
        """Return whether the claim is true of a profile drawn from `truth`; None where chance decides."""
        if truth in self.either:
            return None
        return self.true_under(profile) if callable(self.true_under) else truth in self.true_under


def simulate(
    contribution: Float64[np.ndarray, " layer"],
    seeds: int,
    items: int,
    rng: np.random.Generator,
    *,
    base: float = BASE_SCORE,
    full_spread: float = 1.0,
) -> Simulated:
    """Simulate a study whose layers have these expected contributions.

    `base` is the score of the base. `full_spread` multiplies the standard deviation of full RL between seeds.
    """
    expected = base + FULL_GAIN * np.append(contribution, 1.0)
    spread = np.full(len(expected), SEED if seeds > 1 else 0.0)
    spread[-1] *= full_spread
    base_skill = _skill(np.array([base]), 0.0)
    skill = np.append(_skill(expected[:-1], spread[0]), _skill(expected[-1:], spread[-1]))
    shifts = rng.normal(0, 1, (len(expected), seeds)) * spread[:, None]
    difficulty = rng.normal(0, DIFFICULTY, items)

    def scores(skills: np.ndarray) -> np.ndarray:
        taste = rng.normal(0, TASTE, (len(skills), 1, items)) + rng.normal(0, OWN_TASTE, (*skills.shape, items))
        return rng.binomial(SAMPLES, expit(skills[..., None] - difficulty + taste)) / SAMPLES

    gains = scores(skill[:, None] + shifts) - scores(base_skill[:, None])
    return Simulated(gains, contribution)


def share_covered(gains: Gains, truth: np.ndarray) -> float:
    """Return the share of layers whose Fieller interval holds the truth c: S_l - c S_full does not differ from 0."""
    n = len(truth)
    against_truth = gains.contrast(np.eye(n, n + 1) - truth[:, None] * np.eye(n + 1)[-1])
    return float(np.mean(np.minimum(against_truth.p_above(), against_truth.p_below()) >= (1 - CONFIDENCE) / 2))


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


@lru_cache(maxsize=16)
def _curve(spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return expected scores and their skills on a grid."""
    skills = np.linspace(-12, 12, 4001)
    return _expected(skills, spread), skills

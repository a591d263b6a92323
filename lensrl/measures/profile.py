"""A contribution profile as a whole: how unequal its layers are, and whether seeds agree on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from lensrl.measures.gains import Gains, Interval

DRAWS = 999


class Agreement(NamedTuple):
    """`agreement` beyond a step, its one-sided p, what `chance` gives, and Spearman's mean over pairs of seeds."""

    agreement: float
    p_above: float
    p_below: float
    chance: Interval
    spearman: float


def seed_agreement(
    halves: Float64[np.ndarray, "half layer seed"],
    contribution: Float[np.ndarray, " layer"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Agreement:
    """Whether seeds agree on more than a two-level step, from every seed's contributions on two halves of the items.

    The mean correlation, over pairs of seeds, of what the best step leaves of one seed's profile on one half with the
    same of another seed's on the other half, so that items which all seeds share do not make them agree on average.
    Null: normal profiles around the step with three kinds of noise, as large as they are seen: of a half's items,
    shared by all seeds (from the covariance of seeds on one half); of a seed, shared by both halves (from that of a
    seed's halves); and the rest. What layers truly share would widen the null, never narrow it.
    """
    levels = _step(contribution)
    groups = [np.flatnonzero(levels), np.flatnonzero(~levels)]
    rest = halves.copy()
    for group in groups:
        rest[:, group] -= rest[:, group].mean(axis=1, keepdims=True)
    observed = float(_agreement(rest[None])[0])
    drawn = _agreement(_noise(rest, groups, draws, np.random.default_rng(seed)))
    whole, n_seeds = halves.mean(axis=0), halves.shape[2]
    ranks = [stats.spearmanr(whole[:, s], whole[:, t])[0] for s in range(n_seeds) for t in range(s)]
    return Agreement(
        observed,
        float((1 + np.sum(drawn >= observed)) / (1 + draws)),
        float((1 + np.sum(drawn <= observed)) / (1 + draws)),
        Interval(float(drawn.mean()), *map(float, np.quantile(drawn, [0.025, 0.975]))),
        float(np.mean(np.array(ranks))),
    )


def gini(contribution: Float[np.ndarray, "*draw layer"]) -> Float64[np.ndarray, "*draw"]:
    """Gini coefficient of max(C_l, 0): 0 when all layers contribute the same, 1 - 1/n when one alone does."""
    values = np.sort(np.maximum(contribution, 0.0), axis=-1)
    n = values.shape[-1]
    with np.errstate(invalid="ignore"):
        return np.asarray(values @ (2.0 * np.arange(1, n + 1) - n - 1) / (n * values.sum(axis=-1)))


def gini_of_equals(gains: Gains, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The Gini coefficient of equal layers with the measured errors: mean, 2.5 % and 97.5 %."""
    n = len(gains.mean) - 1
    covariance = np.sum([part.sign * part.covariance for part in gains.parts], axis=0)[:n, :n] / gains.mean[-1] ** 2
    values, vectors = np.linalg.eigh(covariance)
    noise = np.random.default_rng(seed).normal(size=(draws, n)) * np.sqrt(np.maximum(values, 0)) @ vectors.T
    level = float(np.mean(gains.mean[:-1] / gains.mean[-1]))
    drawn = gini(level + noise)
    return Interval(float(np.mean(drawn)), *map(float, np.quantile(drawn, [0.025, 0.975])))


def partial_conjunction(p: Float[np.ndarray, " hypothesis"], r: int) -> float:
    """p of: fewer than r of the hypotheses are false (Bonferroni's; Benjamini and Heller 2008)."""
    return min(1.0, (len(p) - r + 1) * float(np.sort(p)[r - 1]))


def simes(p: Float[np.ndarray, " hypothesis"]) -> float:
    """p of: every one of the hypotheses is true; for tests that depend on each other positively, as layers do that
    share the runs of full RL.
    """
    return float(stats.false_discovery_control(p).min())


def _step(contribution: Float[np.ndarray, " layer"]) -> np.ndarray:
    """Which layers lie beyond the change point of the best two-level step."""
    n = len(contribution)
    masks = [np.arange(n) >= change for change in range(2, n - 1)]
    return min(masks, key=lambda m: contribution[m].var() * m.sum() + contribution[~m].var() * (~m).sum())


def _noise(
    rest: Float64[np.ndarray, "half layer seed"],
    groups: Sequence[np.ndarray],
    draws: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "draw half layer seed"]:
    """Profiles without anything in common but the noise of shared items and of the seeds themselves."""
    n_layers, n_seeds = rest.shape[1:]
    products = np.einsum("als,blt->abst", rest, rest) / (n_layers - len(groups))  # two levels were taken off
    other = ~np.eye(n_seeds, dtype=bool)
    items = max(float(np.mean([products[a, a][other].mean() for a in (0, 1)])), 0.0)
    seeds = max(float(np.trace(products[0, 1]) / n_seeds), 0.0)
    everything = float(np.mean([np.trace(products[a, a]) / n_seeds for a in (0, 1)]))
    left = max(everything - items - seeds, 0.0)
    drawn = (
        np.sqrt(items) * rng.normal(size=(draws, 2, n_layers, 1))
        + np.sqrt(seeds) * rng.normal(size=(draws, 1, n_layers, n_seeds))
        + np.sqrt(left) * rng.normal(size=(draws, 2, n_layers, n_seeds))
    )
    for group in groups:
        drawn[:, :, group] -= drawn[:, :, group].mean(axis=2, keepdims=True)
    return drawn


def _agreement(rest: Float64[np.ndarray, "draw half layer seed"]) -> Float64[np.ndarray, " draw"]:
    """Mean correlation over ordered pairs of different seeds, one on either half."""
    unit = rest / np.maximum(np.linalg.norm(rest, axis=2, keepdims=True), 1e-300)
    products = np.einsum("dls,dlt->dst", unit[:, 0], unit[:, 1])
    n = products.shape[1]
    return (products.sum(axis=(1, 2)) - np.trace(products, axis1=1, axis2=2)) / (n * (n - 1))

"""A contribution profile as a whole: how unequal its layers are, and whether seeds agree on it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from lensrl.measures.gains import Gains, Interval, item_weights

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
    same of another seed's on the other half: items that both share cannot make them agree. Null: layers exchanged
    within each level of the step, for every seed by itself.
    """
    levels = _step(contribution)
    groups = [np.flatnonzero(levels), np.flatnonzero(~levels)]
    rest = halves.copy()
    for group in groups:
        rest[:, group] -= rest[:, group].mean(axis=1, keepdims=True)
    n_layers, n_seeds = rest.shape[1:]
    rng = np.random.default_rng(seed)
    order = np.empty((draws, n_layers, n_seeds), int)
    for group in groups:
        order[:, group] = group[rng.random((draws, len(group), n_seeds)).argsort(axis=1)]
    a, b = (half / np.maximum(np.linalg.norm(half, axis=0), 1e-300) for half in rest)
    observed = float(_agreement(a[None], b[None])[0])
    drawn = _agreement(*(np.take_along_axis(half[None], order, axis=1) for half in (a, b)))
    whole = halves.mean(axis=0)
    ranks = [stats.spearmanr(whole[:, s], whole[:, t])[0] for s in range(n_seeds) for t in range(s)]
    return Agreement(
        observed,
        float((1 + np.sum(drawn >= observed)) / (1 + draws)),
        float((1 + np.sum(drawn <= observed)) / (1 + draws)),
        Interval(float(drawn.mean()), *map(float, np.quantile(drawn, [0.025, 0.975]))),
        float(np.mean(np.array(ranks))),
    )


def best_layer(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray, layers: np.ndarray
) -> list[tuple[int, Interval]]:
    """The best layer on one half of the items and its C_l on the other half, then the other way round.

    Measured where it was chosen, the best of many noisy layers looks better than it is (the winner's curse). The last
    gain is full RL's.
    """
    parts = [Gains.from_items(gains[..., half], benchmark[half].tolist()) for half in split_items(benchmark)]
    chosen = [int(part.mean[:-1].argmax()) for part in parts]
    return [(int(layers[best]), other.ratios()[best]) for best, other in zip(chosen, reversed(parts), strict=True)]


def halves(
    gains: Float64[np.ndarray, "gain seed item"], benchmark: np.ndarray
) -> Float64[np.ndarray, "half layer seed"]:
    """Contributions of every seed on either half of the items, over full RL's mean gain (the last of the gains)."""
    means = []
    for half in split_items(benchmark):
        mean = gains[..., half] @ item_weights(benchmark[half].tolist())
        means.append(mean[:-1] / mean[-1].mean())
    return np.stack(means)


def split_items(benchmark: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every other item of each benchmark, and the rest."""
    order = np.argsort(benchmark, kind="stable")
    ranks = np.empty(len(benchmark), int)
    ranks[order] = np.concatenate([np.arange(n) for n in np.unique(benchmark, return_counts=True)[1]])
    return np.flatnonzero(ranks % 2 == 0), np.flatnonzero(ranks % 2 == 1)


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


def _step(contribution: Float[np.ndarray, " layer"]) -> np.ndarray:
    """Which layers lie beyond the change point of the best two-level step."""
    n = len(contribution)
    masks = [np.arange(n) >= change for change in range(2, n - 1)]
    return min(masks, key=lambda m: contribution[m].var() * m.sum() + contribution[~m].var() * (~m).sum())


def _agreement(
    a: Float64[np.ndarray, "draw layer seed"], b: Float64[np.ndarray, "draw layer seed"]
) -> Float64[np.ndarray, " draw"]:
    """Mean correlation over ordered pairs of different seeds, one on either half."""
    products = np.einsum("dls,dlt->dst", a, b)
    n = products.shape[1]
    return (products.sum(axis=(1, 2)) - np.trace(products, axis1=1, axis2=2)) / (n * (n - 1))

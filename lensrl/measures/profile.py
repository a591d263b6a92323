"""A contribution profile as a whole: its thirds, how unequal its layers are, and whether training seeds agree on it.

The module also combines the p-values of several hypotheses (`partial_conjunction`, `simes`). The shape of a profile is
in `lensrl.measures.shapes`, the agreement of two studies in `lensrl.measures.agreement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from lensrl.measures.gains import Gains, Interval

DRAWS = 999


class Agreement(NamedTuple):
    """The agreement of seeds beyond a two-level step, beside its null.

    `agreement` is the mean correlation of residuals. `p_above` is the one-sided p of an agreement at least as high
    under the null, and `p_below` of one at least as low. `chance` is the mean of the null with its 2.5 % and 97.5 %
    quantiles. `spearman` is the mean of Spearman's coefficient over pairs of seeds, on all items and without removal of
    a step.
    """

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
    """Test whether seeds agree on more than a two-level step over depth.

    `halves` holds the contributions of every seed on two halves of the items (`contributions_on_halves`).
    `contribution` is the profile that determines the change point of the best two-level step.

    1. Split the items in two halves.
    2. Subtract the step from each seed's profile on each half: its own mean on either side of the change point.
    3. Correlate seed s on half A with seed t on half B, for s != t, and average over the pairs. Different halves keep
       shared items from creating agreement.

    Null: normal profiles around the step with three kinds of noise, each of the observed size. The noise of a half's
    items is shared by all seeds; its size is the covariance of seeds on one half. The noise of a seed is shared by both
    halves; its size is the covariance of a seed's halves. The rest is independent. A profile that layers truly share
    widens this null, and never narrows it.

    Both p count the observed value among the `draws`.
    """
    levels = _step(contribution)
    groups = [np.flatnonzero(levels), np.flatnonzero(~levels)]
    rest = halves.copy()
    for group in groups:
        rest[:, group] -= rest[:, group].mean(axis=1, keepdims=True)
    observed = float(_agreement(rest[None])[0])
    drawn = _agreement(_draw_noise(rest, groups, draws, np.random.default_rng(seed)))
    whole, n_seeds = halves.mean(axis=0), halves.shape[2]
    ranks = [stats.spearmanr(whole[:, s], whole[:, t])[0] for s in range(n_seeds) for t in range(s)]
    return Agreement(
        agreement=observed,
        p_above=float((1 + np.sum(drawn >= observed)) / (1 + draws)),
        p_below=float((1 + np.sum(drawn <= observed)) / (1 + draws)),
        chance=Interval(float(drawn.mean()), *map(float, np.quantile(drawn, [0.025, 0.975]))),
        spearman=float(np.mean(np.array(ranks))),
    )


def thirds(layers: np.ndarray, n_layers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask the layers whose centre, (l + 1/2) / n, lies in the first, middle and last third of depth.

    The first and the last third have the same number of layers: 3, 2 and 3 of 8 layers; 9, 10 and 9 of 28.
    """
    third = 3 * (2 * np.asarray(layers) + 1) // (2 * n_layers)
    return third == 0, third == 1, third == 2


def gini(contribution: Float[np.ndarray, "*draw layer"]) -> Float64[np.ndarray, "*draw"]:
    """Compute the Gini coefficient of max(C_l, 0), with C_l in the last axis.

    It is 0 if all layers contribute the same, and 1 - 1/n if one of n layers contributes alone.
    """
    values = np.sort(np.maximum(contribution, 0.0), axis=-1)
    n = values.shape[-1]
    with np.errstate(invalid="ignore"):
        return np.asarray(values @ (2.0 * np.arange(1, n + 1) - n - 1) / (n * values.sum(axis=-1)))


def gini_of_equals(gains: Gains, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Simulate the Gini coefficient of equal layers with the measured errors: its mean, 2.5 % and 97.5 % quantile.

    A Gini coefficient is positive for equal layers with errors. This is its null.
    """
    n = len(gains.mean) - 1
    covariance = np.sum([part.sign * part.covariance for part in gains.parts], axis=0)[:n, :n] / gains.mean[-1] ** 2
    values, vectors = np.linalg.eigh(covariance)
    noise = np.random.default_rng(seed).normal(size=(draws, n)) * np.sqrt(np.maximum(values, 0)) @ vectors.T
    drawn = gini(float(np.mean(gains.contributions)) + noise)
    return Interval(float(np.mean(drawn)), *map(float, np.quantile(drawn, [0.025, 0.975])))


def partial_conjunction(p: Float[np.ndarray, " hypothesis"], r: int) -> float:
    """Return the p of the hypothesis that fewer than r of the hypotheses are false.

    Bonferroni's version: min(1, (n - r + 1) p_(r)), with p_(r) the r-th smallest of n (Benjamini and Heller 2008).
    """
    return min(1.0, (len(p) - r + 1) * float(np.sort(p)[r - 1]))


def simes(p: Float[np.ndarray, " hypothesis"]) -> float:
    """Return the p of the hypothesis that all of the hypotheses are true, by Simes: min over i of n p_(i) / i.

    It holds for tests with positive dependence, as between layers whose contributions share the runs of full RL.
    """
    return float(stats.false_discovery_control(p).min())


def _step(contribution: Float[np.ndarray, " layer"]) -> np.ndarray:
    """Return a mask of the layers beyond the change point of the best two-level step (least squares)."""
    n = len(contribution)
    masks = [np.arange(n) >= change for change in range(2, n - 1)]
    return min(masks, key=lambda m: contribution[m].var() * m.sum() + contribution[~m].var() * (~m).sum())


def _draw_noise(
    rest: Float64[np.ndarray, "half layer seed"],
    groups: Sequence[np.ndarray],
    draws: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "draw half layer seed"]:
    """Draw profiles that share nothing but the noise of common items and the noise of each seed."""
    n_layers, n_seeds = rest.shape[1:]
    products = np.einsum("als,blt->abst", rest, rest) / (n_layers - len(groups))  # the two levels cost two df
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
    """Return the mean correlation over ordered pairs of different seeds, one seed on each half."""
    unit = rest / np.maximum(np.linalg.norm(rest, axis=2, keepdims=True), 1e-300)
    products = np.einsum("dls,dlt->dst", unit[:, 0], unit[:, 1])
    n = products.shape[1]
    return (products.sum(axis=(1, 2)) - np.trace(products, axis1=1, axis2=2)) / (n * (n - 1))

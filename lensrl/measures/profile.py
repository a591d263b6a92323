"""A contribution profile as a whole: its thirds, its effective number of layers, and whether seeds agree on it.

The module also combines the p-values of several hypotheses (`simes`). The rise and fall of a profile are in
`lensrl.measures.rise_and_fall`, the agreement of two studies in `lensrl.measures.agreement`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from lensrl.measures.gains import Estimate, Gains, Interval

DRAWS = 599


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
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Agreement:
    """Test whether seeds agree on more than a two-level step over depth.

    `halves` holds the contributions of every seed on two halves of the items (`contributions_on_halves`). Their mean
    determines the change point of the best two-level step.

    1. Split the items in two halves.
    2. Subtract the step from each seed's profile on each half: its own median on either side of the change point
       (`beyond_step`). One layer that differs much does not move a median.
    3. Correlate seed s on half A with seed t on half B, for s != t, and average over the pairs. Different halves keep
       shared items from creating agreement.

    Null: each seed has its own luck, as likely up as down. So the signs of a seed's residuals are turned at random, on
    both halves alike, in blocks of two sevenths of the layers that begin at a random layer. The blocks keep the
    resemblance of neighbouring layers. Turning signs keeps the size of every layer's luck: one layer that differs much
    between seeds makes no agreement. A profile that layers truly share widens this null, and never narrows it.

    Both p count the observed value among the `draws`.
    """
    rest = beyond_step(halves[None].astype(np.float64))
    observed = float(_agreement(rest)[0])
    n_layers, n_seeds = halves.shape[1:]

    # blocks of layers that begin anywhere, and one sign for each block and seed; each draw has its own best step
    rng, length = np.random.default_rng(seed), max(2, round(n_layers / 3.5))
    block = (np.arange(n_layers) + rng.integers(0, length, (draws, 1))) // length
    signs = rng.choice([-1.0, 1.0], (draws, int(block.max()) + 1, n_seeds))
    turned = rest * np.take_along_axis(signs, block[..., None], axis=1)[:, None]
    drawn = _agreement(beyond_step(halves - rest + turned))

    whole = halves.mean(axis=0)
    ranks = np.corrcoef(stats.rankdata(whole, axis=0), rowvar=False)[np.triu_indices(n_seeds, 1)]
    return Agreement(
        agreement=observed,
        p_above=float((1 + np.sum(drawn >= observed - 1e-9)) / (1 + draws)),
        p_below=float((1 + np.sum(drawn <= observed + 1e-9)) / (1 + draws)),
        chance=Interval(float(drawn.mean()), *map(float, np.quantile(drawn, [0.025, 0.975]))),
        spearman=float(ranks.mean()),
    )


class Spread(NamedTuple):
    """The effective number of layers with its 95 % interval.

    `p_half_or_more` is the p of the hypothesis that it is half of the layers or more, `p_half_or_less` of half or less.
    """

    number: Interval
    p_half_or_more: float
    p_half_or_less: float


def effective_layers(gains: Gains) -> Spread:
    """Return the effective number of layers over which the gain is spread, from the gains of the layers and full RL.

        N = (sum of C_l)^2 / (sum of C_l^2),    over layers with C_l > 0

    It is the inverse Herfindahl index of the shares C_l / sum C: n where all n layers contribute the same, and 1 where
    one layer contributes alone. Full RL's gain cancels. Errors make the sum of squares too large, by the sum of the
    error variances, which is subtracted. The interval is that of log N, to first order (delta method), with the errors
    of `Gains`.
    """
    n = len(gains.mean) - 1
    c = np.maximum(gains.mean[:-1], 0.0)
    covariance = np.sum([part.sign * part.covariance for part in gains.parts], axis=0)[:n, :n]
    variance = np.maximum(np.diag(covariance), 0.0) * (c > 0)
    total, raw = float(c.sum()), float(c @ c)
    if total <= 0:
        return Spread(Interval(*[float("nan")] * 3), 1.0, 1.0)
    squares = max(raw - float(variance.sum()), total**2 / n)  # N is at most n
    slope = np.where(c > 0, 2 / total - 2 * c / squares, 0.0)
    first = gains.contrast(np.append(slope, 0.0))
    error = np.sqrt(first.error**2 + 2 * float(np.sum(variance**2)) / squares**2)
    log_n = Estimate(np.asarray(2 * np.log(total) - np.log(squares)), np.asarray(error), first.df)
    half = float(np.log(n / 2))
    return Spread(
        Interval(*map(float, np.exp(log_n.interval()).clip(1, n))),
        p_half_or_more=float(log_n.p_below(half)),
        p_half_or_less=float(log_n.p_above(half)),
    )


def thirds(layers: np.ndarray, n_layers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask the layers whose centre, (l + 1/2) / n, lies in the first, middle and last third of depth.

    The first and the last third have the same number of layers: 3, 2 and 3 of 8 layers; 9, 10 and 9 of 28.
    """
    third = 3 * (2 * np.asarray(layers) + 1) // (2 * n_layers)
    return third == 0, third == 1, third == 2


def simes(p: Float[np.ndarray, " hypothesis"]) -> float:
    """Return the p of the hypothesis that all of the hypotheses are true, by Simes: min over i of n p_(i) / i.

    It holds for tests with positive dependence, as between layers whose contributions share the runs of full RL.
    """
    return float(stats.false_discovery_control(p).min())


def beyond_step(
    profiles: Float64[np.ndarray, "draw half layer seed"],
) -> Float64[np.ndarray, "draw half layer seed"]:
    """Subtract from every profile its own two medians, on either side of the best step of the draw's mean profile.

    The best step is that of least squares, with two layers or more on either side.
    """
    mean = profiles.mean(axis=(1, 3))
    n = mean.shape[1]
    before = np.arange(1, n)
    sums = np.cumsum(mean, axis=1)
    below, total = sums[:, :-1], sums[:, -1:]
    between = below**2 / before + (total - below) ** 2 / (n - before)  # the larger, the less is left
    change = between[:, 1 : n - 2].argmax(axis=1) + 2
    rest = profiles.copy()
    for place in np.unique(change):
        chosen = change == place
        for part in (slice(0, place), slice(place, n)):
            rest[chosen, :, part] -= np.median(rest[chosen, :, part], axis=2, keepdims=True)
    return rest


def _agreement(rest: Float64[np.ndarray, "draw half layer seed"]) -> Float64[np.ndarray, " draw"]:
    """Return the mean correlation over ordered pairs of different seeds, one seed on each half."""
    unit = rest / np.maximum(np.linalg.norm(rest, axis=2, keepdims=True), 1e-300)
    products = np.einsum("dls,dlt->dst", unit[:, 0], unit[:, 1])
    n = products.shape[1]
    return (products.sum(axis=(1, 2)) - np.trace(products, axis1=1, axis2=2)) / (n * (n - 1))

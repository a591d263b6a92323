"""Whether a profile rises over depth and then falls, without a family of curves.

The profile is y_l = m_l + e_l. Neighbouring errors may be alike: e is a first-order autoregressive series. Let A before
B before C be stretches of layers that do not overlap, each at least a fifth of the layers long, and m(A) the mean of m
over A.

    rise    the largest m(B) - m(A)
    fall    the largest m(B) - m(C)

The profile *rises and then falls* if one stretch B lies above a stretch before it and above a stretch behind it, each
by at least `LEAST`. Plateaus, steps, slow rises and fast falls are all allowed; only the order counts.

    for        T = max over B of min(max over A of t(A, B), max over C of t(B, C)),
               t(A, B) = (y(B) - y(A) - LEAST) / (s sqrt(1/|A| + 1/|B|))
    against    every t(A, B) is low, or every t(B, C) is

A profile that does not rise and then fall has, for any A, B and C, a pair whose true difference is below `LEAST`. So T
is compared with the largest t over *all* pairs of a constant profile. Against the claim, each pair is compared with its
own distribution, and the highest p counts: all pairs must be low.

The scatter s comes from the residuals of the unimodal regression, s^2 = RSS / (n - 1.5 levels) (Meyer and Woodroofe
2000, doi:10.1214/aos/1015956708). It does not take a smooth rise for noise. But steep sides leave no residuals, so s is
at least the measured error. Where no error is known, it is at least the roughness: 1.48 times the median of
|(y_{l-1} + y_{l+1}) / 2 - y_l| / sqrt(1.5).

The null keeps the residuals' autocorrelation: constant profiles are drawn with memories from 0 to 0.95 (a Beta(1, 2)
density), the same regression is fitted to them, and profiles whose residuals have about the observed autocorrelation
count most. A profile with two humps has residuals that drift, and is judged by a wider null.

A second hump speaks against a rise and a fall, also where one condition alone would hold. So p for the claim is 1 where
a valley shows: a stretch of a tenth of the layers or more that lies below one before and one behind it, by more than in
nine of ten null profiles with nearly independent errors. Its scatter is the roughness, or the known error.

Measured error rates are in `lensrl/judge/CALIBRATION.md`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from lensrl.measures.gains import CONFIDENCE, Interval
from lensrl.measures.isotonic import unimodal

LEAST = 0.05  # of full RL's gain: smaller changes over depth are no rise and no fall
FEWEST_LAYERS = 6
DRAWS = 3_000
_SHORTEST, _SHORTEST_VALLEY = 1 / 5, 1 / 10  # of the layers, in a stretch
_VALLEY = 0.1  # p below which a valley shows
_NEARLY_WHITE = 0.2  # memory of errors that are nearly independent
_KERNEL = 0.08  # standard deviation, in units of the autocorrelation of residuals
_FEWEST_DRAWS = 400  # null profiles that count: the smallest p is about 1 / 400
_CANDIDATES = 8  # pairs with the highest t, among which the largest p against the claim is sought


class RiseAndFall(NamedTuple):
    """The rise and the fall of a profile, and the p of the claim that it rises and then falls.

    rise, fall: the differences of the two stretches that show most, with their 95 % intervals.
    p_for, p_against: one-sided; `p_no_rise` and `p_no_fall` are the parts of `p_against`.
    top: the first and the last layer of the stretch that is above its surroundings.
    scatter: the standard deviation of one layer's error; `autocorrelation` is the residuals' at lag one.
    """

    rise: Interval
    fall: Interval
    p_for: float
    p_no_rise: float
    p_no_fall: float
    top: tuple[int, int]
    scatter: float
    autocorrelation: float

    @property
    def p_against(self) -> float:
        """The p of the hypothesis that the profile rises and falls: no rise or no fall is enough against it."""
        return min(1.0, 2 * min(self.p_no_rise, self.p_no_fall))


def rise_and_fall(
    layers: Float[np.ndarray, " layer"] | np.ndarray,
    profile: Float[np.ndarray, " layer"],
    *,
    error: float = 0.0,
    scatter: float | None = None,
    least: float = LEAST,
) -> RiseAndFall:
    """Test whether a profile over `layers` rises by at least `least`, and then falls by at least `least`.

    `error` is the known standard error of one layer; the scatter is at least this large. `scatter` replaces the
    estimate. Raises ValueError for fewer than 6 layers.
    """
    n = len(profile)
    if n < FEWEST_LAYERS:
        raise ValueError(f"{n} layers: a rise and a fall need at least {FEWEST_LAYERS}")
    null, pairs = _null(n), _pairs(n, _SHORTEST)

    # the scatter around the unimodal fit, and the weight of every null profile
    own, rough, autocorrelation = (float(part[0]) for part in _scatter(profile[None].astype(np.float64)))
    s = scatter if scatter is not None else max(own, error if error > 0 else rough)
    s = max(s, 1e-9 * float(np.abs(profile).max()), 1e-12)
    weight = _weights(null.autocorrelation, autocorrelation)
    # a scatter that is known does not vary in the null; an estimated one does, above the known error
    least_scatter = np.full(DRAWS, error / s) if error > 0 else null.roughness
    own_scatter = np.ones(DRAWS) if scatter is not None else np.maximum(null.scatter, least_scatter)
    drawn = null.differences / own_scatter[:, None]

    # all pairs: the later stretch minus the earlier one
    means = pairs.means @ profile
    later = means[pairs.later] - means[pairs.earlier]
    unit = s * pairs.unit
    largest = drawn.max(axis=1)
    p_no_rise, p_no_fall = (_p_all_low((d - least) / unit, drawn, weight) for d in (later, -later))

    # the stretch that is highest above both sides
    rises, falls = (later - least) / unit, (-later - least) / unit
    above_before = np.full(len(means), -np.inf)
    np.maximum.at(above_before, pairs.later, rises)
    above_behind = np.full(len(means), -np.inf)
    np.maximum.at(above_behind, pairs.earlier, falls)
    both = np.minimum(above_before, above_behind)
    top = pairs.stretches[int(both.argmax())]
    reached = float(weight @ (largest >= both.max()))
    size = 1 / float(weight @ weight)  # the number of null profiles that count
    p_for = (1 + size * reached) / (1 + size)
    # a valley makes the residuals of the unimodal fit large, so it is measured by the roughness, or by a known error
    known = scatter or error
    depth = _deepest_valley(profile[None] / (known or max(rough, 1e-12)))[0]
    valleys = (null.valley / (1.0 if known else null.roughness))[null.memory < _NEARLY_WHITE]
    if float(np.mean(valleys >= depth)) < _VALLEY:
        p_for = 1.0
    reach = _quantile(largest, weight, (1 + CONFIDENCE) / 2)
    return RiseAndFall(
        rise=_interval(later, unit, reach, drawn, weight),
        fall=_interval(-later, unit, reach, drawn, weight),
        p_for=p_for,
        p_no_rise=p_no_rise,
        p_no_fall=p_no_fall,
        top=(int(layers[top[0]]), int(layers[top[1] - 1])),
        scatter=s,
        autocorrelation=autocorrelation,
    )


def _deepest_valley(profiles: Float64[np.ndarray, "profile layer"]) -> Float64[np.ndarray, " profile"]:
    """Return the largest t by which a stretch lies below one before it and one behind it, for a scatter of 1."""
    pairs = _pairs(profiles.shape[1], _SHORTEST_VALLEY)
    means = profiles @ pairs.means.T
    rises = (means[:, pairs.later] - means[:, pairs.earlier]) / pairs.unit
    deepest = np.full(len(profiles), -np.inf)
    for stretch in range(len(pairs.stretches)):
        before, behind = pairs.later == stretch, pairs.earlier == stretch
        if before.any() and behind.any():
            both = np.minimum((-rises[:, before]).max(axis=1), rises[:, behind].max(axis=1))
            deepest = np.maximum(deepest, both)
    return deepest


def _weights(drawn: Float64[np.ndarray, " draw"], observed: float) -> Float64[np.ndarray, " draw"]:
    """Weigh null profiles by how near their autocorrelation is to the observed one; at least 400 must count."""
    width, weight = _KERNEL, np.zeros(len(drawn))
    while not weight.sum() or 1 / float(weight @ weight) < _FEWEST_DRAWS:
        closeness = -(((drawn - observed) / width) ** 2) / 2
        weight = np.exp(closeness - closeness.max())
        weight /= weight.sum()
        width *= 1.5
    return weight


def _p_all_low(t: np.ndarray, drawn: np.ndarray, weight: np.ndarray) -> float:
    """Return the largest p, over pairs, of a difference as low as the observed one."""
    highest = np.argsort(t)[-_CANDIDATES:]
    shares = weight @ (drawn[:, highest] <= t[highest])
    size = 1 / float(weight @ weight)
    return float((1 + size * shares.max()) / (1 + size))


def _interval(
    differences: np.ndarray, unit: np.ndarray, reach: float, drawn: np.ndarray, weight: np.ndarray
) -> Interval:
    """Return the largest difference with an interval that allows for its choice among all pairs.

    The lower end holds for all pairs at once. The upper end is the highest upper end of any single pair.
    """
    shown = int((differences - reach * unit).argmax())
    rare = (1 - CONFIDENCE) / 2
    highest = np.argsort(differences / unit)[-_CANDIDATES:]
    high = max(float(differences[i] - _quantile(drawn[:, i], weight, rare) * unit[i]) for i in highest)
    value = float(differences[shown])
    return Interval(value, value - reach * float(unit[shown]), max(high, value))


def _quantile(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """Return the quantile of weighted values."""
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weight[order]), share).clip(max=len(values) - 1)])


class _Pairs(NamedTuple):
    """Stretches of layers, and all pairs of an earlier and a later one that do not overlap.

    `means` @ profile gives the mean over each stretch. `earlier` and `later` are indices of stretches. `unit` is the
    standard error of a pair's difference for independent errors of size 1.
    """

    stretches: list[tuple[int, int]]
    means: Float64[np.ndarray, "stretch layer"]
    earlier: np.ndarray
    later: np.ndarray
    unit: Float64[np.ndarray, " pair"]


@lru_cache(maxsize=32)
def _pairs(n: int, share: float) -> _Pairs:
    """Return the stretches of `share` of n layers, twice as many and so on, and their pairs."""
    shortest = max(2, round(n * share))
    lengths = [shortest * 2**i for i in range(n) if i == 0 or shortest * 2**i <= n - 2 * shortest]
    stretches = [(start, start + length) for length in lengths for start in range(n - length + 1)]
    ends, size = np.array(stretches), np.diff(stretches, axis=1)[:, 0]
    place = np.arange(n)
    inside = (place >= ends[:, :1]) & (place < ends[:, 1:])
    earlier, later = np.nonzero(ends[:, None, 1] <= ends[None, :, 0])
    return _Pairs(stretches, inside / size[:, None], earlier, later, np.sqrt(1 / size[earlier] + 1 / size[later]))


class _Null(NamedTuple):
    """Constant profiles with autoregressive errors of size 1, as the test sees them.

    `differences` of every pair are in units of the pair's standard error for independent errors.
    """

    differences: Float[np.ndarray, "draw pair"]
    scatter: Float64[np.ndarray, " draw"]
    roughness: Float64[np.ndarray, " draw"]
    autocorrelation: Float64[np.ndarray, " draw"]
    valley: Float64[np.ndarray, " draw"]
    memory: Float64[np.ndarray, " draw"]


@lru_cache(maxsize=8)
def _null(n: int, seed: int = 0) -> _Null:
    """Draw the null profiles of n layers once; they depend on nothing else."""
    rng, pairs = np.random.default_rng([seed, n]), _pairs(n, _SHORTEST)
    memory = 0.95 * rng.beta(1, 2, DRAWS)
    errors = rng.normal(size=(DRAWS, n))
    for layer in range(1, n):
        errors[:, layer] = memory * errors[:, layer - 1] + np.sqrt(1 - memory**2) * errors[:, layer]
    means = errors @ pairs.means.T
    differences = ((means[:, pairs.later] - means[:, pairs.earlier]) / pairs.unit).astype(np.float32)
    blocks = [_scatter(block) for block in np.array_split(errors, max(1, DRAWS * n * n // 500_000))]  # 4 MB a block
    scatter, roughness, autocorrelation = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    valley = _deepest_valley(errors)
    return _Null(differences, np.maximum(scatter, 1e-3), roughness, autocorrelation, valley, memory)


def _scatter(profiles: Float64[np.ndarray, "profile layer"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scatter around the unimodal fit, the roughness, and the lag-one autocorrelation of the residuals."""
    n = profiles.shape[1]
    fit = unimodal(profiles)
    rest = profiles - fit.curve
    squares = (rest**2).sum(axis=1)
    scatter = np.sqrt(squares / np.maximum(n - 1.5 * fit.levels, n / 4))
    bend = (profiles[:, :-2] + profiles[:, 2:]) / 2 - profiles[:, 1:-1]
    roughness = 1.4826 * np.median(np.abs(bend), axis=1) / np.sqrt(1.5)
    return scatter, roughness, (rest[:, 1:] * rest[:, :-1]).sum(axis=1) / np.maximum(squares, 1e-300)

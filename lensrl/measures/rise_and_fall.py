"""Whether a profile rises over depth and then falls, without a family of curves.

The profile is y_l = m_l + e_l. Neighbouring errors may be alike: e is a first-order autoregressive series. Let A before
B before C be stretches of layers that do not overlap, and m(A) the mean of m over A. A stretch has a fifth of the
layers (rounded, at least two layers) or twice as many.

    rise    the largest m(B) - m(A)
    fall    the largest m(B) - m(C)

The profile *rises and then falls* if one stretch B lies above a stretch before it and above a stretch behind it, each
by at least `LEAST`, and no valley is half as deep. Plateaus, steps, slow rises and fast falls are all allowed; only the
order counts. `holds` decides this for a profile without errors.

A valley is a stretch of a tenth of the layers, or 2, 4 ... times as many, that lies below one before it and one behind.
A shallow dip belongs to a broad hump; a dip half as deep as the smaller of rise and fall makes two humps of one.

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

p for the claim is 1 where a valley shows: where it is deeper than in half of the null profiles with nearly independent
errors. Its scatter is the known error, or the smaller of two roughnesses, that above and the one with the mean of
squares. This is a guard, not a test with an error rate of its own: the calibration counts which valleys show.

Measured error rates are in `lensrl/judge/CALIBRATION.md`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from lensrl.measures.gains import CONFIDENCE, Interval
from lensrl.measures.isotonic import unimodal
from lensrl.measures.stretches import deepest_valley, sides, stretch_pairs

LEAST = 0.05  # of full RL's gain: smaller changes over depth are no rise and no fall
FEWEST_LAYERS = 6
DRAWS = 3_000
_SHORTEST, _SHORTEST_VALLEY = 1 / 5, 1 / 10  # of the layers, in a stretch
_VALLEY = 0.5  # p below which a valley shows
_TOO_DEEP = 0.5  # of the smaller of rise and fall: a valley from here on makes two humps
_NEARLY_WHITE = 0.2  # memory of errors that are nearly independent
_KERNEL = 0.08  # standard deviation, in units of the autocorrelation of residuals
_FEWEST_DRAWS = 400  # null profiles that count: the smallest p is about 1 / 400
_CANDIDATES = 8  # pairs with the highest t, among which the largest p against the claim is sought


class RiseAndFall(NamedTuple):
    """The rise and the fall of a profile, and the p of the claim that it rises and then falls.

    rise, fall: the differences of the two stretches that show most, with their 95 % intervals.
    p_for, p_against: one-sided; `p_no_rise` and `p_no_fall` are the parts of `p_against`.
    top: the first and the last layer of the stretch that is above its surroundings.
    valley: the first and the last layer of the valley that shows; None without one. p_for is 1 beside it.
    scatter: the standard deviation of one layer's error; `autocorrelation` is the residuals' at lag one.
    """

    rise: Interval
    fall: Interval
    p_for: float
    p_no_rise: float
    p_no_fall: float
    top: tuple[int, int]
    valley: tuple[int, int] | None
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
    null, pairs = _null(n), stretch_pairs(n, _SHORTEST)

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
    above_before, _ = sides(pairs, (later - least) / unit)
    _, above_behind = sides(pairs, (later + least) / unit)
    both = np.minimum(above_before, above_behind)
    top = pairs.stretches[int(both.argmax())]
    reached = float(weight @ (largest >= both.max()))
    size = 1 / float(weight @ weight)  # the number of null profiles that count
    p_for = (1 + size * reached) / (1 + size)
    # a valley makes the residuals of the unimodal fit large, so it is measured by the roughness, or by a known error
    known = scatter or error
    deepest, where = deepest_valley(profile[None], _SHORTEST_VALLEY)
    depth = float(deepest[0]) / (known or max(min(rough, _mean_roughness(profile[None])[0]), 1e-12))
    valleys = (null.valley if known else null.rough_valley)[null.memory < _NEARLY_WHITE]
    shows = depth > 0 and float(np.mean(valleys >= depth)) < _VALLEY
    first, end = stretch_pairs(n, _SHORTEST_VALLEY).stretches[int(where[0])]
    if shows:
        p_for = 1.0
    reach = _quantile(largest, weight, (1 + CONFIDENCE) / 2)
    return RiseAndFall(
        rise=_interval(later, unit, reach, drawn, weight),
        fall=_interval(-later, unit, reach, drawn, weight),
        p_for=p_for,
        p_no_rise=p_no_rise,
        p_no_fall=p_no_fall,
        top=(int(layers[top[0]]), int(layers[top[1] - 1])),
        valley=(int(layers[first]), int(layers[end - 1])) if shows else None,
        scatter=s,
        autocorrelation=autocorrelation,
    )


def holds(profile: Float[np.ndarray, " layer"], *, least: float = LEAST) -> bool:
    """Return whether a profile without errors rises and then falls by at least `least`, with no valley half as deep."""
    pairs = stretch_pairs(len(profile), _SHORTEST)
    means = pairs.means @ profile
    before, behind = sides(pairs, means[pairs.later] - means[pairs.earlier])
    height = float(np.minimum(before, behind).max())
    pairs = stretch_pairs(len(profile), _SHORTEST_VALLEY)
    means = pairs.means @ profile
    before, behind = sides(pairs, means[pairs.earlier] - means[pairs.later])
    return height >= least and float(np.minimum(before, behind).max()) < _TOO_DEEP * height


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


class _Null(NamedTuple):
    """Constant profiles with autoregressive errors of size 1, as the test sees them.

    `differences` of every pair are in units of the pair's standard error for independent errors.
    """

    differences: Float[np.ndarray, "draw pair"]
    scatter: Float64[np.ndarray, " draw"]
    roughness: Float64[np.ndarray, " draw"]
    autocorrelation: Float64[np.ndarray, " draw"]
    valley: Float64[np.ndarray, " draw"]
    rough_valley: Float64[np.ndarray, " draw"]
    memory: Float64[np.ndarray, " draw"]


@lru_cache(maxsize=8)
def _null(n: int, seed: int = 0) -> _Null:
    """Draw the null profiles of n layers once; they depend on nothing else."""
    rng, pairs = np.random.default_rng([seed, n]), stretch_pairs(n, _SHORTEST)
    memory = 0.95 * rng.beta(1, 2, DRAWS)
    errors = rng.normal(size=(DRAWS, n))
    for layer in range(1, n):
        errors[:, layer] = memory * errors[:, layer - 1] + np.sqrt(1 - memory**2) * errors[:, layer]
    means = errors @ pairs.means.T
    differences = ((means[:, pairs.later] - means[:, pairs.earlier]) / pairs.unit).astype(np.float32)
    blocks = [_scatter(block) for block in np.array_split(errors, max(1, DRAWS * n * n // 500_000))]  # 4 MB a block
    scatter, roughness, autocorrelation = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    valley, _ = deepest_valley(errors, _SHORTEST_VALLEY)
    rough_valley = valley / np.minimum(roughness, _mean_roughness(errors))
    return _Null(differences, np.maximum(scatter, 1e-3), roughness, autocorrelation, valley, rough_valley, memory)


def _scatter(profiles: Float64[np.ndarray, "profile layer"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scatter around the unimodal fit, the roughness, and the lag-one autocorrelation of the residuals."""
    n = profiles.shape[1]
    fit = unimodal(profiles)
    rest = profiles - fit.curve
    squares = (rest**2).sum(axis=1)
    scatter = np.sqrt(squares / np.maximum(n - 1.5 * fit.levels, n / 4))
    roughness = 1.4826 * np.median(np.abs(_bend(profiles)), axis=1) / np.sqrt(1.5)
    return scatter, roughness, (rest[:, 1:] * rest[:, :-1]).sum(axis=1) / np.maximum(squares, 1e-300)


def _mean_roughness(profiles: Float64[np.ndarray, "profile layer"]) -> Float64[np.ndarray, " profile"]:
    """Return the roughness by the mean of squares. It is more precise than that by the median, and steps enlarge it."""
    return np.sqrt((_bend(profiles) ** 2).mean(axis=1) / 1.5)


def _bend(profiles: Float64[np.ndarray, "profile layer"]) -> Float64[np.ndarray, "profile bend"]:
    return (profiles[:, :-2] + profiles[:, 2:]) / 2 - profiles[:, 1:-1]

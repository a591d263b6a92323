"""How far two contribution profiles agree, each known only up to its noise.

    observed    r = coefficient(x, y),    x = true x + error of x,    y = true y + error of y

Errors pull r toward 0: where the true profiles agree wholly, what is seen is about the *ceiling* and not 1,

    ceiling = sqrt(reliability of x * reliability of y)                       (Spearman 1904, doi:10.2307/1412159)

of Pearson's coefficient; Spearman's is near it, lower on a plateau, and Kendall's lower yet. Adding noise to x and y
again, as a parametric bootstrap does, pulls it a second time, and its interval misses the truth. The interval here asks
instead which coefficients of the *true* profiles, over just these layers, would make the observed one likely (a test,
inverted):

1. Profiles that may be true are drawn, in two ways, because what the errors do to an order depends on how far apart
   the true values lie, which nobody sees. *Spread*: as many normal variates, shrunk to the variance that the errors
   leave, t_l ~ N(m + B (x_l - m), B s^2) with B = 1 - s^2 / Var(x). *Levels*: the nonparametric maximum likelihood of
   normal means (Kiefer and Wolfowitz 1956, doi:10.1214/aoms/1177728066), which makes a plateau of a plateau; within a
   level the order is arbitrary. s^2, uncertain, is drawn with its degrees of freedom.
2. The layers of one are rearranged to every coefficient from -1 to 1; both get new errors; r* is what is then seen.
3. A true coefficient stays in the interval where r* >= r and r* <= r are both no rarer than 2.5 % of what they are at
   the end of the scale that favours them (the CLs method: Read 2002, doi:10.1088/0954-3899/28/10/313, so that an r
   too high to be true has an interval all the same). Probabilities are monotone regressions of the draws
   on their true coefficient; the interval is the union over both ways of drawing.

Layers are taken to have errors of one size, and errors of one study to have nothing to do with those of another but
for items that both were scored on (`shared`). The measured coverage stands at `agreement`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy import optimize, stats

from lensrl.measures.gains import CONFIDENCE, Gains, Interval

Coefficient = Literal["spearman", "kendall"]
COEFFICIENTS = get_args(Coefficient)
FEWEST_COMMON = 4  # positions in depth
DRAWS = 2_000  # for either way of drawing
_ENDS = 0.1  # of the draws, at a true coefficient of 1, and of -1
_ATOMS, _STEPS = 60, 300  # of the maximum likelihood by EM


class Measured(NamedTuple):
    """A profile at some positions in depth; `error` is the standard error of one of its values beside the others.

    An `error` of 0 is a profile taken as it is; `df`, how well `error` itself is known.
    """

    values: Float64[np.ndarray, " layer"]
    error: float
    df: float

    @property
    def reliability(self) -> float:
        """The share of the variance over layers that is not error: 1 - s^2 / Var, at least 0.

        Errors are those of `Gains`: of seeds and items with several seeds, of items with one.
        """
        variance = float(self.values.var(ddof=1))
        return max(1 - self.error**2 / variance, 0.0) if variance > 0 else 0.0


def on_common_depth(
    x_depth: Float[np.ndarray, " x_layer"], y_depth: Float[np.ndarray, " y_layer"]
) -> tuple[
    Float64[np.ndarray, " common"], Float64[np.ndarray, "common x_layer"], Float64[np.ndarray, "common y_layer"]
]:
    """Positions that both profiles have, and the weights that interpolate each linearly onto them.

    Positions are the middles of layers, (l + 0.5) / n_layers: layer l takes up the depth from l / n to (l + 1) / n. The
    common ones are those of the profile with fewer layers, within the reach of the other: the other way round would
    make positions that are mixtures of the same few measurements, and count them as if each had been measured. So would
    a gap in the other that is wider than the layers of the first are apart: positions inside of one are left out.
    """
    few, many = (x_depth, y_depth) if len(x_depth) <= len(y_depth) else (y_depth, x_depth)
    near = 1e-9
    before, after = (np.searchsorted(many, few + near) - 1, np.searchsorted(many, few - near))
    reached = (before >= 0) & (after < len(many))
    gap = many[np.minimum(after, len(many) - 1)] - many[np.maximum(before, 0)]
    apart = np.diff(few).min() if len(few) > 1 else np.inf
    common = few[reached & (gap <= apart + near)].astype(np.float64)
    return common, _interpolation(common, x_depth), _interpolation(common, y_depth)


def measured(gains: Gains, weights: Float[np.ndarray, "common layer"]) -> Measured:
    """The layers' gains (the last, of full RL, left out) at common positions, with the error of one of them.

    Dividing by full RL's gain and subtracting the base's score change neither ranks nor correlations, so their errors
    do not enter: only what moves layers against each other does.
    """
    n = len(weights)
    common = gains.combined(np.hstack([weights, np.zeros((n, 1))]))
    squares = [_spread(part.covariance) for part in common.parts]
    variance = max(sum(part.sign * s for part, s in zip(common.parts, squares, strict=True)), 0.0)
    alone = max(s for part, s in zip(common.parts, squares, strict=True) if part.sign > 0)
    variance = max(variance, alone)  # no smaller than either sample alone leaves it, as in `Gains`
    # every layer has its own error: n - 1 contrasts between them, each with the degrees of freedom of one
    uncertainty = sum(s**2 / (part.df * (n - 1)) for part, s in zip(common.parts, squares, strict=True))
    df = max(variance**2 / uncertainty, n - 1.0) if uncertainty > 0 else np.inf
    return Measured(common.mean, float(np.sqrt(variance)), df)


def shared_error(
    items: Float[np.ndarray, "both item"], benchmark: list[str], x: Float[np.ndarray, "common x_layer"],
    y: Float[np.ndarray, "common y_layer"],
) -> float:  # fmt: skip
    """The covariance of the two profiles' errors at one position, from items that both were scored on.

    `items`: gains per item, means over seeds, of all layers of the one, then of all layers of the other.
    """
    covariance = Gains.from_items(items[:, None], benchmark).parts[0].covariance
    n = x.shape[1]
    return _spread(x @ covariance[:n, n:] @ y.T)


def agreement(
    x: Measured, y: Measured, coefficient: Coefficient, *, shared: float = 0.0, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """The agreement of two profiles at the same positions, with the 95 % interval of the true profiles' agreement.

    `shared` is the covariance of their errors at one position (`shared_error`). Where neither has an error the ends
    are NaN; where one does, the interval carries its errors alone. All NaN where a profile is constant.

    Measured coverage (`python -m tests.benchmarks.agreement 60`: 60 simulated pairs of studies for each of 11 pairs of
    true profiles, among them the same one twice, opposite, independent and half alike ones, and plateaus whose order
    cannot be seen; both coefficients), smallest and mean over the pairs of profiles:

        layers      8     8     8    28    28    28
        seeds       1     3     3     1     2     3
        items     500   200   500   100   500   500
        smallest 0.97  0.98  0.97  0.93  0.92  0.95
        mean     0.99  1.00  0.99  0.98  0.98  0.98

    Where it errs it is too wide: what the errors hide of an order may be anything.
    """
    if np.ptp(x.values) == 0 or np.ptp(y.values) == 0:
        return Interval(*[float("nan")] * 3)
    observed = _observed(x.values, y.values, coefficient)
    if x.error == 0 and y.error == 0:
        return Interval(observed, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    found = [_inverted(x, y, observed, coefficient, way, shared, draws, rng) for way in (_spread_out, _levels)]
    return Interval(observed, min(low for low, _ in found), max(high for _, high in found))


def ceiling(x: Measured, y: Measured) -> float:
    """About what would be seen if the true profiles agreed wholly; 1 for profiles without errors."""
    return float(np.sqrt(x.reliability * y.reliability))


Way = Callable[[Measured, Float64[np.ndarray, "draw 1"], np.random.Generator], Float64[np.ndarray, "draw layer"]]


def _inverted(
    x: Measured, y: Measured, observed: float, coefficient: Coefficient, way: Way, shared: float, draws: int,
    rng: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    """The ends of the interval under one way of drawing profiles that may be true."""
    s_x, s_y = (_errors(m, draws, rng) for m in (x, y))
    true_x, true_y = way(x, s_x, rng), way(y, s_y, rng)
    turn = rng.random((draws, 1)) < 0.5  # which of the two is rearranged
    true_x, true_y, s_x, s_y = (np.where(turn, *pair) for pair in
                                ((true_x, true_y), (true_y, true_x), (s_x, s_y), (s_y, s_x)))  # fmt: skip
    aim = np.sin(np.pi / 2 * rng.uniform(-1, 1, (draws, 1)))  # more of them near the ends, where r* changes fast
    ends = int(_ENDS * draws)
    aim[:ends], aim[ends : 2 * ends] = 1, -1
    n = len(x.values)
    values = (true_x - true_x.mean(axis=1, keepdims=True)) / true_x.std(axis=1, keepdims=True)
    # what rearranges keeps, or turns around, the order among layers that are nearly alike: errors hide it best there
    within = np.sin(np.pi / 2 * rng.uniform(-1, 1, (draws, 1)))
    shuffle = within * stats.norm.ppf((_ranks(true_x) + 0.5) / n) + np.sqrt(1 - within**2) * rng.normal(size=(draws, n))
    order = _ranks(aim * values + np.sqrt(1 - aim**2) * shuffle)
    true_y = np.take_along_axis(np.sort(true_y, axis=1), order, axis=1)
    noise = rng.normal(size=(2, draws, n))
    both = np.clip(shared / (x.error * y.error), -0.99, 0.99) if shared else 0.0
    noise[1] = both * noise[0] + np.sqrt(1 - both**2) * noise[1]
    true = _COEFFICIENT[coefficient](true_x, true_y)
    seen = _COEFFICIENT[coefficient](true_x + s_x * noise[0], true_y + s_y * noise[1])
    places, at, counts = np.unique(np.round(true, 9), return_inverse=True, return_counts=True)

    def probability(happened: np.ndarray, *, increasing: bool) -> np.ndarray:
        share = np.bincount(at, happened) / counts
        return optimize.isotonic_regression(share, weights=counts, increasing=increasing).x

    rare = (1 - CONFIDENCE) / 2
    above = probability(seen >= observed - 1e-9, increasing=True)
    below = probability(seen <= observed + 1e-9, increasing=False)
    kept_above, kept_below = above > rare * above[-1], below > rare * below[0]
    low = float(places[kept_above].min()) if kept_above.any() else 1.0
    high = float(places[kept_below].max()) if kept_below.any() else -1.0
    return low, high


def _errors(m: Measured, draws: int, rng: np.random.Generator) -> Float64[np.ndarray, "draw 1"]:
    known = rng.chisquare(m.df, (draws, 1)) / m.df if np.isfinite(m.df) else np.ones((draws, 1))
    return m.error / np.sqrt(known)


def _spread_out(m: Measured, error: np.ndarray, rng: np.random.Generator) -> Float64[np.ndarray, "draw layer"]:
    mean, variance = m.values.mean(), m.values.var(ddof=1)
    kept = np.clip(1 - error**2 / variance, 1e-9, 1)
    noise = rng.normal(size=(len(error), len(m.values)))
    return mean + kept * (m.values - mean) + np.sqrt(kept) * error * noise


def _levels(m: Measured, error: np.ndarray, rng: np.random.Generator) -> Float64[np.ndarray, "draw layer"]:
    """Posterior draws under the levels of maximum likelihood, apart by a millionth within a level."""
    shape = (len(error), len(m.values))
    apart = 1e-6 * m.values.std() * rng.normal(size=shape)
    if m.error == 0:
        return m.values + apart
    levels = np.linspace(m.values.min(), m.values.max(), _ATOMS)
    from_nearest = (m.values[:, None] - levels) ** 2
    from_nearest -= from_nearest.min(axis=1, keepdims=True)
    likelihood = np.exp(-from_nearest / (2 * m.error**2))
    weight = np.full(_ATOMS, 1 / _ATOMS)
    for _ in range(_STEPS):
        posterior = likelihood * weight
        posterior /= posterior.sum(axis=1, keepdims=True)
        weight = posterior.mean(axis=0)
    drawn = [rng.choice(levels, len(error), p=p / p.sum()) for p in likelihood * weight]
    return np.stack(drawn, axis=1) + apart


def _observed(x: np.ndarray, y: np.ndarray, coefficient: Coefficient) -> float:
    """With ties: mid-ranks, and tau-b."""
    found: Any = (stats.spearmanr if coefficient == "spearman" else stats.kendalltau)(x, y)
    return float(np.clip(found.statistic, -1, 1))


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    n = x.shape[1]
    return 1 - 6 * ((_ranks(x) - _ranks(y)) ** 2).sum(axis=1) / (n * (n * n - 1))


def _kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    one, other = np.triu_indices(x.shape[1], 1)
    return np.mean((x[:, one] > x[:, other]) == (y[:, one] > y[:, other]), axis=1) * 2 - 1


_COEFFICIENT: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"spearman": _spearman, "kendall": _kendall}


def _ranks(values: np.ndarray) -> Int[np.ndarray, "draw layer"]:
    return values.argsort(axis=1).argsort(axis=1)


def _spread(covariance: np.ndarray) -> float:
    """tr(H C H) / (n - 1): the variance of values around their mean that a covariance matrix makes."""
    n = len(covariance)
    return float((np.trace(covariance) - covariance.sum() / n) / (n - 1))


def _interpolation(at: np.ndarray, known: np.ndarray) -> Float64[np.ndarray, "common layer"]:
    """Row i holds the weights with which values at `known` make the value at `at[i]`."""
    return np.stack([np.interp(at, known, unit) for unit in np.eye(len(known))], axis=1)

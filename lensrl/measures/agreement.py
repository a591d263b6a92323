"""Agreement of two contribution profiles, each measured with error, as an interval for the *true* profiles' agreement.

    observed    r = coefficient(x, y),    x = true x + error of x,    y = true y + error of y

The module interpolates two profiles onto common depths, estimates the errors of their values, and computes the
interval. It does not decide whether two studies agree: the claims do that.

Errors pull r toward 0. Two true profiles that agree perfectly give an observed r of about the *ceiling*, not of 1. For
Pearson's coefficient it would be sqrt(reliability of x * reliability of y) (Spearman 1904, doi:10.2307/1412159). Rank
coefficients are lower, above all on a plateau. So the ceiling is simulated, for the coefficient that is shown.

A parametric bootstrap adds noise to x and y again. It pulls r toward 0 a second time, and its interval misses the
truth. The interval here inverts a test instead. It holds every coefficient of the true profiles, over exactly these
layers, that makes the observed coefficient likely:

1. Draw profiles that may be true. The effect of errors on an order depends on the distances between the true values,
   which nobody observes. So profiles are drawn in two ways.
   *Spread*: normal variates, one per layer, shrunk to the variance that the errors leave,
   t_l ~ N(m + B (x_l - m), B s^2) with B = 1 - s^2 / Var(x).
   *Levels*: the nonparametric maximum likelihood of normal means (Kiefer and Wolfowitz 1956,
   doi:10.1214/aoms/1177728066). It turns a plateau into a plateau; within a level the order is arbitrary.
   s^2 is uncertain too, and is drawn with its degrees of freedom.
2. Rearrange the layers of one profile to every true coefficient from -1 to 1. Add new errors to both profiles. The
   coefficient of the two noisy profiles is r*.
3. Keep a true coefficient in the interval if r* >= r and r* <= r are both probable enough. Each probability must
   exceed 2.5 % of its value at the end of the scale that favours it. This is the CLs method (Read 2002,
   doi:10.1088/0954-3899/28/10/313): an r too high to be true still has an interval. The probabilities are monotone
   regressions of the draws on their true coefficient. The interval is the union over both ways of drawing.

Assumptions: the errors of all layers of a profile have one size. The errors of two studies are independent, except
through items on which both studies were scored (`shared`). CALIBRATION.md gives the measured coverage.
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
DRAWS = 2_000  # for each way of drawing
_ENDS = 0.1  # share of the draws at a true coefficient of 1, and again at -1
_ATOMS, _STEPS = 60, 300  # levels and iterations of the maximum likelihood by EM


class Measured(NamedTuple):
    """A profile at some positions in depth, with the standard error of its values.

    `values` is the profile, one value per position. `error` is the standard error of one value relative to the other
    values; 0 takes the profile as exact. `df` is the degrees of freedom of `error`.
    """

    values: Float64[np.ndarray, " layer"]
    error: float
    df: float

    @property
    def reliability(self) -> float:
        """The share of the variance over layers that is not error: 1 - s^2 / Var, at least 0.

        The errors are the errors of `Gains`: over seeds and items with several seeds, over items alone with one seed.
        """
        variance = float(self.values.var(ddof=1))
        return max(1 - self.error**2 / variance, 0.0) if variance > 0 else 0.0


def on_common_depth(
    x_depth: Float[np.ndarray, " x_layer"], y_depth: Float[np.ndarray, " y_layer"]
) -> tuple[
    Float64[np.ndarray, " common"], Float64[np.ndarray, "common x_layer"], Float64[np.ndarray, "common y_layer"]
]:
    """Return the positions that both profiles cover, and the weights that interpolate each profile linearly onto them.

    `x_depth` and `y_depth` are the middles of the measured layers, (l + 0.5) / n_layers, in increasing order: layer l
    occupies the depth from l / n_layers to (l + 1) / n_layers.

    The common positions are the positions of the profile with fewer layers, within the range of the other profile. The
    opposite choice would interpolate many positions from the same few measurements, and count each as a measurement.
    For the same reason a position is left out where it lies in a gap of the longer profile that is wider than the
    smallest distance between layers of the shorter one.

    Returns the common positions and two weight matrices, (common, x_layer) and (common, y_layer). A matrix times its
    profile gives the profile at the common positions.
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
    """Interpolate the gains of the layers to common positions, with the standard error of one position.

    `weights` (common, layer) comes from `on_common_depth`. The last gain, of full RL, is left out. Division by full
    RL's gain and subtraction of the base score change neither ranks nor correlations. So their errors do not enter:
    only errors that move layers relative to each other do.
    """
    n = len(weights)
    common = gains.combined(np.hstack([weights, np.zeros((n, 1))]))
    squares = [_variance_over_layers(part.covariance) for part in common.parts]
    variance = max(sum(part.sign * s for part, s in zip(common.parts, squares, strict=True)), 0.0)
    alone = max(s for part, s in zip(common.parts, squares, strict=True) if part.sign > 0)
    variance = max(variance, alone)  # at least the variance from either sample alone, as in `Gains`
    # Each layer has its own error: there are n - 1 contrasts between layers, each with the degrees of freedom of one.
    uncertainty = sum(s**2 / (part.df * (n - 1)) for part, s in zip(common.parts, squares, strict=True))
    df = max(variance**2 / uncertainty, n - 1.0) if uncertainty > 0 else np.inf
    return Measured(common.mean, float(np.sqrt(variance)), df)


def shared_error(
    items: Float[np.ndarray, "both item"], benchmark: list[str], x: Float[np.ndarray, "common x_layer"],
    y: Float[np.ndarray, "common y_layer"],
) -> float:  # fmt: skip
    """Return the covariance of the errors of two profiles at one position, from items on which both were scored.

    `items` holds gains per item, means over seeds: first all layers of one study, then all layers of the other.
    `benchmark` names the benchmark of each item. `x` and `y` are the weights of `on_common_depth`.
    """
    covariance = Gains.from_items(items[:, None], benchmark).parts[0].covariance
    n = x.shape[1]
    return _variance_over_layers(x @ covariance[:n, n:] @ y.T)


def agreement(
    x: Measured, y: Measured, coefficient: Coefficient, *, shared: float = 0.0, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return the coefficient of two profiles at the same positions, with a 95 % interval for the true coefficient.

    The true coefficient is the coefficient of the true profiles, without errors. The module's docstring states the
    method. `shared` is the covariance of the two profiles' errors at one position (`shared_error`). The ends of the
    interval are NaN if neither profile has an error. If one profile has an error, the interval carries the errors of
    that profile alone. All three values are NaN if a profile is constant.

    How often the interval holds the truth is counted in `lensrl/judge/CALIBRATION.md`. It is mostly too wide: an order
    that the errors hide may be any order.
    """
    if np.ptp(x.values) == 0 or np.ptp(y.values) == 0:
        return Interval(*[float("nan")] * 3)
    observed = _coefficient_with_ties(x.values, y.values, coefficient)
    if x.error == 0 and y.error == 0:
        return Interval(observed, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    ends = [
        _inverted_interval(x, y, observed, coefficient, draw_truth=draw_truth, shared=shared, draws=draws, rng=rng)
        for draw_truth in (_draw_spread, _draw_levels)
    ]
    return Interval(observed, min(low for low, _ in ends), max(high for _, high in ends))


def ceiling(x: Measured, y: Measured, coefficient: Coefficient, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the mean coefficient of two noisy profiles whose true profiles are the same.

    The true profile is drawn as in the interval: half of the draws from x and half from y, and of each one half
    *spread* and one half *levels*. The errors of both are added to it. 1 for profiles without errors.
    """
    if x.error == 0 and y.error == 0:
        return 1.0
    rng, found = np.random.default_rng(seed), []
    for source in (x, y):
        if np.ptp(source.values) == 0:
            continue
        for draw_truth in (_draw_spread, _draw_levels):
            truth = draw_truth(source, _drawn_errors(source, draws // 4, rng), rng)
            noisy = (truth + m.error * rng.normal(size=truth.shape) for m in (x, y))
            found.append(float(_COEFFICIENT[coefficient](*noisy).mean()))
    return float(np.mean(found)) if found else float("nan")


_DrawTruth = Callable[[Measured, Float64[np.ndarray, "draw 1"], np.random.Generator], Float64[np.ndarray, "draw layer"]]


def _inverted_interval(
    x: Measured, y: Measured, observed: float, coefficient: Coefficient, *, draw_truth: _DrawTruth, shared: float,
    draws: int, rng: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    """Return the ends of the interval under one way of drawing profiles that may be true."""
    # Step 1: draw profiles that may be true, and choose at random which of the two is rearranged.
    s_x, s_y = (_drawn_errors(m, draws, rng) for m in (x, y))
    true_x, true_y = draw_truth(x, s_x, rng), draw_truth(y, s_y, rng)
    turn = rng.random((draws, 1)) < 0.5
    true_x, true_y, s_x, s_y = (np.where(turn, *pair) for pair in
                                ((true_x, true_y), (true_y, true_x), (s_x, s_y), (s_y, s_x)))  # fmt: skip
    # Step 2: rearrange it to aimed true coefficients, more of them near -1 and 1, where r* changes fast.
    aim = np.sin(np.pi / 2 * rng.uniform(-1, 1, (draws, 1)))
    ends = int(_ENDS * draws)
    aim[:ends], aim[ends : 2 * ends] = 1, -1
    n = len(x.values)
    values = (true_x - true_x.mean(axis=1, keepdims=True)) / true_x.std(axis=1, keepdims=True)
    # The shuffle keeps or reverses, in part, the order of layers with nearly equal values: errors hide that order best.
    within = np.sin(np.pi / 2 * rng.uniform(-1, 1, (draws, 1)))
    shuffle = within * stats.norm.ppf((_ranks(true_x) + 0.5) / n) + np.sqrt(1 - within**2) * rng.normal(size=(draws, n))
    order = _ranks(aim * values + np.sqrt(1 - aim**2) * shuffle)
    true_y = np.take_along_axis(np.sort(true_y, axis=1), order, axis=1)
    # New errors, correlated through shared items, give the observed coefficient r*.
    noise = rng.normal(size=(2, draws, n))
    both = np.clip(shared / (x.error * y.error), -0.99, 0.99) if shared else 0.0
    noise[1] = both * noise[0] + np.sqrt(1 - both**2) * noise[1]
    true = _COEFFICIENT[coefficient](true_x, true_y)
    seen = _COEFFICIENT[coefficient](true_x + s_x * noise[0], true_y + s_y * noise[1])
    # Step 3: regress the tail probabilities on the true coefficient, and keep the coefficients that are not rare.
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


def _drawn_errors(m: Measured, draws: int, rng: np.random.Generator) -> Float64[np.ndarray, "draw 1"]:
    """Draw standard errors that are consistent with the estimated one and its degrees of freedom."""
    known = rng.chisquare(m.df, (draws, 1)) / m.df if np.isfinite(m.df) else np.ones((draws, 1))
    return m.error / np.sqrt(known)


def _draw_spread(m: Measured, error: np.ndarray, rng: np.random.Generator) -> Float64[np.ndarray, "draw layer"]:
    """Draw true profiles as normal variates, shrunk to the variance that the errors leave."""
    mean, variance = m.values.mean(), m.values.var(ddof=1)
    kept = np.clip(1 - error**2 / variance, 1e-9, 1)
    noise = rng.normal(size=(len(error), len(m.values)))
    return mean + kept * (m.values - mean) + np.sqrt(kept) * error * noise


def _draw_levels(m: Measured, error: np.ndarray, rng: np.random.Generator) -> Float64[np.ndarray, "draw layer"]:
    """Draw true profiles from the posterior under the maximum-likelihood levels.

    Values within a level differ by about a millionth of the profile's standard deviation, so that no draw has ties.
    """
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


def _coefficient_with_ties(x: np.ndarray, y: np.ndarray, coefficient: Coefficient) -> float:
    """Compute the observed coefficient. Ties get mid-ranks (Spearman) or tau-b (Kendall)."""
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


def _variance_over_layers(covariance: np.ndarray) -> float:
    """Return tr(H C H) / (n - 1), the expected variance over layers of errors with covariance C; H centres n values."""
    n = len(covariance)
    return float((np.trace(covariance) - covariance.sum() / n) / (n - 1))


def _interpolation(at: np.ndarray, known: np.ndarray) -> Float64[np.ndarray, "common layer"]:
    """Return the interpolation matrix: row i holds the weights of the values at `known` in the value at `at[i]`."""
    return np.stack([np.interp(at, known, unit) for unit in np.eye(len(known))], axis=1)

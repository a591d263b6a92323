"""The shape of a profile over depth: constant, monotone, a step, or a hump in the middle.

Each shape is a family of curves a + b z(depth) with one regressor, and depth from 0 to 1:

    constant   a
    monotone   z = depth, depth^3, or 1 - (1 - depth)^3: at an even pace, late, or early; b of either sign
    step       z = 1 beyond a change point with at least two layers on either side; b of either sign
    hump       z = a Gaussian with its peak between 0.3 and 0.7 of depth, b >= 0

Shapes compete in the prediction of unseen layers, by the leave-one-layer-out mean squared error. The member of the
family is chosen anew without the layer, so a richer family pays for its choice.

A parametric bootstrap tests whether one shape predicts better than another beyond chance. Its statistic is the
difference of the two shapes; its profiles are drawn from the other shape's best fit with the scatter that this fit
leaves (Cox 1962; Davidson and MacKinnon 2002).

The module describes one profile. It does not use errors from items or seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

SHAPES = ("constant", "monotone", "step", "hump")
PARAMETERS = {"constant": 1, "monotone": 2, "step": 3, "hump": 4}
DRAWS = 999
FEWEST_LAYERS = 6


@dataclass(frozen=True)
class ShapeFit:
    """One shape fitted to a profile.

    `error` is the leave-one-out root mean squared error, in units of the profile. `explained` is 1 - error^2 / error^2
    of the constant. `curve` is the fit at each layer. `where` is the change point (the first layer beyond it) or the
    peak, in layers; `low` and `high` are the ends of its 95 % interval under the shape. These three are NaN for shapes
    without a location. `rise` says whether b > 0.
    """

    shape: str
    error: float
    explained: float
    curve: Float64[np.ndarray, " layer"]
    where: float
    low: float
    high: float
    rise: bool


class ShapeTest(NamedTuple):
    """The fits of all shapes, and the tests of the hump.

    `fits` holds one fit per shape, `best` the name of the shape with the smallest error. `p_hump_over` holds the p of
    the hump against each other shape, and `p_over_hump` is the p of the best other shape against the hump.
    """

    fits: dict[str, ShapeFit]
    best: str
    p_hump_over: dict[str, float]
    p_over_hump: float


def compare_shapes(
    layers: Float[np.ndarray, " layer"] | np.ndarray,
    profile: Float[np.ndarray, " layer"],
    n_layers: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> ShapeTest:
    """Fit every shape to a profile over `layers` of a model with `n_layers` layers, and test the hump against the rest.

    `p_hump_over[m]` is the share of profiles of shape m that favour the hump over m at least as much as this profile
    does. `p_over_hump` is the share of profiles of the fitted hump that favour another shape at least as much. Both
    count the observed profile among the `draws`.

    Raises ValueError for fewer than 6 layers.
    """
    if len(profile) < FEWEST_LAYERS:
        raise ValueError(f"{len(profile)} layers: shapes need at least {FEWEST_LAYERS}")
    layers = np.asarray(layers)
    depth = tuple((layers / max(n_layers - 1, 1)).tolist())
    rng = np.random.default_rng(seed)
    observed = {shape: _fit_family(profile[None], shape, depth) for shape in SHAPES}
    errors = {shape: fit.error for shape, fit in observed.items()}
    rounding = 1e-9 * float(np.abs(profile).max())  # errors below this do not distinguish shapes
    fits, p_hump_over, p_over_hump = {}, {}, float("nan")
    for shape, fit in observed.items():
        # Draw profiles of this shape and fit every shape to them: the null distribution of the comparison.
        scatter = np.sqrt(np.sum((profile - fit.curve[0]) ** 2) / (len(profile) - PARAMETERS[shape]))
        drawn = fit.curve + scatter * rng.normal(size=(draws, len(profile)))
        again = {other: _fit_family(drawn, other, depth).error for other in SHAPES}
        if shape == "hump":
            p_over_hump = _p_value(_advantage(errors, "hump")[0], _advantage(again, "hump"))
        else:
            p_hump_over[shape] = _p_value(_log_ratio(errors, shape, "hump")[0], _log_ratio(again, shape, "hump"))
        where, low, high = _location(shape, fit, _fit_family(drawn, shape, depth), layers, n_layers)
        explained = 1 - fit.error[0] / errors["constant"][0] if errors["constant"][0] > rounding**2 else 0.0
        fits[shape] = ShapeFit(
            shape=shape,
            error=float(np.sqrt(fit.error[0])),
            explained=float(explained),
            curve=fit.curve[0],
            where=where,
            low=low,
            high=high,
            rise=bool(fit.slope[0] > 0),
        )
    # Among shapes whose errors are equal up to rounding, the simplest wins: SHAPES is in order of simplicity.
    best = min(SHAPES, key=lambda shape: (max(fits[shape].error, rounding), SHAPES.index(shape)))
    return ShapeTest(fits, best, p_hump_over, p_over_hump)


class _Fits(NamedTuple):
    """One family fitted to many profiles."""

    error: Float64[np.ndarray, " profile"]  # leave-one-out mean squared
    curve: Float64[np.ndarray, "profile layer"]
    member: np.ndarray  # index of the chosen curve in the family
    slope: Float64[np.ndarray, " profile"]


def _fit_family(profiles: Float[np.ndarray, "profile layer"], shape: str, depth: tuple[float, ...]) -> _Fits:
    """Fit a family by least squares, with leave-one-out errors in closed form.

    For every member z, let e be the residual and h the leverage of a layer. Without layer i, RSS - e_i^2 / (1 - h_i)
    remains, the prediction error is e_i / (1 - h_i), and the slope is b - z_i e_i / (1 - h_i) / sum(z^2).

    A hump with a negative slope is replaced by the flat curve, both with all layers and without the layer. Several
    members may fit the other layers equally well, as steps on either side of the left-out layer do. The prediction is
    then the mean of these members, so that rounding does not choose between them.
    """
    n = len(depth)
    mean = profiles.mean(axis=1, keepdims=True)
    flat = (profiles - mean)[:, None]  # (profile, 1, layer)
    if shape == "constant":
        left_out = flat[:, 0] * n / (n - 1)
        zeros = np.zeros(len(profiles))
        return _Fits((left_out**2).mean(axis=1), np.repeat(mean, n, axis=1), zeros.astype(int), zeros)
    # Every member of the family at once: residuals, and leave-one-out predictions by the leverage.
    z, size = _family(shape, depth)
    slopes = profiles @ z.T / size  # (profile, member)
    e = flat - slopes[..., None] * z  # (profile, member, layer)
    left_out = e / (1 - 1 / n - z**2 / size[:, None])
    rss, total = (e**2).sum(axis=2, keepdims=True), (flat**2).sum(axis=2, keepdims=True)
    without = rss - e * left_out
    if shape == "hump":
        falls = slopes[..., None] <= z * left_out / size[:, None]  # negative slope without the layer
        without = np.where(falls, total - flat**2 * n / (n - 1), without)
        left_out = np.where(falls, flat * n / (n - 1), left_out)
        rss, slopes = np.where(slopes[..., None] > 0, rss, total), np.maximum(slopes, 0.0)
    # Choose the member without each layer for its prediction error, and with all layers for the curve.
    best = without <= without.min(axis=1, keepdims=True) + 1e-9 * total
    errors = (best * left_out).sum(axis=1) / best.sum(axis=1)
    member = rss[..., 0].argmin(axis=1)
    slope = slopes[np.arange(len(profiles)), member]
    return _Fits((errors**2).mean(axis=1), mean + slope[:, None] * z[member], member, slope)


@lru_cache(maxsize=64)
def _family(
    shape: str, depth: tuple[float, ...]
) -> tuple[Float64[np.ndarray, "member layer"], Float64[np.ndarray, " member"]]:
    """Return the centred curves of a family, and their sums of squares."""
    x = np.asarray(depth)
    if shape == "monotone":
        curves = np.stack([x, x**3, 1 - (1 - x) ** 3])
    elif shape == "step":
        curves = np.stack([np.arange(len(x)) >= change for change in range(2, len(x) - 1)]).astype(np.float64)
    else:
        curves = np.stack([np.exp(-((x - peak) ** 2) / (2 * width**2)) for peak, width in _PEAKS_AND_WIDTHS])
    curves = curves - curves.mean(axis=1, keepdims=True)
    return curves, (curves**2).sum(axis=1)


_PEAKS_AND_WIDTHS = [(peak, width) for peak in np.linspace(0.3, 0.7, 9) for width in (0.08, 0.15, 0.25, 0.4)]


def _location(shape: str, fit: _Fits, drawn: _Fits, layers: np.ndarray, n_layers: int) -> tuple[float, float, float]:
    """Return the change point or the peak, in layers, and its 95 % interval over profiles drawn from the fit."""
    if shape not in ("step", "hump"):
        return float("nan"), float("nan"), float("nan")
    places = layers[2:-1] if shape == "step" else np.array([peak for peak, _ in _PEAKS_AND_WIDTHS]) * (n_layers - 1)
    low, high = np.quantile(places[drawn.member], [0.025, 0.975], method="closest_observation")
    return float(places[fit.member[0]]), float(low), float(high)


def _log_ratio(errors: dict[str, np.ndarray], shape: str, other: str) -> np.ndarray:
    """Return log(error of `shape` / error of `other`): positive where `other` predicts better.

    Profiles without noise leave errors of rounding size, which count as equal.
    """
    tiny = 1e-12 + 1e-12 * errors["constant"]
    return np.log(errors[shape] + tiny) - np.log(errors[other] + tiny)


def _advantage(errors: dict[str, np.ndarray], shape: str) -> np.ndarray:
    """Return the log error ratio of `shape` to the best other shape: positive where another shape predicts better."""
    return np.max(np.stack([_log_ratio(errors, shape, other) for other in SHAPES if other != shape]), axis=0)


def _p_value(observed: float, drawn: np.ndarray) -> float:
    """Return the one-sided p. Values that differ from the observed one by rounding count as equal to it."""
    return float((1 + np.sum(drawn >= observed - 1e-9)) / (1 + len(drawn)))

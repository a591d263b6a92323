"""Which shape a profile over depth has: constant, monotone, a step, or a hump in the middle.

Each shape is a family of one-regressor curves a + b z(depth) with depth from 0 to 1:

    constant   a
    monotone   z = depth, depth^3, or 1 - (1 - depth)^3: at an even pace, late, or early; b of either sign
    step       z = 1 beyond a change point with at least two layers on either side; b of either sign
    hump       z = a Gaussian with its peak between 0.3 and 0.7 of depth, b >= 0

Shapes are compared by what they predict for layers they have not seen: leave-one-layer-out mean squared error, the
member of the family chosen anew without the layer, so that a richer family pays for its choice. Whether one shape is
better than another beyond chance is asked by a parametric bootstrap of the difference under the other (Cox 1962;
Davidson and MacKinnon 2002): profiles are drawn from the other's best fit with the scatter that it leaves.
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
    """A shape fitted to a profile.

    `error` is the leave-one-out root mean squared error, in units of the profile; `explained` is 1 - error^2 over
    that of the constant. `where` is the change point (the first layer beyond it) or the peak, in layers, with the
    ends of its 95 % interval under the shape; NaN for shapes that have none. `rise` is b > 0.
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
    """The fits by shape, the best of them, and p of the hump against each other shape, and of the others against it."""

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
    """Fit every shape to a profile over `layers` of a model with `n_layers`, and test the hump against the others.

    p_hump_over[m]: how often profiles of shape m favour the hump over m by as much as this one does. p_over_hump: how
    often profiles of the fitted hump favour another shape by as much. Raises ValueError below 6 layers.
    """
    if len(profile) < FEWEST_LAYERS:
        raise ValueError(f"{len(profile)} layers: shapes need at least {FEWEST_LAYERS}")
    layers = np.asarray(layers)
    depth = tuple((layers / max(n_layers - 1, 1)).tolist())
    rng = np.random.default_rng(seed)
    observed = {shape: _fit(profile[None], shape, depth) for shape in SHAPES}
    errors = {shape: fit.error for shape, fit in observed.items()}
    rounding = 1e-9 * float(np.abs(profile).max())  # no error below it tells one shape from another
    fits, p_hump_over, p_over_hump = {}, {}, float("nan")
    for shape, fit in observed.items():
        scatter = np.sqrt(np.sum((profile - fit.curve[0]) ** 2) / (len(profile) - PARAMETERS[shape]))
        drawn = fit.curve + scatter * rng.normal(size=(draws, len(profile)))
        again = {other: _fit(drawn, other, depth).error for other in SHAPES}
        if shape == "hump":
            p_over_hump = _p(_advantage(errors, "hump")[0], _advantage(again, "hump"))
        else:
            p_hump_over[shape] = _p(_log_ratio(errors, shape, "hump")[0], _log_ratio(again, shape, "hump"))
        where, low, high = _located(shape, fit, _fit(drawn, shape, depth), layers, n_layers)
        explained = 1 - fit.error[0] / errors["constant"][0] if errors["constant"][0] > rounding**2 else 0.0
        fits[shape] = ShapeFit(
            shape,
            float(np.sqrt(fit.error[0])),
            float(explained),
            fit.curve[0],
            where,
            low,
            high,
            bool(fit.slope[0] > 0),
        )
    best = min(SHAPES, key=lambda shape: (max(fits[shape].error, rounding), SHAPES.index(shape)))
    return ShapeTest(fits, best, p_hump_over, p_over_hump)


class _Fits(NamedTuple):
    """One family fitted to many profiles."""

    error: Float64[np.ndarray, " profile"]  # leave-one-out mean squared
    curve: Float64[np.ndarray, "profile layer"]
    member: np.ndarray  # which of the family's curves
    slope: Float64[np.ndarray, " profile"]


def _fit(profiles: Float[np.ndarray, "profile layer"], shape: str, depth: tuple[float, ...]) -> _Fits:
    """Least squares for every member z: residual e, leverage h; without layer i, RSS - e_i^2 / (1 - h_i) remains,
    e_i / (1 - h_i) is the error of its prediction, and b - z_i e_i / (1 - h_i) / sum(z^2) the slope. Where the hump's
    slope would be negative its curve is flat, with the layer and without. Members that fit the other layers equally
    well (steps on either side of the layer) predict it by their mean, not by which of them rounding prefers.
    """
    n = len(depth)
    mean = profiles.mean(axis=1, keepdims=True)
    flat = (profiles - mean)[:, None]  # (profile, 1, layer)
    if shape == "constant":
        left_out = flat[:, 0] * n / (n - 1)
        zeros = np.zeros(len(profiles))
        return _Fits((left_out**2).mean(axis=1), np.repeat(mean, n, axis=1), zeros.astype(int), zeros)
    z, size = _family(shape, depth)
    slopes = profiles @ z.T / size  # (profile, member)
    e = flat - slopes[..., None] * z  # (profile, member, layer)
    left_out = e / (1 - 1 / n - z**2 / size[:, None])
    rss, total = (e**2).sum(axis=2, keepdims=True), (flat**2).sum(axis=2, keepdims=True)
    without = rss - e * left_out
    if shape == "hump":
        falls = slopes[..., None] <= z * left_out / size[:, None]  # without the layer
        without = np.where(falls, total - flat**2 * n / (n - 1), without)
        left_out = np.where(falls, flat * n / (n - 1), left_out)
        rss, slopes = np.where(slopes[..., None] > 0, rss, total), np.maximum(slopes, 0.0)
    best = without <= without.min(axis=1, keepdims=True) + 1e-9 * total
    errors = (best * left_out).sum(axis=1) / best.sum(axis=1)
    member = rss[..., 0].argmin(axis=1)
    slope = slopes[np.arange(len(profiles)), member]
    return _Fits((errors**2).mean(axis=1), mean + slope[:, None] * z[member], member, slope)


@lru_cache(maxsize=64)
def _family(
    shape: str, depth: tuple[float, ...]
) -> tuple[Float64[np.ndarray, "member layer"], Float64[np.ndarray, " member"]]:
    """The centred curves of a family, and their sums of squares."""
    x = np.asarray(depth)
    if shape == "monotone":
        curves = np.stack([x, x**3, 1 - (1 - x) ** 3])
    elif shape == "step":
        curves = np.stack([np.arange(len(x)) >= change for change in range(2, len(x) - 1)]).astype(np.float64)
    else:
        curves = np.stack([np.exp(-((x - peak) ** 2) / (2 * width**2)) for peak, width in _HUMPS])
    curves = curves - curves.mean(axis=1, keepdims=True)
    return curves, (curves**2).sum(axis=1)


_HUMPS = [(peak, width) for peak in np.linspace(0.3, 0.7, 9) for width in (0.08, 0.15, 0.25, 0.4)]


def _located(shape: str, fit: _Fits, drawn: _Fits, layers: np.ndarray, n_layers: int) -> tuple[float, float, float]:
    """The change point or the peak in layers, and where it falls in 95 % of profiles drawn from the fit."""
    if shape not in ("step", "hump"):
        return float("nan"), float("nan"), float("nan")
    places = layers[2:-1] if shape == "step" else np.array([peak for peak, _ in _HUMPS]) * (n_layers - 1)
    low, high = np.quantile(places[drawn.member], [0.025, 0.975], method="closest_observation")
    return float(places[fit.member[0]]), float(low), float(high)


def _log_ratio(errors: dict[str, np.ndarray], shape: str, other: str) -> np.ndarray:
    """How much better `other` predicts than `shape`; noise-free profiles leave errors of rounding, taken as equal."""
    tiny = 1e-12 + 1e-12 * errors["constant"]
    return np.log(errors[shape] + tiny) - np.log(errors[other] + tiny)


def _advantage(errors: dict[str, np.ndarray], shape: str) -> np.ndarray:
    """How much better the best other shape predicts than `shape`."""
    return np.max(np.stack([_log_ratio(errors, shape, other) for other in SHAPES if other != shape]), axis=0)


def _p(observed: float, drawn: np.ndarray) -> float:
    """One-sided; what differs by rounding alone is as large."""
    return float((1 + np.sum(drawn >= observed - 1e-9)) / (1 + len(drawn)))

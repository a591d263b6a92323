"""The shape of a profile over depth: constant, monotone, a step, a sigmoid, a hump, or an asymmetric hump.

Each shape is a family of curves a + b z(depth) with one regressor, and depth from 0 to 1:

    constant          a
    monotone          z = depth, depth^3, or 1 - (1 - depth)^3: at an even pace, late, or early; b of either sign
    step              z = 1 beyond a change point with at least two layers on either side; b of either sign
    sigmoid           z = 1 / (1 + exp(-(depth - place) / width)); b of either sign
    hump              z = a Gaussian with its peak between 0.3 and 0.7 of depth, b >= 0
    asymmetric hump   the same with another width on either side of the peak

Shapes compete in the prediction of unseen layers, by the leave-one-layer-out mean squared error. The member of the
family is chosen anew without the layer, so a richer family pays for its choice.

The shapes describe one profile. Whether it rises and falls is tested without them, in `lensrl.measures.rise_and_fall`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy import special

SHAPES = ("constant", "monotone", "step", "sigmoid", "hump", "asymmetric hump")
PARAMETERS = {"constant": 1, "monotone": 2, "step": 3, "sigmoid": 4, "hump": 4, "asymmetric hump": 5}
HUMPS = ("hump", "asymmetric hump")
DRAWS = 199
FEWEST_LAYERS = 6


@dataclass(frozen=True)
class ShapeFit:
    """One shape fitted to a profile.

    `error` is the leave-one-out root mean squared error, in units of the profile. `explained` is 1 - error^2 / error^2
    of the constant. `curve` is the fit at each layer. `where` is the change point (the first layer beyond it), the
    place of the sigmoid, or the peak, in layers; `low` and `high` are the ends of its 95 % interval under the shape.
    These three are NaN for shapes without a location. `rise` says whether b > 0.
    """

    shape: str
    error: float
    explained: float
    curve: Float64[np.ndarray, " layer"]
    where: float
    low: float
    high: float
    rise: bool


def compare_shapes(
    layers: Float[np.ndarray, " layer"] | np.ndarray,
    profile: Float[np.ndarray, " layer"],
    n_layers: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, ShapeFit]:
    """Fit every shape to a profile over `layers` of a model with `n_layers` layers.

    The interval of a location comes from `draws` profiles of the fitted shape, with the scatter that the fit leaves.

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
    fits = {}
    for shape, fit in observed.items():
        scatter = np.sqrt(np.sum((profile - fit.curve[0]) ** 2) / (len(profile) - PARAMETERS[shape]))
        where = low = high = float("nan")
        if shape not in ("constant", "monotone"):
            drawn = fit.curve + scatter * rng.normal(size=(draws, len(profile)))
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
    return fits


def best_shape(fits: dict[str, ShapeFit]) -> ShapeFit:
    """Return the shape with the smallest error. Among errors that are equal up to rounding, the simplest shape wins."""
    rounding = 1e-9 * max(float(np.abs(fit.curve).max()) for fit in fits.values())
    return min(fits.values(), key=lambda fit: (max(fit.error, rounding), SHAPES.index(fit.shape)))


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
    if shape in HUMPS:
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
    elif shape == "sigmoid":
        curves = np.stack([special.expit((x - place) / width) for place, width in _SIGMOIDS])
    else:
        widths = [np.where(x < peak, before, behind) for peak, before, behind in _PEAKS[shape]]
        peaks = [peak for peak, _, _ in _PEAKS[shape]]
        curves = np.stack([np.exp(-(((x - p) / w) ** 2) / 2) for p, w in zip(peaks, widths, strict=True)])
    curves = curves - curves.mean(axis=1, keepdims=True)
    return curves, (curves**2).sum(axis=1)


_SIGMOIDS = [(place, width) for place in np.linspace(0.1, 0.9, 33) for width in (0.03, 0.05, 0.1)]
_WIDTHS = (0.08, 0.15, 0.25, 0.4)
_PEAKS = {
    "hump": [(peak, width, width) for peak in np.linspace(0.3, 0.7, 9) for width in _WIDTHS],
    "asymmetric hump": [
        (peak, before, behind)
        for peak in np.linspace(0.3, 0.7, 9)
        for before in (*_WIDTHS, 1.0)
        for behind in (*_WIDTHS, 1.0)
    ],
}


def _location(shape: str, fit: _Fits, drawn: _Fits, layers: np.ndarray, n_layers: int) -> tuple[float, float, float]:
    """Return the change point, the place or the peak, in layers, and its 95 % interval over draws from the fit."""
    if shape == "step":
        places = layers[2:-1]
    else:
        members = _SIGMOIDS if shape == "sigmoid" else _PEAKS[shape]
        places = np.array([member[0] for member in members]) * (n_layers - 1)
    low, high = np.quantile(places[drawn.member], [0.025, 0.975], method="closest_observation")
    return float(places[fit.member[0]]), float(low), float(high)

"""Correlation of two series over layers beyond a trend in depth that both may share.

Two profiles over depth that share a step, a hump, a decay or an odd end layer correlate strongly and have nothing else
in common. A quadratic does not remove such trends. The trend here is

    b_0 + b_1 [first layer] + b_2 [last layer] + sum over k <= K of c_k cos(pi k u) + edges,    u = depth from 0 to 1

K is at most a third of the number of layers. An edge is a step, a bend (a straight line that begins at some layer), or
a decay from the first or the last layer, exp(-l / tau) with tau = 1, 2 or 4 layers: cosines fit none of them. Each
series chooses its own K and edges, at most four, by the corrected Akaike criterion (Hurvich and Tsai 1989,
doi:10.1093/biomet/76.2.297). The larger K and the edges of both are then removed from *both* series, so that neither
series alone decides. End layers are odd ones in most measures: they are always left out.

No list of curves holds every trend. What is left of a series may be the misfit of its trend, and two series with one
trend share the misfit. With u and v for the residuals of x and y, without their end layers, the coefficient is

    r = u.v / sqrt((|u|^2 + (0.05 |x - mean|)^2) (|v|^2 + (0.05 |y - mean|)^2))

So deviations count in full where they are well above a twentieth of the series, and for little below.

A bump of a few layers that stands out of the noise in both series is no trend but a relation. With 28 layers this is so
for a bump of five layers or fewer.

With few layers this trend takes all degrees of freedom. So a relation beyond depth is tested from 24 layers on.

The module correlates arrays. It judges no claim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Real
from scipy import special

FEWEST_LAYERS = 24
_MOST_EDGES = 4  # of one series: a plateau has two steps, or four bends
_MISFIT = 0.05  # of a series' standard deviation: smaller deviations may be the misfit of its trend
_DECAYS = (1.0, 2.0, 4.0)  # in layers, from either end
_FIRST_STEP = 2  # a step has at least two layers before it, and two behind it or the last one, which is left out


@dataclass(frozen=True)
class Detrended:
    """The correlation of the residuals that a flexible trend in depth leaves of two series over `n` layers.

    `low` and `high` are the ends of the 95 % interval. `p_above` and `p_below` are one-sided, for the hypotheses that
    the true coefficient is at most 0 and at least 0. `shift_p` is two-sided, by circular shifts of the residuals: it
    cannot be smaller than 1 / `n`. `df` is the degrees of freedom. `waves` is K, and `edges` the number of edges in the
    trend. `with_ends` is the coefficient with the end layers kept. `reason` says why the values are NaN.
    """

    coefficient: float
    low: float
    high: float
    p_above: float
    p_below: float
    shift_p: float
    n: int
    df: float
    waves: int
    edges: int
    with_ends: float
    reason: str


def correlate_detrended(
    depth: Real[np.ndarray, " layer"],
    x: Float[np.ndarray, " layer"],
    y: Float[np.ndarray, " layer"],
    *,
    given: Float[np.ndarray, " layer"] | None = None,
    confidence: float = 0.95,
) -> Detrended:
    """Correlate x with y after removal of a trend in depth (see the module), and of a cubic in `given`, from both.

    A straight line in `given` would leave what both owe to it in a curve.

    p comes from Student's t. The interval is Fisher's, with standard error 1 / sqrt(df - 1). The degrees of freedom,

        df = (n - columns - 1) (1 - a b) / (1 + a b),    at most n - columns - 1,

    allow for the lag-one autocorrelations a and b of the residuals (Bretherton et al. 1999,
    doi:10.1175/1520-0442(1999)012<1990:TENOSD>2.0.CO;2).

    The result is NaN, with a reason, for fewer than 24 layers, or where the trend leaves nothing of a series.
    """
    finite = np.isfinite(x) & np.isfinite(y) & (np.isfinite(given) if given is not None else True)
    n = int(finite.sum())
    if n < FEWEST_LAYERS:
        return _undefined(
            n, f"{n} layers with both values: beyond a trend in depth at least {FEWEST_LAYERS} are needed"
        )
    order = np.argsort(depth[finite], kind="stable")
    depth, x, y = depth[finite][order], x[finite][order], y[finite][order]
    also = [] if given is None else _powers(given[finite][order])

    # each series chooses a trend; the union of both is removed from both
    places = tuple(np.asarray(depth, np.float64).tolist())
    chosen = [_choose(values, places) for values in (x, y)]
    waves = max(trend.waves for trend in chosen)
    edges = sorted({edge for trend in chosen for edge in trend.edges})
    columns = [*_columns(places, waves), *_edges(n)[edges], *also]
    u, v = _residuals(columns, x, y)
    if any(np.linalg.norm(left) <= 1e-9 * np.linalg.norm(whole) for left, whole in ((u, x), (v, y))):
        return _undefined(n, "a trend in depth leaves nothing of one of the two")

    # the coefficient, and the layers that the autocorrelation of both leaves
    floors = [_MISFIT * np.linalg.norm(left) for left in _residuals(columns[:3], x, y)]
    common = autocorrelation(u / np.linalg.norm(u)) * autocorrelation(v / np.linalg.norm(v))
    u, v = (left / math.hypot(np.linalg.norm(left), floor) for left, floor in zip((u, v), floors, strict=True))
    r = float(np.clip(u @ v, -1 + 1e-12, 1 - 1e-12))
    left = n - len(columns) - 1
    df = max(min(float(left), left * (1 - common) / (1 + common)), 1.0)
    t = r * math.sqrt(df / (1 - r * r))
    reach = float(special.ndtri((1 + confidence) / 2)) / math.sqrt(max(df - 1, 1e-9))
    shifts = u[np.arange(n) - np.arange(n)[:, None]] @ v  # a row for each circular shift of u
    kept = [c for i, c in enumerate(columns) if i not in (1, 2)]
    u_ends, v_ends = (
        left / math.hypot(np.linalg.norm(left), floor)
        for left, floor in zip(_residuals(kept, x, y), floors, strict=True)
    )
    return Detrended(
        coefficient=r,
        low=math.tanh(math.atanh(r) - reach),
        high=math.tanh(math.atanh(r) + reach),
        p_above=float(special.stdtr(df, -t)),
        p_below=float(special.stdtr(df, t)),
        shift_p=float(np.mean(np.abs(shifts) >= abs(r) - 1e-12)),
        n=n,
        df=df,
        waves=waves,
        edges=len(edges),
        with_ends=float(u_ends @ v_ends),
        reason="",
    )


def effective_size(values: Float[np.ndarray, " layer"]) -> float:
    """Return the number of independent layers that would give the mean of a series with the same precision.

    n (1 - a) / (1 + a), at most n, with a the lag-one autocorrelation (Bayley and Hammersley 1946,
    doi:10.2307/2983560).
    """
    centred = values - values.mean()
    length = float(np.linalg.norm(centred))
    a = max(autocorrelation(centred / length), 0.0) if length > 0 else 0.0
    return len(values) * (1 - a) / (1 + a)


def autocorrelation(residual: Float[np.ndarray, " layer"]) -> float:
    """Return the lag-one autocorrelation of a series of mean 0 and norm 1, at most 0.95.

    Most of the bias that few layers cause is removed (Marriott and Pope 1954).
    """
    seen = float(residual[1:] @ residual[:-1])
    return min(seen + (1 + 3 * seen) / len(residual), 0.95)


def _undefined(n: int, reason: str) -> Detrended:
    nan = math.nan
    return Detrended(nan, nan, nan, nan, nan, nan, n, nan, 0, 0, nan, reason)


class _Trend(NamedTuple):
    waves: int
    edges: tuple[int, ...]  # rows of `_edges`


def _choose(values: Float[np.ndarray, " layer"], depth: tuple[float, ...]) -> _Trend:
    """Return the trend with the smallest corrected Akaike criterion.

    For each number of waves, edges are added one at a time, each the edge that explains most of what is left. An edge
    counts as two parameters, its place or its length, and its height; the error variance is one.
    """
    return _best_trend(tuple(np.asarray(values, np.float64).tolist()), depth)


@lru_cache(maxsize=256)
def _best_trend(series: tuple[float, ...], depth: tuple[float, ...]) -> _Trend:
    """Choose a trend; C_l meets many predictors and rivals, and its trend is chosen once."""
    values, n, bases = np.array(series), len(series), _bases(depth)
    tiny = 1e-18 * float(values @ values) + 1e-300
    # all numbers of waves at once: what is left of the series, and of every edge
    rest = np.stack([values - basis @ (basis.T @ values) for basis in bases.waves])
    edges, row = bases.edges, np.arange(len(rest))
    chosen = np.empty((_MOST_EDGES, len(rest)), int)
    best, least = _Trend(0, ()), math.inf
    for count in range(_MOST_EDGES + 1):
        parameters = bases.columns + 2 * count + 1
        spare = n - parameters - 1
        left = np.maximum((rest**2).sum(axis=1), tiny)
        criterion = np.where(spare < 1, math.inf, n * np.log(left / n) + 2 * parameters * n / np.maximum(spare, 1))
        waves = int(criterion.argmin())
        if criterion[waves] < least:
            best = _Trend(waves, tuple(chosen[:count, waves].tolist()))
            least = float(criterion[waves])
        if count == _MOST_EDGES:
            break
        # take the edge that explains most, and remove it from the rest and from the other edges
        length = np.maximum((edges**2).sum(axis=1), 1e-9)
        along = np.einsum("wl,wle->we", rest, edges)
        chosen[count] = (along**2 / length).argmax(axis=1)
        unit = edges[row, :, chosen[count]] / np.sqrt(length[row, chosen[count]])[:, None]
        rest = rest - unit * (unit * rest).sum(axis=1, keepdims=True)
        edges = edges - unit[:, :, None] * np.einsum("wl,wle->we", unit, edges)[:, None]
    return best


class _Bases(NamedTuple):
    """For each number of waves: an orthonormal basis without edges, its size, and what it leaves of every edge."""

    waves: list[Float64[np.ndarray, "layer column"]]
    columns: np.ndarray
    edges: Float64[np.ndarray, "waves layer edge"]


@lru_cache(maxsize=16)
def _bases(depth: tuple[float, ...]) -> _Bases:
    every = _edges(len(depth)).T
    bases = [np.linalg.qr(np.stack(_columns(depth, waves), axis=1))[0] for waves in range(len(depth) // 3 + 1)]
    edges = np.stack([every - q @ (q.T @ every) for q in bases])
    return _Bases(bases, np.array([q.shape[1] for q in bases]), edges)


def _columns(depth: tuple[float, ...], waves: int) -> list[np.ndarray]:
    """Return the constant, the two end layers, and the cosines."""
    at = np.array(depth)
    n, low, high = len(at), at.min(), at.max()
    u = ((at - low) / (high - low) * (n - 1) + 0.5) / n
    odd = [(at == low).astype(np.float64), (at == high).astype(np.float64)]
    return [np.ones(n), *odd, *(np.cos(np.pi * k * u) for k in range(1, waves + 1))]


@lru_cache(maxsize=16)
def _edges(n: int) -> Float64[np.ndarray, "edge layer"]:
    """Return every step and every bend, and the decays from the first and from the last layer."""
    layer = np.arange(n)
    bends = [np.maximum(layer - place, 0) / (n - place) for place in range(n - 2)]
    steps = [(layer >= place).astype(np.float64) for place in range(_FIRST_STEP, n - 1)]
    return np.stack(
        [*steps, *bends, *(np.exp(-from_end / tau) for from_end in (layer, layer[::-1]) for tau in _DECAYS)]
    )


def _powers(values: Float[np.ndarray, " layer"]) -> list[Float64[np.ndarray, " layer"]]:
    """Return the powers 1 to 3 of a series in standard units; fewer for a series of few different values."""
    most = min(3, len(np.unique(values)) - 1)
    if most < 1:
        return []
    z = (values - values.mean()) / values.std()
    return [z**power for power in range(1, most + 1)]


def _residuals(columns: list[np.ndarray], *series: Float[np.ndarray, " layer"]) -> list[Float64[np.ndarray, " layer"]]:
    """Return what least squares on the columns leaves of each series."""
    q, _ = np.linalg.qr(np.stack(columns, axis=1))
    return [values - q @ (q.T @ values) for values in series]

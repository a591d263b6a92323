"""The scores of a run at a given distance from the base, between two points of its training.

Let a run have the distances x_0 = 0, x_1, ..., x_n from the base before its first step and after some steps, and the
scores s_0 (the base's), s_1, ..., s_n of the items there. Both are taken as linear between two points. Let x be reached
for the first time between the points i and i + 1. Then

    s(x) = s_i + w (s_(i+1) - s_i),        w = (x - x_i) / (x_(i+1) - x_i)

A distance need not grow with every step: what follows after the first time is left out.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64


def scores_at(
    distance: Float64[np.ndarray, " point"], scores: Float[np.ndarray, "point item"], x: float
) -> Float64[np.ndarray, " item"]:
    """Return the scores of the items where the path first reaches the distance `x`.

    The first point is the base, at distance 0. Raises ValueError for a path that begins elsewhere, and for an `x` that
    is negative, or that the path does not reach.
    """
    if distance[0] != 0:
        raise ValueError(f"a path begins at the base, and this one at the distance {distance[0]:g}")
    if not 0 <= x <= distance.max():
        raise ValueError(f"the path goes from 0 to {distance.max():g}, and does not reach {x:g}")
    after = int(np.argmax(distance >= x))
    if after == 0:
        return scores[0].astype(np.float64)
    before = after - 1
    weight = (x - distance[before]) / (distance[after] - distance[before])
    return scores[before] + weight * (scores[after].astype(np.float64) - scores[before])

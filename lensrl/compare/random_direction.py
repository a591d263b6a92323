"""The control of a weight delta: a random direction with the same norm.

Each parameter gets W + R || D || / || R ||, with D its delta and R of independent normal numbers. A measure of D
that is no different for R tells of the size of the change, and not of its direction.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32


def random_direction(
    before: Mapping[str, Float32[np.ndarray, "..."]], after: Mapping[str, Float32[np.ndarray, "..."]], draw: int
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Return `after` with a random delta of the same norm in each parameter that changed.

    A parameter that did not change stays the very array of `before`. The random numbers follow from the name of the
    parameter and the number of the draw alone. The sum is rounded to fp32, as trained weights are: deltas near the
    distance of two fp32 numbers get another norm.
    """
    return {
        name: before[name] if after[name] is before[name] else _moved(before[name], after[name], name, draw)
        for name in before
    }


def _moved(
    before: Float32[np.ndarray, "..."], after: Float32[np.ndarray, "..."], name: str, draw: int
) -> Float32[np.ndarray, "..."]:
    rng = np.random.default_rng([draw, zlib.crc32(name.encode())])
    noise = rng.standard_normal(before.shape, np.float32)
    noise *= np.float32(np.linalg.norm(after - before) / np.linalg.norm(noise))
    noise += before
    return noise

"""Rounding of weights to bfloat16 and float16: the rounded numbers, and the norm that their errors have.

A weight w becomes the nearest number of the type. Two neighbouring numbers at w are u apart: u = 2^(e - p) for
2^(e - 1) <= |w| < 2^e, with p binary digits of the significand.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float32

BLOCK = 2**16  # entries of a block that stays in a core's cache

# Type -> binary digits of its significand, and the exponent of its smallest number.
PRECISION = {"bfloat16": (8, -133), "float16": (11, -24)}


def round_to_bf16(array: Float[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Round to the nearest bfloat16 numbers, ties to even, and return them as fp32."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return np.asarray((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def rounding_norm(weights: Float[np.ndarray, "..."], dtype: str) -> float:
    """Return the norm that the errors of rounding weights to bfloat16 or float16 have: sqrt(sum u^2 / 12).

    u is the distance between two neighbouring numbers of the type at each weight; the error is uniform over it. For
    other types, the result is 0. A weight that is 0 counts at the smallest u of the type.

    The difference of two rounded weights has independent errors where the true change is at least u. Where it is far
    smaller, most entries do not move, and the others move by u: the difference is smaller than the two norms together,
    and still mostly rounding.
    """
    if dtype not in PRECISION:
        return 0.0
    digits, smallest = PRECISION[dtype]
    # Few exponents occur: count them in the bits of fp32 (8 bits, biased by 126 here), and sum over them in float64.
    flat, counts = np.asarray(weights, np.float32).reshape(-1), np.zeros(256)
    for start in range(0, flat.size, BLOCK):
        bits = flat[start : start + BLOCK].view(np.uint32)
        counts += np.bincount((bits >> 23) & 0xFF, minlength=256)
    spacing = np.ldexp(1.0, np.maximum(np.arange(256) - 126 - digits, smallest))
    return math.sqrt(float(np.sum(counts * spacing**2)) / 12)

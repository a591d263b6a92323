"""Measures of the change D that training makes to a weight matrix W, which becomes W' = W + D.

Size: || D ||_F, || D ||_F / || W ||_F, and the spectral norm || D ||_2.

Spread over directions: the stable rank || D ||_F^2 / || D ||_2^2, and the effective rank exp(-sum p log p) with
p = s / sum(s) over the singular values s of D (Roy & Vetterli 2007).

Relation to W: the cosine of W and W' as vectors; the normalised spectral shift || s(W') - s(W) ||_2 / || s(W) ||_2;
the largest principal angle between the spaces of the k leading left, and right, singular vectors of W and W'
(Bjoerck & Golub 1973); and the overlap of the update's support with W's largest and smallest entries. Zhu et al. 2025
(arXiv 2511.08567) measure the last three for RL, and find updates off the principal directions.

Control: read each beside the same measure of a random delta of the same norm.

A matrix with one row, a vector (a norm's gain) and a scalar have no meaningful directions. Measures that need singular
values are NaN for them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.linalg import subspace_angles

LEADING = 16  # leading singular vectors to compare; at most half of the matrix's singular vectors
SUPPORT = 0.1  # share of entries that counts as the update's support, and as W's largest or smallest

# Type -> binary digits of its significand, and the exponent of its smallest number.
PRECISION = {"bfloat16": (8, -133), "float16": (11, -24)}


class DeltaMetrics(NamedTuple):
    """All measures of the change of one weight.

    `frobenius`, `relative`, `spectral`: || D ||_F, || D ||_F / || W ||_F, || D ||_2.
    `stable_rank`, `effective_rank`: of D, in directions.
    `weight_cosine`: the cosine of W and W'.
    `changed_share`: the share of entries whose fp32 value changed.
    `changed_share_bf16`: the share of entries that still differ when both values are rounded to bfloat16.
    `spectral_shift`: || s(W') - s(W) ||_2 / || s(W) ||_2.
    `left_angle`, `right_angle`: the largest principal angles, in degrees.
    `overlap_largest`: of the 10 % of entries with the largest |D|, the share among the 10 % with the largest |W|.
    `overlap_smallest`: the same with the smallest |W|. Both overlaps are `SUPPORT` = 0.1 by chance.
    """

    frobenius: float
    relative: float
    spectral: float
    stable_rank: float
    effective_rank: float
    weight_cosine: float
    changed_share: float
    changed_share_bf16: float
    spectral_shift: float
    left_angle: float
    right_angle: float
    overlap_largest: float
    overlap_smallest: float


SPECTRAL = (
    "spectral",
    "stable_rank",
    "effective_rank",
    "spectral_shift",
    "left_angle",
    "right_angle",
)  # NaN unless W is a matrix


def delta_metrics(before: Float[np.ndarray, "..."], after: Float[np.ndarray, "..."]) -> DeltaMetrics:
    """Compare a weight before and after training, arrays of one shape, in float64.

    Raises ValueError for different shapes, or values that are not finite.
    """
    if before.shape != after.shape:
        raise ValueError(f"shapes differ: {before.shape} before, {after.shape} after")
    w, changed = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if not (np.isfinite(w).all() and np.isfinite(changed).all()):
        raise ValueError("a weight holds a NaN or an infinity")
    delta = np.asarray(changed - w)
    norm, weight_norm, changed_norm = (float(np.linalg.norm(array)) for array in (delta, w, changed))
    lengths = weight_norm * changed_norm
    return DeltaMetrics(
        frobenius=norm,
        relative=norm / weight_norm if weight_norm else math.nan,
        **_spectrum_of_delta(delta),
        weight_cosine=float(np.vdot(w, changed)) / lengths if lengths else math.nan,
        changed_share=float(np.mean(before != after)),
        changed_share_bf16=float(np.mean(round_to_bf16(before) != round_to_bf16(after))),
        **_relation_to_weight(w, changed),
        **_support_overlaps(w, delta),
    )


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
    mantissa, exponent = np.frexp(np.asarray(weights, np.float32))
    exponent = np.where(mantissa == 0, smallest, np.maximum(exponent - digits, smallest))
    counts = np.bincount((exponent - smallest).ravel())  # few exponents occur: sum over them, in float64
    spacing = np.ldexp(1.0, np.arange(len(counts)) + smallest)
    return math.sqrt(float(np.sum(counts * spacing**2)) / 12)


def _spectrum_of_delta(delta: Float64[np.ndarray, "..."]) -> dict[str, float]:
    if not _is_matrix(delta):
        return dict.fromkeys(("spectral", "stable_rank", "effective_rank"), math.nan)
    s = np.linalg.svd(delta, compute_uv=False)
    if s[0] == 0:
        return {"spectral": 0.0, "stable_rank": math.nan, "effective_rank": math.nan}
    p = s / s.sum()
    entropy = -float(np.sum(p * np.log(p, out=np.zeros_like(p), where=p > 0)))
    return {
        "spectral": float(s[0]),
        "stable_rank": float((s**2).sum() / s[0] ** 2),
        "effective_rank": math.exp(entropy),
    }


def _relation_to_weight(w: Float64[np.ndarray, "..."], changed: Float64[np.ndarray, "..."]) -> dict[str, float]:
    if not _is_matrix(w):
        return dict.fromkeys(("spectral_shift", "left_angle", "right_angle"), math.nan)
    (u, s, v), (u2, s2, v2) = (np.linalg.svd(matrix, full_matrices=False) for matrix in (w, changed))
    k = min(LEADING, len(s) // 2)
    return {
        "spectral_shift": float(np.linalg.norm(s2 - s) / np.linalg.norm(s)) if s.any() else math.nan,
        "left_angle": math.degrees(subspace_angles(u[:, :k], u2[:, :k]).max()),
        "right_angle": math.degrees(subspace_angles(v[:k].T, v2[:k].T).max()),
    }


def _support_overlaps(w: Float64[np.ndarray, "..."], delta: Float64[np.ndarray, "..."]) -> dict[str, float]:
    count = round(SUPPORT * w.size)
    if count == 0 or not delta.any():
        return dict.fromkeys(("overlap_largest", "overlap_smallest"), math.nan)
    support = np.argpartition(np.abs(delta), -count, axis=None)[-count:]
    ordered = np.argpartition(np.abs(w), (count, w.size - count), axis=None)
    return {
        "overlap_largest": len(np.intersect1d(support, ordered[-count:])) / count,
        "overlap_smallest": len(np.intersect1d(support, ordered[:count])) / count,
    }


def _is_matrix(array: np.ndarray) -> bool:
    return array.ndim == 2 and min(array.shape) > 1

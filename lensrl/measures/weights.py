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
values are NaN for them. A mixture of experts keeps one matrix for each expert in a stack of three dimensions. There,
these measures are medians over the experts that changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import subspace_angles

from lensrl.measures.algebra import LAPACK, Algebra
from lensrl.measures.joined import ENTRIES, Weights, in_blocks
from lensrl.measures.rounding import round_to_bf16
from lensrl.measures.spectra import Matrix
from lensrl.measures.support import support_overlaps

LEADING = 16  # leading singular vectors to compare; at most half of the matrix's singular vectors
TOLERANCE = 1e-6  # relative error of a measure, above which Gram matrices give way to an SVD
ANGLE = 1e-9  # the same for angles near 0, in radians


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
    `overlap_smallest`: the same with the smallest |W|. Both overlaps are 0.1 by chance.
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


class EntryMetrics(NamedTuple):
    """The measures that need no singular values, as in `DeltaMetrics`."""

    frobenius: float
    relative: float
    weight_cosine: float
    changed_share: float
    changed_share_bf16: float
    overlap_largest: float
    overlap_smallest: float


class SpectralMetrics(NamedTuple):
    """The measures that need singular values, as in `DeltaMetrics`, and those of them that come from an SVD."""

    spectral: float
    stable_rank: float
    effective_rank: float
    spectral_shift: float
    left_angle: float
    right_angle: float
    by_svd: tuple[str, ...]  # of `effective_rank` (with the two before it), `spectral_shift`, `angle`


SPECTRAL = SpectralMetrics._fields[:-1]  # NaN unless W is a matrix, or a stack of them


def delta_metrics(before: Float[np.ndarray, "..."], after: Float[np.ndarray, "..."]) -> DeltaMetrics:
    """Compare a weight before and after training, arrays of one shape, in float64.

    Raises ValueError for different shapes, or values that are not finite.
    """
    return join_metrics(entry_metrics(lambda: [(before, after)]), spectral_metrics(before, after))


def join_metrics(entries: EntryMetrics, spectra: SpectralMetrics) -> DeltaMetrics:
    """Put the measures of entries and of singular values together."""
    found = entries._asdict() | spectra._asdict()
    return DeltaMetrics(**{name: found[name] for name in DeltaMetrics._fields})


def entry_metrics(weights: Weights) -> EntryMetrics:
    """Compute the measures that need no singular values, of weights laid end to end, block by block, in float64.

    Raises ValueError for different shapes, or values that are not finite.
    """
    squares = np.zeros(4)  # <D, D>, <W, W>, <W', W'>, <W, W'>
    size = changed = changed_bf16 = 0
    for one, other in in_blocks(weights(), ENTRIES):
        w, w2 = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if not (np.isfinite(w).all() and np.isfinite(w2).all()):
            raise ValueError("a weight holds a NaN or an infinity")
        d = w2 - w
        squares += d @ d, w @ w, w2 @ w2, w @ w2
        size += one.size
        changed += np.count_nonzero(one != other)
        changed_bf16 += np.count_nonzero(round_to_bf16(one) != round_to_bf16(other))
    norm, weight_norm, changed_norm = map(math.sqrt, squares[:3])
    lengths = weight_norm * changed_norm
    return EntryMetrics(
        frobenius=norm,
        relative=norm / weight_norm if weight_norm else math.nan,
        weight_cosine=float(squares[3]) / lengths if lengths else math.nan,
        changed_share=changed / size,
        changed_share_bf16=changed_bf16 / size,
        **support_overlaps(weights, size, moved=bool(changed > 0)),
    )


def spectral_metrics(
    before: Float[np.ndarray, "..."], after: Float[np.ndarray, "..."], algebra: Algebra = LAPACK
) -> SpectralMetrics:
    """Compute the measures that need singular values. All are NaN unless the weight is a matrix, or a stack of them.

    Singular values and spaces come from Gram matrices (`lensrl.measures.spectra`). A measure that this could change by
    more than `TOLERANCE` of its value comes from an SVD, and `by_svd` names it. `algebra`: see `Matrix`.
    """
    if before.ndim == 3:
        return _of_a_stack(before, after, algebra)
    if not _is_matrix(before):
        return SpectralMetrics(*[math.nan] * 6, by_svd=())
    w, changed = Matrix(before, algebra=algebra), Matrix(after, algebra=algebra)
    spectral, stable_rank, effective_rank, ranks_by_svd = spectrum_of_delta(Matrix(after, before, algebra=algebra))
    shift, shift_by_svd = _spectral_shift(w, changed)
    left, right, angles_by_svd = _angles(w, changed, min(LEADING, min(before.shape) // 2))
    by_svd = {"effective_rank": ranks_by_svd, "spectral_shift": shift_by_svd, "angle": angles_by_svd}
    return SpectralMetrics(
        spectral, stable_rank, effective_rank, shift, left, right, by_svd=tuple(name for name in by_svd if by_svd[name])
    )


def _of_a_stack(
    before: Float[np.ndarray, "n row column"], after: Float[np.ndarray, "n row column"], algebra: Algebra
) -> SpectralMetrics:
    """Compute the medians over the matrices of a stack that changed: the experts of a mixture are stored as one."""
    pairs = zip(before, after, strict=True)
    found = [spectral_metrics(w, changed, algebra) for w, changed in pairs if not np.array_equal(w, changed)]
    return medians(found)


def medians(found: Sequence[SpectralMetrics]) -> SpectralMetrics:
    """Compute the medians over several matrices; NaN where no matrix has a number."""
    columns = [list(column) for column in zip(*(one[:-1] for one in found), strict=True)]
    by_svd = dict.fromkeys(name for one in found for name in one.by_svd)
    return SpectralMetrics(*map(_median, columns or [[]] * 6), by_svd=tuple(by_svd))


def _median(values: list[float]) -> float:
    """Return the median of the numbers among `values`; NaN where there is none."""
    numbers = [value for value in values if not math.isnan(value)]
    return float(np.median(numbers)) if numbers else math.nan


def spectrum_of_delta(delta: Matrix) -> tuple[float, float, float, bool]:
    """Return the spectral norm, the stable and the effective rank, and whether they come from an SVD."""
    s, error = delta.singular_values()
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = s / s.sum(), np.maximum(s, error) / s.sum()
        # The entropy changes by at most |d s_i| |log p_i + H| / sum(s) for each i.
        uncertain = float(np.sum(error * (np.abs(np.log(q)) + np.log(len(s)) + 1)) / s.sum())
    by_svd = not uncertain <= TOLERANCE
    if by_svd:
        s, _ = delta.singular_values(exact=True)
        if s[0] == 0:
            return 0.0, math.nan, math.nan, False
        p = s / s.sum()
    entropy = -float(np.sum(p * np.log(p, out=np.zeros_like(p), where=p > 0)))
    return float(s[0]), float(((s / s[0]) ** 2).sum()), math.exp(entropy), by_svd


def _spectral_shift(w: Matrix, changed: Matrix) -> tuple[float, bool]:
    """Return || s(W') - s(W) ||_2 / || s(W) ||_2, and whether it comes from an SVD."""
    (s, error), (s2, error2) = w.singular_values(), changed.singular_values()
    shift, uncertain = float(np.linalg.norm(s2 - s)), float(np.linalg.norm(error + error2))
    # An SVD has errors, too: it knows a shift that is nearly 0 no better than up to this.
    known = 4 * np.finfo(np.float64).eps * math.sqrt(len(s)) * float(s[0])
    by_svd = not uncertain <= max(TOLERANCE * shift, known)
    if by_svd:
        s, s2 = w.singular_values(exact=True).values, changed.singular_values(exact=True).values
        unit = float(s[0]) or 1.0  # squares of tiny values would underflow
        s, s2 = s / unit, s2 / unit
        shift = float(np.linalg.norm(s2 - s))
    return (shift / float(np.linalg.norm(s)) if s.any() else math.nan), by_svd


def _angles(w: Matrix, changed: Matrix, k: int) -> tuple[float, float, bool]:
    """Return the largest principal angles of the leading left and right spaces, and whether they come from an SVD."""
    one, other = w.leading(k), changed.leading(k)
    uncertain = one.error + other.error
    if math.isfinite(uncertain):
        angles = [float(subspace_angles(*pair).max()) for pair in zip(one[:2], other[:2], strict=True)]
        if uncertain <= max(TOLERANCE * min(angles), ANGLE):
            return math.degrees(angles[0]), math.degrees(angles[1]), False
    one, other = w.leading(k, exact=True), changed.leading(k, exact=True)
    left, right = (float(subspace_angles(*pair).max()) for pair in zip(one[:2], other[:2], strict=True))
    return math.degrees(left), math.degrees(right), True


def _is_matrix(array: np.ndarray) -> bool:
    return array.ndim == 2 and min(array.shape) > 1

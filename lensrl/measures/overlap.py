"""Do two models solve the same items? Their overlap, its baseline, and unions and votes of models.

Take one sample of each item from model A and one from model B. With a_i and b_i 1 where the sample is right,

    J(A, B) = sum_i w_i P(a_i = 1 and b_i = 1) / sum_i w_i P(a_i = 1 or b_i = 1)                (Jaccard's coefficient)

w_i are the weights of the items in the score. Both probabilities are estimated without bias from all pairs of samples.
Pairs with the same number are left out: they share their random numbers. So J(A, A), of two different samples of one
model, is the baseline: even the same model does not solve the same items twice. J is 1 only for models that are sure of
every item.

With one sample per item there is no such pair. J(A, B) is then of the samples themselves, and there is no baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

from lensrl.errors import LensrlError
from lensrl.measures.gains import CONFIDENCE, Interval
from lensrl.measures.item_scores import Samples, vote
from lensrl.measures.score import item_weights


def overlap(a: Samples, b: Samples, *, confidence: float = CONFIDENCE) -> Interval:
    """Return J(A, B) with its interval over items; J(A, A), the baseline, where `b` is `a` itself.

    The interval is that of a ratio of two means over items, by linearisation. NaN where nothing is solved, and for the
    baseline of a model with one sample per item. Raises LensrlError for scores that are not 0 or 1.
    """
    both, either = _pairs(a, b)
    weights = item_weights(a.benchmark.tolist())
    nan = float("nan")
    if not np.isfinite(both).all() or not weights @ either:
        return Interval(nan, nan, nan)
    ratio = float(weights @ both / (weights @ either))
    # The error of each item's share, around the mean of its benchmark.
    error = weights * (both - ratio * either) / (weights @ either)
    variance, df = 0.0, 0
    for name in np.unique(a.benchmark):
        part = error[a.benchmark == name]
        if len(part) < 2:
            raise LensrlError(f"benchmark {str(name)!r} has a single item: at least two are needed")
        variance += len(part) * float(part.var(ddof=1))
        df += len(part) - 1
    reach = float(stats.t.ppf((1 + confidence) / 2, df)) * variance**0.5
    return Interval(ratio, max(0.0, ratio - reach), min(1.0, ratio + reach))


def _pairs(a: Samples, b: Samples) -> tuple[Float64[np.ndarray, " item"], Float64[np.ndarray, " item"]]:
    """Return P(both are right) and P(one of them is right), per item."""
    right_a, right_b, there = _right(a), _right(b), a.there & b.there
    n = there.sum(axis=1)
    of_a, of_b = ((right & there).sum(axis=1) for right in (right_a, right_b))
    same = (right_a & right_b & there).sum(axis=1)
    several = n > 1
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.where(several, (of_a * of_b - same) / (n * (n - 1)), same if a is not b else np.nan)
    return both, of_a / n + of_b / n - both


def union(models: Sequence[Samples]) -> Float64[np.ndarray, " item"]:
    """Return the chance that at least one of the models solves an item, with one sample of each.

    Model j gives its sample number s + j, modulo the number of samples; the result is a mean over s. So no two models
    share their random numbers, as long as an item has as many samples as there are models.
    """
    right = _drawn(models, [_right(model) for model in models])
    there = models[0].there
    return (right.any(axis=0) & there).sum(axis=1) / there.sum(axis=1)


def vote_of(models: Sequence[Samples]) -> Float64[np.ndarray, " item"]:
    """Return the score of the most frequent answer of the models, with one sample of each, drawn as in `union`.

    Raises LensrlError where answers were not kept: see `lensrl.measures.item_scores.vote`.
    """
    there = models[0].there
    vote(models[0])  # raises where answers were not kept
    scores = _drawn(models, [model.score for model in models])
    answers = _drawn(models, [np.zeros(there.shape) if m.answer is None else m.answer for m in models])
    voted = np.zeros(there.shape)
    for sample in range(there.shape[1]):
        items = np.flatnonzero(there[:, sample])
        chosen = Samples(
            models[0].benchmark[items], scores[:, items, sample].T, answer=answers[:, items, sample].T.astype(np.int64)
        )
        voted[items, sample] = vote(chosen)
    return voted.sum(axis=1) / there.sum(axis=1)


def same_model(model: Samples, count: int) -> list[Samples]:
    """Return one model `count` times, to take so many of its own samples in `union` and `vote_of`.

    Raises LensrlError where an item has fewer samples: the same sample would count twice.
    """
    fewest = int(model.there.sum(axis=1).min())
    if count > fewest:
        raise LensrlError(f"{count} samples of one run are needed, and an item has {fewest}")
    return [model] * count


def _drawn(models: Sequence[Samples], values: Sequence[np.ndarray]) -> np.ndarray:
    """Shift the samples of model j by j places, within the samples that an item has: (model, item, sample)."""
    counts = models[0].there.sum(axis=1)
    places = np.arange(models[0].score.shape[1])
    shifted = []
    for j, array in enumerate(values):
        at = np.where(places < counts[:, None], (places + j) % counts[:, None], places)
        shifted.append(np.take_along_axis(array, at, axis=1))
    return np.stack(shifted)


def _right(samples: Samples) -> Bool[np.ndarray, "item sample"]:
    score = np.where(samples.there, samples.score, 0.0)
    if not np.isin(score, (0.0, 1.0)).all():
        raise LensrlError("an overlap is of solved items, and these scores are not all 0 or 1")
    return score == 1.0

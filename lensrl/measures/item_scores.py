"""Scores of items from their samples: the mean, pass@k, a vote, scores of what ended; and log p of the reference.

Let item i have n_i samples with scores s_ij, and let e_ij be 1 where the completion ended below the token limit.

    mean                  s_i = mean over j of s_ij
    pass@k                1 - C(n_i - c_i, k) / C(n_i, k), c_i right samples        (Chen et al. 2021, arXiv 2107.03374)
    vote                  the mean score of the samples that gave the most frequent answer (maj@n; ties: their mean)
    finished              mean over j of e_ij s_ij: ended, and right
    right given finished  sum of e_ij s_ij / sum of e_ij, over the samples of a benchmark
    logprob               the mean log-probability of the item's reference and its end, in nats per token; no sampling

All but "right given finished" are means over items. That one is a ratio R = X / Y of two means over the items of a
benchmark. It is returned as its linearisation, R + (x_i - R y_i) / Y: the mean over items is R exactly, and the
deviations of items give the error of a ratio estimator (Cochran 1977, "Sampling Techniques", section 2.11). No item has
to be left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from lensrl.errors import LensrlError, did_you_mean

KINDS = ("mean", "pass@K", "vote", "finished", "right-given-finished", "logprob")
NO_ANSWER, NOT_KEPT = -1, -2  # in `Samples.answer`: the sample gave none; the task names none, or there is no sample


@dataclass(frozen=True)
class Samples:
    """The samples of one model on some items. Items may have different numbers of samples: scores are then NaN.

    `answer` holds a number for each sample, the same for equal answers of an item; `NO_ANSWER` where it gave none,
    `NOT_KEPT` where its task names no answers. What was not measured is None.
    """

    benchmark: np.ndarray
    score: Float64[np.ndarray, "item sample"]
    truncated: Bool[np.ndarray, "item sample"] | None = None
    length: Int64[np.ndarray, "item sample"] | None = None
    answer: Int64[np.ndarray, "item sample"] | None = None
    reference_logprob: Float64[np.ndarray, " item"] | None = None  # NaN where an item has no reference

    @property
    def there(self) -> Bool[np.ndarray, "item sample"]:
        """True where the item has this sample."""
        return np.isfinite(self.score)

    def chosen(self, items: np.ndarray) -> Samples:
        """Return some of the items, by their places or by a mask."""
        arrays = (self.truncated, self.length, self.answer, self.reference_logprob)
        return Samples(self.benchmark[items], self.score[items], *(None if a is None else a[items] for a in arrays))


def item_scores(samples: Samples, kind: str = "mean") -> Float64[np.ndarray, " item"]:
    """Return the score of every item: `kind` is one of `KINDS`, with a number for K.

    Raises LensrlError for an unknown kind, for more samples than an item has, for pass@k of scores that are not 0 or 1,
    and where the samples lack what the kind needs: truncation, answers or log-probabilities of references.
    """
    found = re.fullmatch(r"pass@([1-9]\d*)", kind)
    if found:
        return pass_at_k(samples, int(found[1]))
    if kind.startswith("pass@"):
        fewest = samples.there.sum(axis=1).min()
        raise LensrlError(
            f"score {kind!r}: K of pass@K is 1 or more, and at most the samples of an item, here {fewest}"
        )
    if kind == "mean":
        return item_means(samples.score, samples.there)
    if kind == "vote":
        return vote(samples)
    if kind not in KINDS:
        raise LensrlError(f"there is no score {kind!r}{did_you_mean(kind, KINDS)}")
    if kind == "logprob":
        return _reference_logprob(samples)
    if samples.truncated is None:
        raise LensrlError(f"score {kind!r} needs to know which completions ended, and these scores were made elsewhere")
    ended = samples.there & ~samples.truncated
    right = item_means(np.where(ended, samples.score, 0.0), samples.there)
    if kind == "finished":
        return right
    return _linearised_ratio(right, item_means(ended.astype(np.float64), samples.there), samples.benchmark)


def possible(runs: Sequence[Samples]) -> tuple[str, ...]:
    """Return the kinds of score that the samples of all runs allow, the mean first.

    pass@K has the largest K that every item allows, above 1. A vote needs three samples or more: of two, none is the
    more frequent. The scores of what ended are left out where no completion was truncated, for they equal the mean.
    """
    fewest = min(int(samples.there.sum(axis=1).min()) for samples in runs)
    kinds = [f"pass@{fewest}"] if fewest > 1 else []
    kinds += ["vote"] if fewest > 2 else []
    if any(samples.truncated is not None and samples.truncated[samples.there].any() for samples in runs):
        kinds += ["finished", "right-given-finished"]
    kinds += ["logprob"]
    return ("mean", *(kind for kind in kinds if all(_allows(samples, kind) for samples in runs)))


def _allows(samples: Samples, kind: str) -> bool:
    try:
        item_scores(samples, kind)
    except LensrlError:
        return False
    return True


def item_means(
    values: Float[np.ndarray, "item sample"], there: Bool[np.ndarray, "item sample"]
) -> Float64[np.ndarray, " item"]:
    """Return the mean over the samples that are there."""
    return np.where(there, values, 0.0).sum(axis=1, dtype=np.float64) / there.sum(axis=1)


def pass_at_k(samples: Samples, k: int) -> Float64[np.ndarray, " item"]:
    """Return the unbiased estimate of the chance that at least one of k samples is right.

    Raises LensrlError for more than the samples of an item, and for scores that are not 0 or 1.
    """
    there = samples.there
    n, right = there.sum(axis=1), np.where(there, samples.score, 0.0)
    if not np.isin(right, (0.0, 1.0)).all():
        raise LensrlError("pass@k counts right and wrong samples, and these scores are not all 0 or 1")
    if k > n.min():
        fewest = samples.benchmark[n.argmin()]
        raise LensrlError(f"pass@{k} needs {k} samples of each item, and benchmark {str(fewest)!r} has {n.min()}")
    wrong = n - right.sum(axis=1)
    # C(n - c, k) / C(n, k), as a product: each factor is the chance that the next sample drawn is wrong, too.
    left = np.arange(k)[:, None]
    return 1.0 - np.prod(np.maximum(wrong - left, 0.0) / (n - left), axis=0)


def vote(samples: Samples) -> Float64[np.ndarray, " item"]:
    """Return the mean score of each item's most frequent answer. Samples without an answer do not vote.

    Where several answers are the most frequent, their mean score counts. An item without any answer has the mean score
    of its samples. Raises LensrlError where answers were not kept.
    """
    unkept = samples.there if samples.answer is None else samples.there & (samples.answer == NOT_KEPT)
    if samples.answer is None or unkept.any():
        name = str(samples.benchmark[unkept.any(axis=1)][0])
        raise LensrlError(f"a vote needs the answers of samples, and benchmark {name!r} has none: its task names none")
    voters = samples.there & (samples.answer != NO_ANSWER)
    # How many samples of its item gave the answer of each sample.
    names, name = np.unique(samples.answer[voters], return_inverse=True)
    _, same, counts = np.unique(np.nonzero(voters)[0] * len(names) + name, return_inverse=True, return_counts=True)
    votes = np.zeros(samples.score.shape, np.int64)
    votes[voters] = counts[same]
    # Answers that are the most frequent have equally many samples, so the mean over all of these is the mean of theirs.
    won = voters & (votes == votes.max(axis=1, keepdims=True))
    return item_means(samples.score, np.where(voters.any(axis=1)[:, None], won, samples.there))


def _reference_logprob(samples: Samples) -> Float64[np.ndarray, " item"]:
    found = samples.reference_logprob
    unknown = np.ones(len(samples.benchmark), bool) if found is None else ~np.isfinite(found)
    if found is None or unknown.any():
        name = str(samples.benchmark[unknown][0])
        raise LensrlError(
            f"score 'logprob' needs a reference of each item, and benchmark {name!r} has items without one"
        )
    return found


def _linearised_ratio(
    right: Float64[np.ndarray, " item"], ended: Float64[np.ndarray, " item"], benchmark: Sequence[str] | np.ndarray
) -> Float64[np.ndarray, " item"]:
    names = np.asarray(benchmark)
    found = np.empty(len(right))
    for name in np.unique(names):
        here = names == name
        whole = ended[here].mean()
        if whole == 0:
            raise LensrlError(f"no completion on benchmark {str(name)!r} ended below the token limit")
        ratio = right[here].mean() / whole
        found[here] = ratio + (right[here] - ratio * ended[here]) / whole
    return found

"""Did full RL find new answers, or does it give those that the base already samples more often?

The mean score is pass@1. Where RL only sharpens, pass@1 rises, and pass@k, the chance that one of k samples is right,
does not (Yue et al. 2025, arXiv 2504.13837). C_l divides by the gain of pass@1, and does not see the difference.

pass@k of a base is nearer to 1, so gains are compared as shares of the gap to 1:

    (S_full - S_base) / (1 - S_base)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from lensrl.errors import LensrlError
from lensrl.measures.gains import Gains, Interval
from lensrl.measures.score import mean_score
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.run import Run
from lensrl.store.scored_by import ScoredBy
from lensrl.store.study import Study

SMALL = 0.5  # of the share that full RL closes in the mean score


def sharpening(study: Study) -> list[str]:
    """Say where pass@k says otherwise than the mean score. k: the fewest samples of an item.

    One sentence where full RL closes less than half as much of the gap to 1, with 95 % confidence. Two where the order
    of full RL and layers alone turns: the mean over layers of S_l - S_full is below 0 in the mean score and above 0 at
    pass@k, both with 95 % confidence. The two also where every layer is above full RL at pass@k and the first mean is
    below 0; the second then says whether the turn is certain. Nothing is said where items have one sample, of scores
    other than 0 and 1, and without layers.
    """
    k = int(study.benchmarks().query("not also")["samples"].min())
    full = study.runs.of(FULL, scored=True)
    layers = [found for layer in study.layers if (found := study.runs.of(layer_run(layer), scored=True))]
    seeds = sorted(set(full).intersection(*layers)) if layers else []
    if k < 2 or not seeds:
        return []
    runs = [[of[seed] for seed in seeds] for of in (full, *layers)]
    try:
        mean, at_k = (_measure(study[BASE], runs, ScoredBy(score=score)) for score in ("mean", f"pass@{k}"))
    except LensrlError:  # scores between 0 and 1, or a benchmark with one item
        return []
    return _closes_less(mean, at_k, k) + _order_turns(mean, at_k, k)


class _Measured(NamedTuple):
    closed: Float64[np.ndarray, "seed item"] | None  # what each item adds to the share of the gap that full RL closes
    ahead: Interval  # the mean over layers of S_l - S_full
    full: float  # S_full
    layers: list[float]  # S_l
    benchmark: list[str]  # of each item


def _measure(base: Run, runs: list[list[Run]], by: ScoredBy) -> _Measured:
    """Measure full RL, the first of `runs`, and the layers after it, each with its seeds, beside the base."""
    benchmark = by.items(base)["benchmark"].tolist()
    where = np.arange(len(benchmark))
    start = by.scores(base, base, where)
    full, *layers = (np.stack([by.scores(run, base, where) for run in of]) for of in runs)
    scores = [mean_score(values.mean(axis=0), benchmark) for values in (full, *layers)]
    gap, closed = 1 - mean_score(start, benchmark), None
    if gap > 0:
        share = (scores[0] - 1 + gap) / gap
        # The ratio of two means to first order: its mean over items is the ratio, its spread that of gain and gap.
        closed = share + (full - start - share * (1 - start)) / gap
    ahead = _interval(np.mean(layers, axis=0) - full, benchmark)
    return _Measured(closed, ahead, scores[0], scores[1:], benchmark)


def _closes_less(mean: _Measured, at_k: _Measured, k: int) -> list[str]:
    if mean.closed is None or at_k.closed is None:
        return []
    of_mean, of_best, less = (
        _interval(share, mean.benchmark) for share in (mean.closed, at_k.closed, SMALL * mean.closed - at_k.closed)
    )
    if of_mean.low <= 0 or less.low <= 0:
        return []
    return [
        f"Full RL sharpens: it closes {_shown(of_mean)} of the gap to 1 in the mean score, and {_shown(of_best)} at "
        f"pass@{k}."
    ]


def _order_turns(mean: _Measured, at_k: _Measured, k: int) -> list[str]:
    more, of = sum(score > at_k.full for score in at_k.layers), len(at_k.layers)
    certain = at_k.ahead.low > 0
    if not (mean.ahead.high < 0 and certain) and not (mean.ahead.value < 0 and more == of):
        return []
    which = "every one" if more == of else f"{more} of {of}"
    return [
        f"At pass@{k} the order turns. Full RL solves {at_k.full:.3f}; {which} of the single layers solves more, "
        f"{np.mean(at_k.layers):.3f} on average (difference {_shown(at_k.ahead, 3)}). The difference in the "
        f"mean score is {_shown(mean.ahead, 3)}.",
        f"So full RL is right more often, but solves fewer items in {k} samples than layers alone."
        if certain
        else f"The interval at pass@{k} contains 0: the turn is not certain.",
    ]


def _interval(values: Float64[np.ndarray, "seed item"], benchmark: list[str]) -> Interval:
    return Gains.from_items(values[None], benchmark).contrast(np.ones(1)).interval()


def _shown(share: Interval, digits: int = 2) -> str:
    return f"{share.value:.{digits}f} [{share.low:.{digits}f}, {share.high:.{digits}f}]"

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
from lensrl.measures.gains import CONFIDENCE, Estimate, Gains, Interval
from lensrl.measures.score import mean_score
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.scored_by import ScoredBy
from lensrl.store.study import Study

SMALL = 0.5  # of the share that full RL closes in the mean score


def sharpening(study: Study) -> list[str]:
    """Say where pass@k certainly says otherwise than the mean score. k: the fewest samples of an item.

    One sentence where full RL closes less than half as much of the gap to 1. One where layers alone gain more than full
    RL at pass@k, but not in the mean score. Both hold over items and seeds with 95 % confidence; that of a layer is
    corrected for the number of layers (Bonferroni). Nothing is said where items have one sample, of scores other than
    0 and 1, and without layers.
    """
    k = int(study.benchmarks().query("not also")["samples"].min())
    if k < 2 or not study.layers or not study.runs.of(FULL, scored=True):
        return []
    best = f"pass@{k}"
    try:
        mean, at_k = (_measure(study, ScoredBy(score=score)) for score in ("mean", best))
    except LensrlError:  # scores between 0 and 1, or a benchmark with one item
        return []
    said = []
    if mean.closed is not None and at_k.closed is not None:
        of_mean, of_best, less = (
            _estimate(share, mean.benchmark).interval()
            for share in (mean.closed, at_k.closed, SMALL * mean.closed - at_k.closed)
        )
        if of_mean.low > 0 and less.low > 0:
            said.append(
                f"Full RL sharpens: it closes {_share(of_mean)} of the gap to 1 in the mean score, and "
                f"{_share(of_best)} at {best}."
            )
    certain = (1 - CONFIDENCE) / 2 / max(len(at_k.ahead), 1)
    more = [
        layer
        for layer, ahead in at_k.ahead.items()
        if float(ahead.p_above()) < certain and float(mean.ahead[layer].value) <= 0
    ]
    if more:
        gain = "gains" if len(more) == 1 else "gain"
        said.append(
            f"{len(more)} of {len(at_k.ahead)} layers alone certainly {gain} more than full RL at {best}, and not in "
            f"the mean score: {', '.join(map(str, more))}."
        )
    return said


class _Measured(NamedTuple):
    """`closed`: what each item adds to the share of the gap that full RL closes. `ahead`: S_l - S_full by layer."""

    closed: Float64[np.ndarray, "seed item"] | None  # None for a base that solves everything
    ahead: dict[int, Estimate]
    benchmark: list[str]  # of each item


def _measure(study: Study, by: ScoredBy) -> _Measured:
    base = study[BASE]
    benchmark = by.items(base)["benchmark"].tolist()
    where = np.arange(len(benchmark))
    start = by.scores(base, base, where)
    full = {seed: by.scores(run, base, where) for seed, run in study.runs.of(FULL, scored=True).items()}
    ahead = {}
    for layer in study.layers:
        alone = study.runs.of(layer_run(layer), scored=True)
        if shared := [seed for seed in full if seed in alone]:
            gains = np.stack([by.scores(alone[seed], base, where) - full[seed] for seed in shared])
            ahead[layer] = _estimate(gains, benchmark)
    gap = 1 - mean_score(start, benchmark)
    if gap == 0:
        return _Measured(None, ahead, benchmark)
    gained = np.stack([*full.values()]) - start
    share = mean_score(gained.mean(axis=0), benchmark) / gap
    # The ratio of two means to first order: its mean over items is the ratio, its spread that of numerator and gap.
    return _Measured(share + (gained - share * (1 - start)) / gap, ahead, benchmark)


def _estimate(values: Float64[np.ndarray, "seed item"], benchmark: list[str]) -> Estimate:
    return Gains.from_items(values[None], benchmark).contrast(np.ones(1))


def _share(share: Interval) -> str:
    return f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"

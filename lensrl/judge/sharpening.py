"""Did full RL find new answers, or does it give those that the base already samples more often?

The mean score s is pass@1. Where RL only sharpens, pass@1 rises and pass@k, the chance that one of k samples is right,
does not (Yue et al. 2025, arXiv 2504.13837). C_l divides by the gain of pass@1, and does not see the difference.
"""

from __future__ import annotations

from lensrl.errors import LensrlError
from lensrl.recipe.runs import BASE
from lensrl.store.scored_by import ScoredBy
from lensrl.store.study import Study

SMALL = 0.5  # of the gain of the mean score: a smaller gain of pass@k is said


def sharpening(study: Study) -> str:
    """Return a sentence where full RL gains less than half as much at pass@k as in the mean score; else nothing.

    k is the number of samples of an item. Nothing is said where there is one, and of scores other than 0 and 1.
    """
    k = int(study.benchmarks().query("not also")["samples"].min())
    score = f"pass@{k}"
    try:
        mean, best = study.contributions(), study.contributions(score=score)
    except LensrlError:  # scores between 0 and 1, or no layers
        return ""
    known = best.dropna(subset=["numerator"])
    if k < 2 or not len(known) or not mean["denominator"].gt(0).any():
        return ""
    gain, at_k = mean["denominator"].max(), known.iloc[0]
    if at_k["denominator"] >= SMALL * gain:
        return ""
    more = int((known["numerator"] > known["denominator"]).sum())
    return (
        f"full RL sharpened: it gains {gain:.3f} in the mean score, and {at_k['denominator']:.3f} "
        f"[{at_k['denominator_low']:.3f}, {at_k['denominator_high']:.3f}] at {score}, where the base has "
        f"{ScoredBy(score=score).score_of(study[BASE]):.3f}; {more} of {len(known)} layers alone gain more there"
    )

"""Did full RL find new answers, or does it give those that the base already samples more often?

The mean score is pass@1. Where RL only sharpens, pass@1 rises, and pass@k, the chance that one of k samples is right,
does not (Yue et al. 2025, arXiv 2504.13837). C_l divides by the gain of pass@1, and does not see the difference.

pass@k of a base is nearer to 1, so gains are compared as shares of the gap to 1:

    (S_full - S_base) / (1 - S_base)
"""

from __future__ import annotations

from lensrl.errors import LensrlError
from lensrl.recipe.runs import BASE
from lensrl.store.scored_by import ScoredBy
from lensrl.store.study import Study

SMALL = 0.5  # of the share that full RL closes in the mean score


def sharpening(study: Study) -> str:
    """Return a sentence where pass@k says otherwise than the mean score; else nothing. k: the samples of an item.

    It says otherwise where full RL closes less than half as much of the gap to 1, and where more than half of the
    layers alone gain more than full RL, but not in the mean score. Nothing is said where items have one sample, and of
    scores other than 0 and 1.
    """
    k = int(study.benchmarks().query("not also")["samples"].min())
    best = f"pass@{k}"
    try:
        tables = [study.contributions(score=score).dropna(subset=["numerator"]) for score in ("mean", best)]
    except LensrlError:  # scores between 0 and 1, or no layers
        return ""
    starts = [ScoredBy(score=score).score_of(study[BASE]) for score in ("mean", best)]
    if k < 2 or not all(map(len, tables)) or 1.0 in starts:
        return ""
    closed, closed_at_k = (t["denominator"].iloc[0] / (1 - start) for t, start in zip(tables, starts, strict=True))
    more, more_at_k = (int((table["numerator"] > table["denominator"]).sum()) for table in tables)
    said = []
    if closed > 0 and closed_at_k < SMALL * closed:
        said.append(
            f"full RL sharpened: it closes {closed:.2f} of the gap to 1 in the mean score, {closed_at_k:.2f} at {best}"
        )
    if more_at_k > len(tables[1]) / 2 >= more:
        said.append(
            f"{more_at_k} of {len(tables[1])} layers alone gain more than full RL at {best}, {more} in the mean score"
        )
    return "; ".join(said)

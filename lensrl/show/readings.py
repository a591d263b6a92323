"""Sentences that say what a table of the page shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError
from lensrl.measures.gains import Gains
from lensrl.measures.profile import thirds
from lensrl.measures.score import mean_score
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.show.words import number, score_in_words
from lensrl.store.scored_by import ScoredBy
from lensrl.store.study import Study


def reading(contributions: pd.DataFrame, n_layers: int) -> str:
    """Describe the profile in a few sentences: range, thirds of depth, layers left out, seeds."""
    shown = contributions[contributions["status"] == "defined"]
    if shown.empty:
        first = contributions.iloc[0]
        return f"No layer has a contribution. {first['status'].capitalize()}: {first['reason']}."
    best, least = (shown.loc[shown["contribution"].agg(f)] for f in ("idxmax", "idxmin"))
    text = f"The contribution runs from {_at(least)} to {_at(best)}."
    if len(shown) >= 6:
        parts = zip(("first", "middle", "last"), thirds(shown["layer"].to_numpy(), n_layers), strict=True)
        means = [f"{name} {number(shown.loc[part, 'contribution'].mean(), 2)}" for name, part in parts if part.any()]
        text += f" Mean over the thirds of depth: {', '.join(means)}."
    others = contributions[contributions["status"] != "defined"]
    for status, part in others.groupby("status"):
        layers = ", ".join(map(str, part["layer"]))
        text += f" Left out as {status}: {'layer' if len(part) == 1 else 'layers'} {layers}."
    if contributions["seeds"].max() == 1:
        text += " One seed: the intervals cover the items, not how much training differs between seeds."
    return text


def _at(row: Any) -> str:
    value, low, high = (number(row[name], 2) for name in ("contribution", "low", "high"))
    return f"{value} [{low}, {high}] at layer {row['layer']}"


def sharpened(study: Study) -> list[str]:
    """Say where pass@k turns the order of full RL and single layers that the mean score shows. Else nothing.

    Compares the mean over layers of S_l - S_full, with its 95 % interval over items and seeds, by both scores.
    """
    base = study[BASE]
    k = int(base.samples().there.sum(axis=1).min())
    full = study.runs.of(FULL, scored=True)
    layers = {layer: study.runs.of(layer_run(layer), scored=True) for layer in study.layers}
    layers = {layer: runs for layer, runs in layers.items() if runs}
    seeds = sorted(set(full).intersection(*(set(runs) for runs in layers.values()))) if layers else []
    if k < 2 or not seeds:
        return []
    found = {}
    for kind in ("mean", f"pass@{k}"):
        by = ScoredBy(None, kind)
        where = np.arange(len(by.items(base)))
        try:
            whole = np.stack([by.scores(full[seed], base, where) for seed in seeds])
            alone = np.stack([[by.scores(runs[seed], base, where) for seed in seeds] for runs in layers.values()])
            gains = Gains.from_items((alone.mean(axis=0) - whole)[None], by.items(base)["benchmark"].tolist())
        except LensrlError:  # pass@k of scores that are not 0 or 1
            return []
        names = by.items(base)["benchmark"].to_numpy(str)
        scores = [float(np.mean([mean_score(x, names.tolist()) for x in each])) for each in (whole, *alone)]
        found[kind] = gains.contrast(np.ones(1)).interval(), scores
    (mean, _), (passed, (of_full, *of_layers)) = found.values()
    more = sum(score > of_full for score in of_layers)
    if not (mean.high < 0 < passed.low or (mean.value < 0 and more == len(of_layers))):
        return []
    differs = f"{passed.value:+.3f} [{passed.low:.3f}, {passed.high:.3f}]"
    which = "every one" if more == len(of_layers) else f"{more} of {len(of_layers)}"
    text = (
        f"At {score_in_words(None, f'pass@{k}')} the order turns. Full RL solves {of_full:.3f}; {which} of the single "
        f"layers solves more, {float(np.mean(of_layers)):.3f} on average (difference {differs}). In the mean score, "
        f"single layers are behind by {-mean.value:.3f} [{-mean.high:.3f}, {-mean.low:.3f}]."
    )
    certain = f" So full RL is right more often, but solves fewer items in {k} samples than layers alone."
    uncertain = " The interval contains 0: the turn is not certain."
    return [text + (certain if passed.low > 0 else uncertain)]

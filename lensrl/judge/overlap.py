"""Do single layers solve the same items? Overlaps of the runs of a study, and unions and votes of its best layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float64

from lensrl.errors import LensrlError
from lensrl.measures.gains import Gains
from lensrl.measures.halves import split_items
from lensrl.measures.item_scores import Samples, item_scores
from lensrl.measures.overlap import overlap, same_model, union, vote_of
from lensrl.measures.score import mean_score
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.run import Run
from lensrl.store.scored_by import ScoredBy
from lensrl.store.study import Study

PAIRS = ["kind", "run", "other", "seed", "other_seed", "overlap", "low", "high", "run_solves", "other_solves"]
USUAL = 3  # layers together
TEAMS = ["team", "layers", "k", "layer_score", "full_score", "difference", "low", "high", "items", "seeds", "reason"]


def overlaps(study: Study, *, benchmark: str | None = None) -> pd.DataFrame:
    """Compute the overlap of solved items of pairs of runs, with its 95 % interval over items: one row per pair.

    `kind` is one of

    - `samples`: two samples of one run. The baseline: no two models overlap more than one model with itself, if they
      are as good;
    - `seeds`: two training seeds of one run;
    - `runs`: two runs of one seed, single layers and full RL.

    Further columns: run, other, seed, other_seed; overlap, low, high (`lensrl.measures.overlap`); run_solves and
    other_solves, the scores of both. `benchmark` as in `Study.contributions`.

    Raises LensrlError for a study without scores, and for scores that are not 0 or 1.
    """
    study.runs.check_scored()
    by = ScoredBy(benchmark)
    base = study[BASE]
    where = np.arange(len(by.items(base)))
    names = [BASE, FULL, *map(layer_run, study.layers)]
    runs = {(name, seed): run for name in names for seed, run in study.runs.of(name, scored=True).items()}
    samples = {key: by.samples(run, base, where) for key, run in runs.items()}
    solves = {key: _score(item_scores(found), found) for key, found in samples.items()}
    pairs = [("samples", key, key) for key in samples]
    pairs += [("seeds", a, b) for a, b in combinations(samples, 2) if a[0] == b[0]]
    pairs += [("runs", a, b) for a, b in combinations(samples, 2) if a[0] != b[0] and a[1] == b[1] and BASE not in a]
    rows = [
        (kind, a[0], b[0], a[1], b[1], *overlap(samples[a], samples[b]), solves[a], solves[b]) for kind, a, b in pairs
    ]
    return pd.DataFrame(rows, columns=PAIRS)


def teams(study: Study, k: int | None = None, *, benchmark: str | None = None) -> pd.DataFrame:
    """Compare k samples of the k best single layers, one of each, with k samples of full RL: union and vote.

    By default k is 3, or less where an item has fewer samples of full RL or the study fewer layers, but at least 2.
    The layers are chosen by their mean score on one half of the items, over all seeds, and measured on the other half.
    One row for `union` (solved by at least one) and one for `vote` (the most frequent answer). Columns: team, layers
    (a tuple), k; layer_score and full_score; difference with its 95 % interval over items and seeds; items, seeds;
    reason, where a number is missing: too few samples of full RL, or a task without answers.

    Raises LensrlError for a study without scores, and where fewer than k layers share their seeds with full RL.
    """
    study.runs.check_scored()
    by, base = ScoredBy(benchmark), study[BASE]
    names = by.items(base)["benchmark"].to_numpy(str)
    first, other = split_items(names)
    full = study.runs.of(FULL, scored=True)
    layers = {layer: study.runs.of(layer_run(layer), scored=True) for layer in study.layers}
    seeds = sorted(set(full).intersection(*(set(runs) for runs in layers.values() if runs)))
    known = {layer: runs for layer, runs in layers.items() if runs}
    if k is None:
        counts = [by.samples(full[seed], base, other).there.sum(axis=1).min() for seed in seeds]
        k = max(2, min(USUAL, len(known), *map(int, counts)))
    if not seeds or len(known) < k:
        raise LensrlError(
            f"{k} layers together need {k} layers with scores, and {study.path} has {len(known)}"
            if len(known) < k
            else f"{study.path} has no seed with scores of full RL and of every layer"
        )

    def chosen_score(runs: Mapping[int, Run]) -> float:
        means = [_score(by.scores(runs[seed], base, first), names[first]) for seed in seeds]
        return float(np.mean(means))

    best = tuple(sorted(known, key=lambda layer: chosen_score(known[layer]), reverse=True)[:k])
    rows = []
    for team, together in (("union", union), ("vote", vote_of)):
        row: dict[str, object] = {"team": team, "layers": best, "k": k, "items": len(other), "seeds": len(seeds)}
        values: dict[str, list[Float64[np.ndarray, " item"]]] = {"layer": [], "full": []}
        reason = ""
        for seed in seeds:
            try:
                values["layer"].append(together([by.samples(known[layer][seed], base, other) for layer in best]))
                values["full"].append(together(same_model(by.samples(full[seed], base, other), k)))
            except LensrlError as error:
                reason = str(error)
        for who, found in values.items():
            row[f"{who}_score"] = _score(np.mean(found, axis=0), names[other]) if len(found) == len(seeds) else np.nan
        if not reason:
            gains = Gains.from_items(
                (np.stack(values["layer"]) - np.stack(values["full"]))[None], names[other].tolist()
            )
            row |= dict(zip(("difference", "low", "high"), gains.contrast(np.ones(1)).interval(), strict=True))
        rows.append(row | {"reason": reason})
    return pd.DataFrame(rows, columns=TEAMS)


def _score(values: np.ndarray, benchmark: Samples | Sequence[str] | np.ndarray) -> float:
    names = benchmark.benchmark if isinstance(benchmark, Samples) else np.asarray(benchmark)
    return mean_score(values, names.tolist())

"""How much layers do together beyond what each does alone: C of a set minus the sum of C of its layers.

    I = (S_set - S_base) / G - sum over l in set of (S_l - S_base) / G,    G = S_full - S_base

Negative where the layers' gains overlap, and 0 where they add up. A sum above 1 cannot add up: a score has a ceiling.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensrl.measures.contribution import gain_ratios
from lensrl.recipe.layers import spell_layers
from lensrl.recipe.runs import BASE, FULL, layer_run, set_run
from lensrl.store.contributions import halves, known_sets
from lensrl.store.runs import Runs
from lensrl.store.scored_by import STUDY_SCORE

INTERACTION_COLUMNS = ["set", "layers", "together", "alone", "interaction", "low", "high", "status", "reason", "seeds"]


def set_interactions(runs: Runs, seed: int | None = None) -> pd.DataFrame:
    """Return one row for each set of at least two whole layers, all of which were also trained alone.

    Columns: set; layers, in words; together, the set's contribution; alone, the sum of those of its layers;
    interaction, their difference, with its 95 % interval over items and seeds, low and high; status; reason; seeds, the
    number of training seeds that all these runs share. Sets whose layers were chosen by contribution are measured on
    the items that the choice has not seen. `seed=None`: see `lensrl.store.runs.Runs`.
    """
    base, rows = runs.find(BASE), []
    for name, layer_set in known_sets(runs).items():
        spec = set_run(name, layer_set, runs.n_layers)
        if spec.layers is None or len(spec.layers) < 2 or spec.component != "block" or spec.boost or spec.lora:
            continue
        names = [name, *map(layer_run, spec.layers), FULL]
        found = [runs.of(run, seed, scored=True) for run in names]
        seeds = sorted(set.intersection(*map(set, found)))
        if not seeds:
            continue
        half = layer_set.chosen is not None and layer_set.chosen.items == "other half"
        benchmark = STUDY_SCORE.items(base)["benchmark"].to_numpy(str)
        items = halves(runs)[1] if half else np.arange(len(benchmark))
        together, *alone, full = (
            np.stack([STUDY_SCORE.scores(of[one], base, items) for one in seeds]).astype(np.float64) for of in found
        )
        before = np.stack([STUDY_SCORE.scores(base, base, items)] * len(seeds)).astype(np.float64)
        sums = before + sum(layer - before for layer in alone)
        parts = {"together": together, "alone": sums, "interaction": before + together - sums} | dict(enumerate(alone))
        ratios = gain_ratios(before, full, parts, benchmark[items].tolist(), gain="S_full - S_base")
        own = ratios["interaction"]
        rows.append((
            name, spell_layers(spec.layers), ratios["together"].ratio.value, ratios["alone"].ratio.value, *own.ratio,
            own.status, own.reason, len(seeds),
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=INTERACTION_COLUMNS)

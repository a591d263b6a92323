"""What models answered, for the page: completions of trained runs beside those of the base.

A page has room for about a megabyte of them. Full RL comes first, then single layers, the best first, then sets; each
with the items whose score changed before the others. What found no room is counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError
from lensrl.recipe.runs import BASE, FULL, run_layer
from lensrl.store.run import Run
from lensrl.store.study import Study

ROOM = 1_000_000  # characters
COLUMNS = ["run", "seed", "benchmark", "item", "sample", "prompt", "reference", "base", "base_score", "answer", "score",
           "change"]  # fmt: skip
FIRST = 6  # items that stand in the page without JavaScript


class Answers(NamedTuple):
    """rows: one per run, item and sample, with `COLUMNS`. `change` is the item's mean score beside the base's: better,
    worse or same. left_out: how many items of which runs found no room, in words.
    """

    rows: pd.DataFrame
    left_out: str


def answers(study: Study) -> Answers | None:
    """Return the completions of runs beside the base's; None where the study keeps none."""
    if BASE not in study or not study[BASE].has_completions:
        return None
    found, room, left_out = [], ROOM, 0
    runs = _in_order(study)
    for run in runs:
        rows = _beside(study, run)
        size = (rows["answer"].str.len() + rows["base"].str.len()).groupby(rows["item"], sort=False).sum()
        size += rows.groupby("item", sort=False)["prompt"].first().str.len() + 60
        fits = size.cumsum() <= room
        room -= int(size[fits].sum())
        left_out += int((~fits).sum())
        found.append(rows[rows["item"].isin(size.index[fits])])
    rows = pd.concat(found)[COLUMNS] if found else pd.DataFrame()
    if rows.empty:
        return None
    return Answers(rows, f"{left_out} items of {len(runs)} runs" if left_out else "")


def examples(found: Answers) -> list[dict[str, object]]:
    """Return the first sample of a few items of the first run whose score changed: what the page shows at least."""
    rows = found.rows[(found.rows["run"] == found.rows["run"].iloc[0]) & (found.rows["change"] != "same")]
    first = rows.drop_duplicates(["benchmark", "item"]).head(FIRST)
    return [{str(name): value for name, value in row.items()} for row in first.to_dict("records")]


def _in_order(study: Study) -> list[Run]:
    """Return the lowest seed of each run that has completions: full RL, single layers by their C_l, sets."""
    try:
        table = study.contributions().set_index("layer")["contribution"].fillna(-np.inf).to_dict()
    except LensrlError:
        table = {}
    names = dict.fromkeys(name for name, _ in sorted(study.runs) if name != BASE)
    kept = [run for name in names if (run := study.runs.find(name)).has_completions]

    def rank(run: Run) -> tuple[bool, bool, float]:
        layer = run_layer(run.name)
        return run.name != FULL, layer is None, -table.get(layer, -np.inf)

    return sorted(kept, key=rank)


def _beside(study: Study, run: Run) -> pd.DataFrame:
    """Return the rows of one run: items whose score changed first, then by their place."""
    rows = study.completions(run.name, run.seed)
    moved = rows["item_score"] - rows["base_item_score"]
    change = np.where(moved > 1e-9, "better", np.where(moved < -1e-9, "worse", "same"))
    rows = rows.rename(columns={"completion": "answer", "base_completion": "base"})
    rows = rows.assign(run=run.name, seed=str(run.seed), change=change)
    rows["item"] = rows["item"].astype(str)
    return rows.iloc[np.argsort(change == "same", kind="stable")]


def in_words(found: Answers) -> str:
    """Say how many items of the first run became better and worse."""
    first = found.rows[found.rows["run"] == found.rows["run"].iloc[0]].drop_duplicates(["benchmark", "item"])
    counts = first["change"].value_counts()
    return (
        f"Of {len(first)} items shown, {first['run'].iloc[0]} (seed {first['seed'].iloc[0]}) answers "
        f"{counts.get('better', 0)} better than the base and {counts.get('worse', 0)} worse, by the mean over samples."
    )

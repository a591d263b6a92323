"""Choosing layers by contribution: the layers that `top-K` and `bottom-K` mean, from a profile measured before.

    profile (a finished study, or a published table)  ->  C_l of every layer  ->  the K best  ->  the set, in its study

The best of many noisy layers look better than they are on the items that chose them (the winner's curse). So the items
of a study are halved (`split_items`). A profile that was measured on items of this study is read without the second
half; the contribution of the set is reported on the second half alone. A profile without a common item (another task,
or a published table, whose items are unknown) is read whole, and the contribution is reported on all items.

The choice is kept with the study. A profile that grows or disappears later changes no set that has a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError
from lensrl.measures.halves import split_items
from lensrl.recipe import LayerSet, Recipe
from lensrl.recipe.layers import spell_layers
from lensrl.recipe.runs import BASE, FULL, read_set, run_layer
from lensrl.store.contributions import layer_contributions
from lensrl.store.runs import NOT_READ
from lensrl.store.study import Study, open_study
from lensrl.store.table import read_contributions

ScoredOn = Literal["all", "other half"]


class RankedLayers(NamedTuple):
    """Layer -> C_l, and the items of the study at hand on which a set chosen by it is scored."""

    contribution: dict[int, float]
    scored_on: ScoredOn


def choose_sets(
    recipe: Recipe,
    n_layers: int,
    items: Sequence[tuple[str, str]],
    made: Mapping[str, LayerSet],
) -> Recipe:
    """Return the recipe with `chosen` filled in for every set that rests on a profile.

    `items` are the study's held-out items, as (benchmark, id). `made` holds the sets that have a run; they keep the
    layers that this run trained. Raises LensrlError for a profile that cannot be read, is not finished, has another
    number of layers, or lacks the contribution of a layer.
    """
    sets = dict(recipe.sets)
    for name, layer_set in recipe.sets.items():
        if layer_set.profile is None:
            continue
        before = made.get(name)
        if before is not None and before.model_copy(update={"chosen": None}) == layer_set:
            sets[name] = before
            continue
        try:
            profile = rank_layers(layer_set.profile, n_layers, items)
        except LensrlError as error:
            raise LensrlError(f"sets.{name}: {error}") from None
        chosen = read_set(name, layer_set, n_layers, profile.contribution)
        chosen = chosen.model_copy(update={"items": profile.scored_on})
        sets[name] = layer_set.model_copy(update={"chosen": chosen})
    return recipe.model_copy(update={"sets": sets})


def rank_layers(path: Path, n_layers: int, items: Sequence[tuple[str, str]]) -> RankedLayers:
    """Return C_l of every layer, from a study's folder or a CSV file, for a study that is scored on `items`.

    Raises LensrlError for another number of layers, an unfinished study, or a layer without a contribution.
    """
    if path.is_file():
        table, unseen = read_contributions(path).assign(reason="the table has no number there"), "all"
        _check_layers(path, int(table["layer"].max()) + 1, n_layers)
    else:
        with open_study(path) as study:
            _check_layers(path, study.n_layers, n_layers)
            _check_finished(study)
            table, unseen = _measured(study, items)
    known = table[table["contribution"].notna()]
    lacking = sorted({*range(n_layers)} - {*known["layer"]})
    if lacking:
        reasons = table.loc[table["layer"].isin(lacking), "reason"]
        why = reasons.iloc[0] if len(reasons) else "never trained alone"
        raise LensrlError(
            f"{path} has no contribution of layer{'s' * (len(lacking) > 1)} {spell_layers(lacking)}: {why}"
        )
    return RankedLayers(dict(zip(known["layer"], known["contribution"], strict=True)), unseen)


def _measured(study: Study, items: Sequence[tuple[str, str]]) -> tuple[pd.DataFrame, ScoredOn]:
    """Return a study's contributions, measured without the items on which the set will be scored."""
    measured = [*study[BASE].scores_by_item()[["benchmark", "item"]].itertuples(index=False, name=None)]
    if set(measured).isdisjoint(items):
        return layer_contributions(study.runs), "all"
    reported = {items[place] for place in split_items(np.array([benchmark for benchmark, _ in items]))[1]}
    chosen_on = np.flatnonzero([item not in reported for item in measured])
    if not len(chosen_on):
        raise LensrlError(
            f"{study.path} was scored on nothing but items that the set's contribution is reported on: none is left to "
            f"choose by"
        )
    return layer_contributions(study.runs, items=chosen_on), "other half"


def _check_layers(path: Path, found: int, n_layers: int) -> None:
    if found != n_layers:
        raise LensrlError(f"{path} is of a model with {found} layers, this one has {n_layers}")


def _check_finished(study: Study) -> None:
    table = study.runs.table()
    needed = [name in (BASE, FULL) or run_layer(name) is not None for name in table["run"]]
    for row in table[needed].to_dict("records"):
        if row["status"] in NOT_READ:
            raise LensrlError(
                f"{study.path} is not finished: {row['run']} seed {row['seed']} is {row['status']} ({row['reason']})"
            )

"""The tables that figures draw, where a study does not give them as they are: values of each seed, curves, norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lensrl.compare.activations import compare_activations, compare_layers
from lensrl.compare.patching.over_seeds import ALL_SEEDS
from lensrl.errors import LensrlError
from lensrl.recipe.runs import BASE, FULL, layer_run, run_layer, run_rate
from lensrl.store.run import Run
from lensrl.store.study import Study

By = Literal["parameter", "component", "layer"]


def contributions_by_seed(study: Study, *, benchmark: str | None = None, score: str = "mean") -> pd.DataFrame:
    """Return layer, seed, contribution of each seed alone. A seed without a certain gain has no share of it."""
    found = []
    for seed in study.seeds:
        if (FULL, seed) in study.runs:
            table = study.contributions(seed, benchmark=benchmark, score=score)
            found.append(table[["layer", "contribution"]].assign(seed=seed))
    return pd.concat(found).dropna() if found else pd.DataFrame(columns=["layer", "contribution", "seed"])


def training_curves(study: Study, seed: int) -> list[tuple[str, pd.DataFrame]]:
    """Return (name of a run, its training curve) of one seed: full RL, single layers, sets of layers.

    A checkpoint has no curve, and a layer at other learning rates would hide the others.
    """
    runs = [run for (name, s), run in study.runs.items() if s == seed and run.has_training and run_rate(name) is None]
    runs.sort(key=lambda run: (run.name != FULL, run_layer(run.name) is None, run.layers))
    return [(run.name, run.training()) for run in runs]


class Representations(NamedTuple):
    """The base beside full RL, by seed: `lensrl.compare_activations` and `lensrl.compare_layers`.

    `reason` says why no seed can be compared: a probe set of too few sequences, as recipes of 0.2 could have.
    """

    tables: dict[int, pd.DataFrame]
    maps: dict[int, np.ndarray]
    reason: str


def representations(study: Study) -> Representations:
    """Measure the representations of every seed whose full RL has activations."""
    found = Representations({}, {}, "")
    for seed in (seed for seed, run in study.runs.of(FULL).items() if run.has_activations):
        try:
            found.tables[seed] = compare_activations(study, BASE, FULL, seed=seed)
            found.maps[seed] = compare_layers(study, BASE, FULL, seed=seed)
        except LensrlError as error:
            found = found._replace(reason=str(error))
    return found


def stored_norms(run: Run, by: By) -> pd.DataFrame:
    """Return the norms of a run's deltas by parameter (matrices alone), component or layer, from its file."""
    table = run.delta_norms().dropna(subset=["layer"])
    table = table[table["norm"] > 0]
    if by == "parameter":
        shapes = {
            (layer, name): len(delta.shape)
            for layer in table["layer"].astype(int).unique()
            for name, delta in run.deltas[int(layer)].items()
        }
        keep = [shapes.get((int(layer), _inside(name)), 0) > 1
                for layer, name in zip(table["layer"], table["parameter"], strict=True)]  # fmt: skip
        table = table[keep].rename(columns={"norm": "frobenius", "relative_norm": "relative"})
        return table.assign(rounding_norm=0.0)
    squares = table.assign(component=table["component"] if by == "component" else "")
    sums = squares.assign(norm=squares["norm"] ** 2, base_norm=squares["base_norm"] ** 2)
    sums = sums.groupby(["layer", "component"])[["norm", "base_norm"]].sum() ** 0.5
    both = sums.reset_index().assign(parameter="", rounding_norm=0.0)
    return both.assign(relative=both["norm"] / both["base_norm"], frobenius=both["norm"])


def _inside(parameter: str) -> str:
    """Return a parameter's name inside its layer: after the first number in its name."""
    words = parameter.split(".")
    return ".".join(words[next(i for i, word in enumerate(words) if word.isdecimal()) + 1 :])


def norms_by_seed(study: Study, layers: Sequence[int]) -> pd.DataFrame:
    """Return one row per seed and layer: seed, layer, full, single: the relative delta norms of full RL and of the
    run that trains the layer alone. NaN where a run is missing or diverged.
    """
    rows = []
    for seed in study.seeds:
        full = _relative_norms(study, FULL, seed)
        for layer in layers:
            single = _relative_norms(study, layer_run(layer), seed)
            rows.append((seed, layer, full.get(layer, float("nan")), single.get(layer, float("nan"))))
    return pd.DataFrame(rows, columns=["seed", "layer", "full", "single"])


def _relative_norms(study: Study, run: str, seed: int) -> dict[int, float]:
    """Map each layer that a run trained to its relative delta norm. Empty for a run that is not there."""
    tables = [found.layer_delta_norms() for found in study.runs.of(run, seed, scored=True).values()]
    return {int(layer): float(norm) for table in tables
            for layer, norm in zip(table["layer"], table["relative_norm"], strict=True) if norm > 0}  # fmt: skip


def with_intervals(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the interval of C_l, with the row's seed or over all of them, where it has a value."""
    nan = float("nan")
    ends: dict[tuple[Any, int], tuple[float, float]] = {}
    for seed in rows.loc[rows["contribution"].notna(), "seed"].unique():
        table = study.contributions(None if seed == ALL_SEEDS else int(seed))
        ends |= {(seed, layer): (low, high) for layer, low, high in
                 zip(table["layer"], table["low"], table["high"], strict=True)}  # fmt: skip
    both = [ends.get(key, (nan, nan)) for key in zip(rows["seed"], rows["layer"], strict=True)]
    return rows.assign(contribution_low=[low for low, _ in both], contribution_high=[high for _, high in both])

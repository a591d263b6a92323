"""What might explain the layer contribution, set against it, one row per layer.

Predictors stand beside their rivals: where a layer sits, and what the base model alone says about it, is known before
any training, so whatever RL did to the layer has to do better. A predictor that was not measured is left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64

from lensrl.compare.activations import distances_to
from lensrl.compare.rivals import RIVALS, stored_rivals
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.study import Study

PREDICTORS = {
    "delta_full": "delta norm, full RL",
    "relative_delta_full": "relative delta norm, full RL",
    "delta_single": "delta norm, layer alone",
    "relative_delta_single": "relative delta norm, alone",
    "cka_distance": "1 - CKA(base, full RL)",
    "cka_growth": "growth of 1 - CKA at the layer",
    "approach": "approach to full RL, by CKA",
    "sufficiency": "log p won, RL layer in base",
    "necessity": "log p lost, base layer in RL",
    "depth": "depth (layer index)",
    "distance_from_middle": "distance from the middle",
    **RIVALS,
}
SIZES = ("relative_delta_full", "relative_delta_single")
_PATCHED = "reference_logprob"  # the continuous metric of a graft


def predictors(study: Study) -> pd.DataFrame:
    """One row per layer: layer, contribution, low, high, status, and the predictors that the study has numbers for.

    Means over seeds, of grafts over those in which the most layers were patched. Grafts are those stored by `patch`
    (block, weights, single layers); base-model rivals are those that `base_rivals` stored. Nothing is computed with a
    model here.
    """
    table = study.contributions()[["layer", "contribution", "low", "high", "status"]].copy()
    layers = table["layer"].to_numpy()
    columns: dict[str, np.ndarray] = {}
    full = _layer_norms(study, FULL)
    single = {layer: _layer_norms(study, layer_run(layer)) for layer in layers}
    for column, name in (("norm", "delta"), ("relative_norm", "relative_delta")):
        columns[f"{name}_full"] = np.array([full.get((layer, column), np.nan) for layer in layers])
        columns[f"{name}_single"] = np.array([single[layer].get((layer, column), np.nan) for layer in layers])
    columns |= _representation(study, layers) | _grafts(study, layers)
    columns["depth"] = layers.astype(float)
    columns["distance_from_middle"] = np.abs(layers - (study.n_layers - 1) / 2)
    rivals = stored_rivals(study)
    if rivals is not None:
        columns |= {name: rivals[name].to_numpy(float)[layers] for name in RIVALS}
    known = {name: columns[name] for name in PREDICTORS if name in columns and np.isfinite(columns[name]).any()}
    return table.assign(**known)


def _representation(study: Study, layers: np.ndarray) -> dict[str, Float64[np.ndarray, " layer"]]:
    """1 - CKA(base, full) and its growth, and each single-layer run's approach to full RL; {} without activations."""
    distance: list[np.ndarray] = []
    approach: list[np.ndarray] = []
    for seed in study.seeds:
        if not any(run.has_activations for run in study.runs.of(FULL, seed).values()):
            continue
        to_full = distances_to(study, FULL, [BASE, *(layer_run(layer) for layer in layers)], seed=seed)
        base = to_full[BASE]
        distance.append(base)
        found = np.full(len(layers), np.nan)
        for i, layer in enumerate(layers):
            if layer_run(layer) in to_full and base[layer:].sum() > 0:
                found[i] = 1 - to_full[layer_run(layer)][layer:].sum() / base[layer:].sum()
        approach.append(found)
    if not distance:
        return {}
    mean = np.mean(distance, axis=0)
    known = np.isfinite(approach).sum(axis=0)
    return {
        "cka_distance": mean[layers],
        "cka_growth": np.diff(mean, prepend=0.0)[layers],
        "approach": np.divide(np.nansum(approach, axis=0), known, out=np.full(len(layers), np.nan), where=known > 0),
    }


def without_grafts(study: Study) -> str:
    """Why a study has no recoveries to set against C_l."""
    rows = _graft_rows(study)
    if len(rows) and not rows["won"].any():
        return "full RL lowered the log-probability of the references: grafts recover a loss, not a gain"
    return "grafts of all layers are missing: lensrl patch --layer all --what weights, and again with --reverse"


def _grafts(study: Study, layers: np.ndarray) -> dict[str, Float64[np.ndarray, " layer"]]:
    """Recoveries of log p by grafts of single layers.

    Mean over the seeds in which the most layers were patched: of other seeds' for some layers, the difference between
    seeds would be one between layers. Seeds whose full RL lowered log p have no gain to recover.
    """
    rows = _graft_rows(study)
    found = {}
    for name, donor in (("sufficiency", FULL), ("necessity", BASE)):
        part = rows[(rows["from"] == donor) & rows["won"]]
        by_seed = part.pivot_table(index="layer", columns="seed", values="recovery").reindex(layers)
        patched = by_seed.notna().sum()
        recovery = by_seed.loc[:, patched == patched.max()].to_numpy(float)
        found[name] = recovery.mean(axis=1) if recovery.size else np.full(len(layers), np.nan)
    return found


def _graft_rows(study: Study) -> pd.DataFrame:
    """The stored grafts between full RL and the base; `won` where full RL has the higher log p."""
    rows = study.patches()
    rows = rows[
        (rows["what"] == "weights") & (rows["component"] == "block") & (rows["sets"] == "single")
        & (rows["metric"] == _PATCHED) & (rows["status"] == "defined")
        & (((rows["from"] == FULL) & (rows["into"] == BASE)) | ((rows["from"] == BASE) & (rows["into"] == FULL)))
    ]  # fmt: skip
    return rows.assign(won=(rows["from_value"] > rows["into_value"]) == (rows["from"] == FULL))


def _layer_norms(study: Study, name: str) -> dict[tuple[int, str], float]:
    """(layer, norm | relative_norm) -> mean over the seeds of a run that has weights."""
    tables = [run.layer_delta_norms() for run in study.runs.of(name, scored=True).values()]
    if not tables:
        return {}
    means = pd.concat(tables).groupby("layer")[["norm", "relative_norm"]].mean()
    return {
        (int(str(layer)), column): float(row[column])
        for layer, row in means.iterrows()
        for column in ("norm", "relative_norm")
    }

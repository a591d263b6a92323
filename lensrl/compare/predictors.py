"""Predictors of the layer contribution, beside the contribution itself: one row per layer.

A predictor measures what RL did to a layer: its weight delta, its activations, its grafts. Rivals stand beside the
predictors, see `lensrl.compare.rivals`; depth and the distance from the middle are two more. To explain anything, a
predictor has to do better than the rivals. A predictor that was not measured is left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64

from lensrl.compare.activations import distances_to
from lensrl.compare.patching.patch import share_of
from lensrl.compare.rivals import RIVALS, stored_rivals
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.run import Run
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
    "length_change": "tokens per completion, over base",
    "truncated_change": "truncated share, over base",
    "depth": "depth (layer index)",
    "distance_from_middle": "distance from the middle",
    **RIVALS,
}
SIZES = ("relative_delta_full", "relative_delta_single")  # the size of the update, for the claim "not size"
_METRIC = "reference_logprob"  # of the two metrics of a graft, the continuous one


def predictors(study: Study) -> pd.DataFrame:
    """Return one row per layer: layer, contribution, low, high, status, and every predictor that has a number.

    `PREDICTORS` lists the predictors. Each is a mean over all seeds, but for the grafts: they are a mean over the seeds
    in which the most layers were patched. Grafts are the results that `patch` stored for weights, whole blocks and
    single layers. The rivals from the base model are the table that `base_rivals` stored. No model is loaded.

    Where runs were taken from rounded checkpoints, `relative_rounding_full` and `relative_rounding_single` follow: the
    norm that rounding alone would give, || errors || / || W ||. They are the null beside the relative delta norms, and
    no predictors.
    """
    table = study.contributions()[["layer", "contribution", "low", "high", "status"]].copy()
    layers = table["layer"].to_numpy()
    columns: dict[str, np.ndarray] = {}
    # The size of each layer's update, in full RL and when the layer is trained alone.
    full = _layer_norms(study, FULL)
    single = {layer: _layer_norms(study, layer_run(layer)) for layer in layers}
    for column, name in (("norm", "delta"), ("relative_norm", "relative_delta")):
        columns[f"{name}_full"] = np.array([full.get((layer, column), np.nan) for layer in layers])
        columns[f"{name}_single"] = np.array([single[layer].get((layer, column), np.nan) for layer in layers])
    # The representation and the grafts; then the rivals.
    columns |= _representation(study, layers) | _graft_recoveries(study, layers)
    columns |= _lengths(study, layers)
    columns["depth"] = layers.astype(float)
    columns["distance_from_middle"] = np.abs(layers - (study.n_layers - 1) / 2)
    rivals = stored_rivals(study)
    if rivals is not None:
        columns |= {name: rivals[name].to_numpy(float)[layers] for name in RIVALS}
    for kind, norms in (("full", [full]), ("single", [single[layer] for layer in layers])):
        of_layer = norms * len(layers) if kind == "full" else norms
        rounding = [found.get((n, "relative_rounding"), np.nan) for n, found in zip(layers, of_layer, strict=True)]
        if np.nansum(rounding) > 0:
            table[f"relative_rounding_{kind}"] = rounding
    known = {name: columns[name] for name in PREDICTORS if name in columns and np.isfinite(columns[name]).any()}
    return table.assign(**known)


def sizes_by_seed(study: Study, layers: np.ndarray) -> dict[str, Float64[np.ndarray, "layer seed"]]:
    """Return the `SIZES` of the layers with every seed; NaN where a seed lacks the run or its weights."""
    found: dict[str, np.ndarray] = {name: np.full((len(layers), len(study.seeds)), np.nan) for name in SIZES}
    for s, seed in enumerate(study.seeds):
        for run in study.runs.of(FULL, seed, scored=True).values():
            found["relative_delta_full"][:, s] = _relative_norms(run)[layers]
        for i, layer in enumerate(layers):
            for run in study.runs.of(layer_run(layer), seed, scored=True).values():
                found["relative_delta_single"][i, s] = _relative_norms(run)[layer]
    return found


def _relative_norms(run: Run) -> Float64[np.ndarray, " layer"]:
    return run.layer_delta_norms().set_index("layer")["relative_norm"].reindex(range(run.n_layers)).to_numpy(float)


def _representation(study: Study, layers: np.ndarray) -> dict[str, Float64[np.ndarray, " layer"]]:
    """Return `cka_distance`, `cka_growth` and `approach`, as means over seeds. Empty without activations of full RL.

    With D_r(k) = 1 - CKA of run r and full RL after layer k: cka_distance = D_base(l), cka_growth = D_base(l) -
    D_base(l - 1), and approach = 1 - sum of D_(layer-l)(k) over k >= l / sum of D_base(k) over k >= l. The approach is
    1 where the single-layer run represents the tokens as full RL does, and 0 where it is no closer than the base.
    """
    distance: list[np.ndarray] = []
    approach: list[np.ndarray] = []
    for seed in study.seeds:
        if not any(run.has_activations for run in study.runs.of(FULL, seed).values()):
            continue  # full RL diverged with this seed, or was not trained with it
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
    """Say why a study has no recoveries by grafts to compare with C_l."""
    rows = _graft_rows(study)
    if len(rows) and not (rows["share_of"] == "gain").any():
        return "full RL lowered the log-probability of the references: grafts recover a loss, not a gain"
    return "grafts of all layers are missing: lensrl patch --layer all --what weights, and again with --reverse"


def _graft_recoveries(study: Study, layers: np.ndarray) -> dict[str, Float64[np.ndarray, " layer"]]:
    """Return `sufficiency` and `necessity`: the recovery of log p by a graft of each single layer.

    Both are means over the seeds in which the most layers were patched. If some layers had more seeds than others, a
    difference between seeds would look like a difference between layers. A seed whose full RL lowered log p is left
    out: it has no gain to recover.
    """
    rows = _graft_rows(study)
    found = {}
    for name, donor in (("sufficiency", FULL), ("necessity", BASE)):
        part = rows[(rows["from"] == donor) & (rows["share_of"] == "gain")]
        by_seed = part.pivot_table(index="layer", columns="seed", values="recovery").reindex(layers)
        patched = by_seed.notna().sum()
        recovery = by_seed.loc[:, patched == patched.max()].to_numpy(float)
        found[name] = recovery.mean(axis=1) if recovery.size else np.full(len(layers), np.nan)
    return found


def _graft_rows(study: Study) -> pd.DataFrame:
    """Return the stored grafts between full RL and the base, with the column `share_of`."""
    rows = study.patches()
    rows = rows[
        (rows["what"] == "weights") & (rows["component"] == "block") & (rows["sets"] == "single")
        & (rows["metric"] == _METRIC) & (rows["status"] == "defined")
        & (((rows["from"] == FULL) & (rows["into"] == BASE)) | ((rows["from"] == BASE) & (rows["into"] == FULL)))
    ]  # fmt: skip
    return rows.assign(share_of=share_of(rows))


def _lengths(study: Study, layers: np.ndarray) -> dict[str, Float64[np.ndarray, " layer"]]:
    """Return `length_change` and `truncated_change`: means of the layer alone minus those of the base, over seeds.

    Where they explain C_l, the gain may be one of length: answers that end below the token limit.
    """
    table = study.scores().groupby("run")[["length", "truncated"]].mean()
    change = (table - table.loc[BASE]).reindex([layer_run(layer) for layer in layers])
    return {f"{name}_change": change[name].to_numpy(float) for name in ("length", "truncated")}


def _layer_norms(study: Study, name: str) -> dict[tuple[int, str], float]:
    """Map (layer, `norm`, `relative_norm` or `relative_rounding`) to the mean over the seeds of a run.

    Diverged runs have no weights.
    """
    tables = [run.layer_delta_norms() for run in study.runs.of(name, scored=True).values()]
    if not tables:
        return {}
    both = pd.concat(tables)
    both["relative_rounding"] = both["rounding_norm"] / both["base_norm"]
    columns = ["norm", "relative_norm", "relative_rounding"]
    means = both.groupby("layer")[columns].mean()
    return {(int(str(layer)), column): float(row[column]) for layer, row in means.iterrows() for column in columns}

"""What might explain the layer contribution, set against it.

Predictors of C_l stand beside their rivals: where a layer sits is known before any training, so whatever the weights
say has to do better than depth and distance from the middle.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError
from lensrl.layers import FULL, layer_run
from lensrl.measures.correlation import Method, correlate
from lensrl.store.study import Study

PREDICTORS = {
    "delta_full": "weight-delta norm in full RL",
    "relative_delta_full": "relative weight-delta norm in full RL",
    "delta_single": "weight-delta norm, layer alone",
    "relative_delta_single": "relative weight-delta norm, layer alone",
    "depth": "depth (layer index)",
    "distance_from_middle": "distance from the middle layer",
}


def predictors(study: Study) -> pd.DataFrame:
    """One row per layer: layer, contribution, low, high, status, and every predictor. Norms are means over seeds."""
    table = study.contributions()[["layer", "contribution", "low", "high", "status"]].copy()
    layers = table["layer"].to_numpy()
    full = _layer_norms(study, FULL)
    single = {layer: _layer_norms(study, layer_run(layer)) for layer in layers}
    for column, name in (("norm", "delta"), ("relative_norm", "relative_delta")):
        table[f"{name}_full"] = [full.get((layer, column), np.nan) for layer in layers]
        table[f"{name}_single"] = [single[layer].get((layer, column), np.nan) for layer in layers]
    table["depth"] = layers.astype(float)
    table["distance_from_middle"] = np.abs(layers - (study.n_layers - 1) / 2)
    return table


def correlate_study(study: Study) -> pd.DataFrame:
    """One row per predictor and method: predictor, method, coefficient, low, high, p, n, reason.

    Layers whose contribution is not `defined`, those of collapsed runs too, are left out. Raises LensrlError when
    none is left.
    """
    table = predictors(study)
    defined = table["status"] == "defined"
    if not defined.any():
        first = study.contributions().iloc[0]
        raise LensrlError(f"{study.path} has no contribution to correlate: {first['status']}: {first['reason']}")
    outcome = table["contribution"].where(defined).to_numpy(float)
    rows = [
        {"predictor": name} | vars(correlate(table[name].to_numpy(float), outcome, method))
        for name in PREDICTORS
        for method in get_args(Method)
    ]
    return pd.DataFrame(rows)


def _layer_norms(study: Study, name: str) -> dict[tuple[int, str], float]:
    """(layer, norm | relative_norm) -> mean over the seeds of a run that has weights."""
    tables = [
        run.layer_delta_norms() for (run_name, _), run in study.runs.items() if run_name == name and run.has_scores
    ]
    if not tables:
        return {}
    means = pd.concat(tables).groupby("layer")[["norm", "relative_norm"]].mean()
    return {
        (int(str(layer)), column): float(row[column])
        for layer, row in means.iterrows()
        for column in ("norm", "relative_norm")
    }

"""Correlations of every predictor with the layer contribution."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd

from lensrl.compare.predictors import PREDICTORS, predictors
from lensrl.errors import LensrlError
from lensrl.judge.measurements import BEFORE_RL
from lensrl.judge.relations import control
from lensrl.measures.correlation import Method, correlate
from lensrl.measures.trend import Detrended
from lensrl.store.study import Study

CORRELATION_COLUMNS = [
    "predictor", "method", "coefficient", "low", "high", "p", "shift_p", "n", "rival", "given_rival", "given_rival_p",
    "reason",
]  # fmt: skip


def correlate_study(study: Study, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Correlate every predictor with C_l over the layers whose contribution is `defined`.

    Returns one row per predictor and method: predictor, method, coefficient, low, high, p, shift_p, n, rival,
    given_rival, given_rival_p, reason. The methods `spearman` and `pearson` are raw, with a permutation p (see
    `correlate`). The method `detrended` is Pearson's coefficient beyond a flexible trend in depth, with a
    circular-shift p (see `correlate_detrended`); it needs 24 layers. `rival` is the baseline known before RL that hurts
    this coefficient most; `given_rival` is the coefficient given depth and this rival, with a two-sided p.

    Layers of collapsed runs are left out. Pass `table` to reuse `predictors(study)`. Raises LensrlError when no layer
    has a defined contribution.
    """
    table = predictors(study) if table is None else table
    defined = table["status"] == "defined"
    if not defined.any():
        first = study.contributions().iloc[0]
        raise LensrlError(f"{study.path} has no contribution to correlate: {first['status']}: {first['reason']}")
    outcome = table["contribution"].where(defined).to_numpy(float)
    depth = table["layer"].to_numpy(float)
    rows: list[dict[str, object]] = []
    for name in (name for name in PREDICTORS if name in table):
        x = table[name].to_numpy(float)
        for method in get_args(Method):
            raw = correlate(x, outcome, method)
            rows.append({"predictor": name, **vars(raw), "shift_p": np.nan, "rival": ""})
        rivals = {r: table[r].to_numpy(float) for r in BEFORE_RL if r in table and r != name}
        found = control(depth, x, outcome, rivals)
        beyond = found.beyond
        rows.append({
            "predictor": name, "method": "detrended", "coefficient": beyond.coefficient, "low": beyond.low,
            "high": beyond.high, "p": _two_sided(beyond), "n": beyond.n, "shift_p": beyond.shift_p,
            "rival": found.rival, "given_rival": found.given.coefficient if found.rival else np.nan,
            "given_rival_p": _two_sided(found.given) if found.rival else np.nan, "reason": beyond.reason,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=CORRELATION_COLUMNS)


def _two_sided(found: Detrended) -> float:
    return float("nan") if found.reason else min(1.0, 2 * min(found.p_above, found.p_below))

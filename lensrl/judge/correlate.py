"""Correlations of every predictor with the layer contribution."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd

from lensrl.compare.predictors import PREDICTORS, predictors
from lensrl.errors import LensrlError
from lensrl.measures.correlation import Method, correlate, correlate_detrended
from lensrl.store.study import Study

CORRELATION_COLUMNS = ["predictor", "method", "coefficient", "low", "high", "p", "shift_p", "n", "reason"]


def correlate_study(study: Study, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Correlate every predictor with C_l over the layers whose contribution is `defined`.

    Returns one row per predictor and method: predictor, method, coefficient, low, high, p, shift_p, n, reason. The
    methods `spearman` and `pearson` are raw, with a permutation p (see `correlate`). The method `detrended` is
    Pearson's coefficient beyond a quadratic in depth, with a circular-shift p (see `correlate_detrended`).

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
            rows.append({"predictor": name, **vars(raw), "shift_p": np.nan})
        beyond = correlate_detrended(depth, x, outcome)
        p = min(1.0, 2 * min(beyond.p_above, beyond.p_below)) if not beyond.reason else np.nan
        rows.append({
            "predictor": name, "method": "detrended", "coefficient": beyond.coefficient, "low": beyond.low,
            "high": beyond.high, "p": p, "n": beyond.n, "shift_p": beyond.shift_p, "reason": beyond.reason,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=CORRELATION_COLUMNS)

"""Predictors correlated with the contribution, on planted scores whose coefficients are computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensrl import LensrlError, Study, open_study
from lensrl.judge.correlate import CORRELATION_COLUMNS, correlate_study
from lensrl.measures.correlation import correlate
from lensrl.recipe.runs import BASE, FULL
from tests.store.synthetic import add_run, make_study


def synthetic(folder: Path, gains: list[int], *, collapsed: int | None = None) -> Study:
    make_study(folder)
    add_run(folder, BASE, {"only": [0.0] * 60}, n_layers=len(gains), probed=False)
    add_run(folder, FULL, {"only": [1.0] * 50 + [0.0] * 10}, n_layers=len(gains), probed=False)
    for layer, solved in enumerate(gains):
        add_run(
            folder, f"layer-{layer}", {"only": [1.0] * solved + [0.0] * (60 - solved)}, n_layers=len(gains),
            status="collapsed" if layer == collapsed else "completed", reason="fell" if layer == collapsed else "",
            probed=False,
        )  # fmt: skip
    return open_study(folder)


def test_the_coefficients_of_depth_are_those_by_hand(tmp_path: Path) -> None:
    gains = [30, 35, 42, 38, 47, 44, 20, 25, 15]
    with synthetic(tmp_path / "study", gains, collapsed=6) as study:
        table = correlate_study(study)
    assert list(table) == CORRELATION_COLUMNS
    raw = table[(table["predictor"] == "depth") & (table["method"] == "pearson")].iloc[0]
    kept = np.delete(np.arange(9), 6)
    assert raw["n"] == 8
    assert raw["coefficient"] == pytest.approx(np.corrcoef(kept, np.array(gains)[kept])[0, 1])
    own = correlate(kept.astype(float), np.array(gains)[kept] / 50, "spearman")
    ranked = table[(table["predictor"] == "depth") & (table["method"] == "spearman")].iloc[0]
    assert (ranked["coefficient"], ranked["p"]) == pytest.approx((own.coefficient, own.p))
    beyond = table[(table["predictor"] == "depth") & (table["method"] == "detrended")].iloc[0]
    assert beyond["reason"] == "a trend in depth leaves nothing of one of the two"
    assert np.isnan(beyond["p"])
    middle = table[(table["predictor"] == "distance_from_middle") & (table["method"] == "detrended")].iloc[0]
    design = np.stack([np.ones(8), kept, kept**2], axis=1)
    u, v = (
        values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        for values in (np.abs(kept - 4.0), np.array(gains)[kept] / 50)
    )
    assert middle["coefficient"] == pytest.approx(np.corrcoef(u, v)[0, 1])


def test_too_few_layers_have_a_reason_and_no_contribution_is_an_error(small_study: Study, tmp_path: Path) -> None:
    few = correlate_study(small_study)
    assert few["coefficient"].isna().all()
    assert set(few["reason"]) <= {
        f"{n} layers with both values: at least {least} are needed" for n in range(4) for least in (4, 7)
    }
    make_study(tmp_path / "none")
    for run in (BASE, FULL, "layer-0"):
        add_run(tmp_path / "none", run, {"only": [1.0, 0.0] * 20}, probed=False)
    with open_study(tmp_path / "none") as study, pytest.raises(LensrlError, match="no contribution to correlate"):
        correlate_study(study)

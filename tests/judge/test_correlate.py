"""Predictors correlated with the contribution, on planted scores whose coefficients are computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensrl import LensrlError, Study, open_study, predictors
from lensrl.judge.correlate import CORRELATION_COLUMNS, correlate_study
from lensrl.measures.correlation import correlate
from lensrl.measures.trend import correlate_detrended
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
    assert beyond["reason"] == "8 layers with both values: beyond a trend in depth at least 24 are needed"
    assert np.isnan([beyond["p"], beyond["given_rival"]]).all()


def test_beyond_a_trend_the_coefficient_stands_beside_that_given_the_worst_rival(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gains = (30 + 10 * rng.normal(size=26)).clip(5, 55).astype(int).tolist()
    with synthetic(tmp_path / "deep", gains) as study:
        table = predictors(study)
        c = table["contribution"].to_numpy()
        rival = c + 0.05 * rng.normal(size=26)
        planted = table.assign(cka_growth=rival + 0.05 * rng.normal(size=26), bypass_logprob=rival)
        found = correlate_study(study, planted)
    beyond = found[found["method"] == "detrended"].set_index("predictor").to_dict("index")["cka_growth"]
    assert beyond["coefficient"] == pytest.approx(
        correlate_detrended(np.arange(26.0), planted["cka_growth"].to_numpy(), c).coefficient
    )
    assert (beyond["coefficient"] > 0.8, beyond["p"] < 0.01) == (True, True)
    given = correlate_detrended(np.arange(26.0), planted["cka_growth"].to_numpy(), c, given=rival)
    assert (beyond["rival"], beyond["given_rival"]) == ("bypass_logprob", pytest.approx(given.coefficient))
    assert beyond["given_rival_p"] > 0.05


def test_too_few_layers_have_a_reason_and_no_contribution_is_an_error(small_study: Study, tmp_path: Path) -> None:
    few = correlate_study(small_study)
    assert few["coefficient"].isna().all()
    assert set(few["reason"]) <= {
        f"{n} layers with both values: {needed} are needed"
        for n in range(4)
        for needed in ("at least 4", "beyond a trend in depth at least 24")
    }
    make_study(tmp_path / "none")
    for run in (BASE, FULL, "layer-0"):
        add_run(tmp_path / "none", run, {"only": [1.0, 0.0] * 20}, probed=False)
    with open_study(tmp_path / "none") as study, pytest.raises(LensrlError, match="no contribution to correlate"):
        correlate_study(study)

"""The controls on the page: each number against the files that it comes from."""

from __future__ import annotations

import numpy as np
import pytest

from lensrl import Study
from lensrl.show.controls import controls


def test_the_controls_are_those_of_the_runs(small_study: Study) -> None:
    found = controls(small_study)
    rows = {row["run"]: row for row in found["rows"]}
    assert [*rows] == ["full-rl", "layer-0", "layer-3", "layer-7", "ends"]
    for name, row in rows.items():
        run = small_study[name]
        assert row["length"] == pytest.approx(run.scores()["length"].mean())
        assert row["truncated"] == pytest.approx(run.scores()["truncated"].mean())
        assert row["clipped_share"] == np.mean(run.training()["grad_norm"] > 1)
        assert row["mismatch"] == run.training()["sampler_mismatch"].max() > 0
        assert row["entropy_last"] == pytest.approx(run.training()["entropy"].mean())  # four steps: both ends are all
    assert found["base"]["length"] == pytest.approx(small_study["base"].scores()["length"].mean())
    (pair,) = found["together"]
    alone = small_study.contributions().set_index("layer")["contribution"]
    assert pair["alone"] == pytest.approx(alone[0] + alone[7], nan_ok=True)
    said = " ".join(found["said"])
    assert f"{100 * rows['full-rl']['clipped_share']:.0f} % of its steps" in said
    assert "rl.clip never acts" in said

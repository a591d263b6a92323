"""The shipped recipe does what its file says: full RL lifts the embedded base by at least 0.2, without collapse."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensrl import load_recipe, run_study
from lensrl.recipe import Recipe

RECIPE = Path(__file__).parents[2] / "runs" / "tiny.toml"


@pytest.mark.slow
def test_full_rl_gains_at_least_a_fifth(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(load_recipe(RECIPE).model_dump() | {"layers": []})
    with run_study(recipe, tmp_path / "tiny") as study:
        base, full = study["base"], study["full-rl"]
        assert 0.3 < base.score < 0.65
        assert full.score - base.score > 0.2
        assert full.status == "completed"

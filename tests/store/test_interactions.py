"""Layers together and alone, against the scores of a study by hand, and against a bootstrap over its items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensrl import open_study
from lensrl.recipe import Recipe
from lensrl.store.names import RECIPE_FILE
from tests.store.synthetic import add_run, make_study

GAINS = {"full-rl": 0.5, "layer-0": 0.3, "layer-1": 0.4, "both": 0.45, "twin": 0.3}  # over the base
SETS = {"both": "0-1", "twin": [0], "mlps": {"layers": "0-1", "component": "mlp"}}


def test_an_interaction_is_the_set_minus_its_layers_and_its_interval_that_of_a_bootstrap(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study")
    recipe = Recipe.model_validate({"model": "tiny:none", "task": {"name": "arithmetic"}, "sets": SETS})
    (folder / RECIPE_FILE).write_text(recipe.model_dump_json(), encoding="utf-8")
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 0.4, 300)
    scores = {name: base + rng.normal(gain, 0.3, 300) for name, gain in GAINS.items()} | {"mlps": base, "base": base}
    for name, values in scores.items():
        add_run(folder, name, {"only": values.tolist()})
    with open_study(folder) as study:
        (row,) = study.set_interactions().to_dict("records")  # one layer, or a part of layers, has no sum of its layers
        together = study.set_contributions().set_index("set").loc["both", "contribution"]
    assert (row["set"], row["layers"], row["status"], row["seeds"]) == ("both", "0-1", "defined", 1)
    full, both, first, second = (scores[name] - base for name in ("full-rl", "both", "layer-0", "layer-1"))
    assert row["together"] == pytest.approx(both.mean() / full.mean(), rel=1e-5) == pytest.approx(together, rel=1e-5)
    assert row["alone"] == pytest.approx((first + second).mean() / full.mean(), rel=1e-5)
    assert row["interaction"] == pytest.approx(row["together"] - row["alone"], rel=1e-6)
    drawn = rng.integers(300, size=(5000, 300))
    ratios = (both - first - second)[drawn].mean(1) / full[drawn].mean(1)
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.02)
    assert row["high"] < 0, "gains of 0.3 and 0.4 that give 0.45 together overlap"

"""Contributions of sets and at other learning rates, on runs whose scores are planted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensrl.errors import LensrlError
from lensrl.recipe import Recipe
from lensrl.store.contributions import layer_contributions
from lensrl.store.names import RECIPE_FILE
from lensrl.store.study import Study, open_study
from tests.store.synthetic import add_run, solved_by_half

RANKED = {"layers": "top-1", "profile": "/gone", "chosen": {"layers": [1], "items": "other half"}}


def study(folder: Path, runs: Mapping[str, tuple[int, int] | None], **values: Any) -> Study:
    """A study of two layers with these runs; None for a run that diverged."""
    folder.mkdir(exist_ok=True)
    recipe = Recipe.model_validate({"model": "tiny:none", "task": "arithmetic"} | values)
    (folder / RECIPE_FILE).write_text(recipe.model_dump_json(), encoding="utf-8")
    for key, score in runs.items():
        name, _, seed = key.partition(" ")
        if score is None:
            add_run(folder, name, None, int(seed or 0), status="diverged", reason="the loss is not finite")
        else:
            add_run(folder, name, solved_by_half(*score), int(seed or 0))
    return open_study(folder)


TRAINED = {"base": (0, 0), "full-rl": (10, 12), "layer-0": (8, 9), "layer-1": (2, 3)}


def test_a_set_has_the_share_of_the_gain_that_its_scores_say(tmp_path: Path) -> None:
    runs = TRAINED | {"both": (5, 6), "mlps": (11, 11)}
    with study(tmp_path, runs, sets={"both": "0-1", "mlps": {"layers": 0, "component": "mlp"}, "late": [1]}) as opened:
        table = opened.set_contributions().set_index("set")
        assert opened.contributions()["contribution"].tolist() == pytest.approx([17 / 22, 5 / 22])
    assert table.index.tolist() == ["both", "mlps", "late"]
    assert table["contribution"].tolist()[:2] == pytest.approx([0.5, 1.0])
    assert (table["low"] < table["contribution"]).tolist() == [True, True, False]
    assert table["numerator"].tolist()[:2] == pytest.approx([11 / 40, 22 / 40])
    assert table["layers"].tolist() == [(0, 1), (0,), (1,)]
    assert table["trained"].tolist() == ["layers 0-1", "MLP of layer 0", "layer 1"]
    assert table["status"].tolist() == ["defined", "defined", "missing"]
    assert table.loc["late", "reason"] == "no run late"


def test_a_set_that_was_chosen_on_one_half_is_scored_on_the_other(tmp_path: Path) -> None:
    with study(tmp_path, TRAINED | {"best": (20, 3), "same": (20, 3)}, sets={"best": RANKED, "same": [1]}) as opened:
        table = opened.set_contributions().set_index("set")
    assert table["items"].to_dict() == {"best": "other half", "same": "all"}
    assert table["contribution"].to_dict() == pytest.approx({"best": 3 / 12, "same": 23 / 22})


def test_a_set_on_all_items_has_the_interval_that_a_layer_with_its_scores_has(tmp_path: Path) -> None:
    runs = {f"{name} {seed}": (f + seed, o) for seed in (0, 1, 2) for name, (f, o) in TRAINED.items() if name != "base"}
    runs |= {"base": (0, 0)} | {f"twin {seed}": runs[f"layer-0 {seed}"] for seed in (0, 1, 2)}
    with study(tmp_path, runs, seeds=[0, 1, 2], sets={"twin": [0]}) as opened:
        (twin,) = opened.set_contributions().to_dict("records")
        layer = opened.contributions().to_dict("records")[0]
        one = opened.set_contributions(1).iloc[0]
    assert (twin["contribution"], twin["seeds"]) == (pytest.approx(layer["contribution"]), 3)
    # full RL's own variation over seeds is judged by the layers' and the set's together
    assert (twin["low"], twin["high"]) == pytest.approx((layer["low"], layer["high"]), rel=0.02)
    assert (one["contribution"], one["seeds"]) == (pytest.approx(18 / 23), 1)


def test_a_study_without_sets_or_rates_has_empty_tables(tmp_path: Path) -> None:
    with study(tmp_path, TRAINED) as opened:
        assert opened.set_contributions().empty
        assert opened.rate_control().empty


def test_sets_need_full_rl_and_say_what_became_of_it(tmp_path: Path) -> None:
    opened = study(tmp_path / "a", {"base": (0, 0), "low": (3, 3)}, sets={"low": [0]})
    with opened, pytest.raises(LensrlError, match="has no run 'full-rl'"):
        opened.set_contributions()
    with study(tmp_path / "b", {"base": (0, 0), "low": (3, 3), "full-rl": None}, sets={"low": [0]}) as opened:
        row = opened.set_contributions().iloc[0]
    assert (row["status"], row["reason"]) == ("diverged", "full-rl seed 0: the loss is not finite")


RATES = TRAINED | {"full-rl@0.1": (16, 15), "layer-0@0.1": (6, 18), "layer-1@0.1": (10, 6)}
TWO_RATES = {"rl": {"learning_rate": 0.01}, "learning_rates": [0.1]}


def test_rates_are_chosen_on_one_half_and_measured_on_the_other(tmp_path: Path) -> None:
    with study(tmp_path, RATES, **TWO_RATES) as opened:
        table = opened.rate_control().set_index("run")
        assert opened.contributions()["contribution"].tolist() == pytest.approx([17 / 22, 5 / 22])  # the main rate's
    assert table["rate"].to_dict() == {"full-rl": 0.1, "layer-0": 0.01, "layer-1": 0.1}
    assert table["contribution"].tolist() == pytest.approx([1, 9 / 15, 6 / 15])
    assert table["recipe_contribution"].tolist() == pytest.approx([1, 9 / 12, 3 / 12])
    assert table["numerator"].tolist() == pytest.approx([15 / 20, 9 / 20, 6 / 20])
    assert table["recipe_numerator"].tolist() == pytest.approx([12 / 20, 9 / 20, 3 / 20])
    assert set(table["rates"]) == {(0.01, 0.1)}
    assert set(table["left_out"]) == {""}
    np.testing.assert_array_equal(table["layer"], [np.nan, 0, 1])


def test_a_rate_without_a_score_from_every_seed_is_left_out(tmp_path: Path) -> None:
    runs = {f"{name} {seed}": score for name, score in RATES.items() if name != "base" for seed in (0, 1)}
    runs |= {"base": (0, 0), "full-rl@0.1 1": None}
    del runs["layer-1@0.1 1"]
    with study(tmp_path, runs, seeds=[0, 1], **TWO_RATES) as opened:
        table = opened.rate_control().set_index("run")
        one = opened.rate_control(0).set_index("run")
    assert table["rate"].to_dict() == {"full-rl": 0.01, "layer-0": 0.01, "layer-1": 0.01}
    assert table["left_out"].to_dict() == {"full-rl": "0.1", "layer-0": "", "layer-1": "0.1"}
    pd.testing.assert_series_equal(table["contribution"], table["recipe_contribution"], check_names=False)
    assert one["rate"].to_dict() == {"full-rl": 0.1, "layer-0": 0.01, "layer-1": 0.1}


def test_a_best_rate_at_the_end_of_the_rates_is_named(tmp_path: Path) -> None:
    runs = RATES | {"full-rl@0.001": (5, 5), "layer-0@0.001": (5, 5), "layer-1@0.001": (12, 6)}
    with study(tmp_path / "all", runs, rl={"learning_rate": 0.01}, learning_rates=[0.001, 0.1]) as opened:
        table = opened.rate_control().set_index("run")
    assert table["rate"].to_dict() == {"full-rl": 0.1, "layer-0": 0.01, "layer-1": 0.001}
    assert table["at_end"].to_dict() == {"full-rl": "highest", "layer-0": "", "layer-1": "lowest"}
    lost = runs | {"layer-1": None, "layer-1@0.1": None, "layer-1@0.001": None, "layer-0": None}
    with study(tmp_path / "lost", lost, rl={"learning_rate": 0.01}, learning_rates=[0.001, 0.1]) as opened:
        table = opened.rate_control().set_index("run")
    assert table["at_end"].to_dict() == {"full-rl": "highest", "layer-0": "highest", "layer-1": ""}
    assert table["rate"].isna().tolist() == [False, False, True]


def test_where_full_rl_diverged_at_every_rate_there_is_nothing_to_share(tmp_path: Path) -> None:
    runs = RATES | {"full-rl": None, "full-rl@0.1": None}
    with study(tmp_path, runs, **TWO_RATES) as opened:
        table = opened.rate_control()
    assert table["status"].tolist() == ["diverged"] * 3
    assert table["rate"].isna().tolist() == [True, False, False]
    assert table["contribution"].isna().all()


def test_contributions_on_some_items_are_those_of_a_study_that_has_no_others(tmp_path: Path) -> None:
    with study(tmp_path, TRAINED) as opened:
        table = layer_contributions(opened.runs, items=np.arange(1, 40, 2))
    assert table["contribution"].tolist() == pytest.approx([9 / 12, 3 / 12])


def test_a_layer_with_fewer_seeds_than_others_says_what_became_of_the_rest(tmp_path: Path) -> None:
    runs = TRAINED | {"full-rl 1": (10, 12), "layer-0 1": (8, 9), "layer-1 1": None}
    with study(tmp_path, runs, seeds=[0, 1]) as opened:
        table = layer_contributions(opened.runs).set_index("layer")
    assert table["status"].tolist() == ["defined", "defined"]
    assert table["seeds"].tolist() == [2, 1]
    assert table["reason"].tolist() == ["", "1 of 2 seeds: seed 1 diverged: the loss is not finite"]


def test_without_a_seed_a_table_takes_all_seeds_together(tmp_path: Path) -> None:
    runs = {"base": (0, 0), "full-rl 0": (10, 12), "full-rl 1": (11, 13)}
    runs |= {f"{name} {seed}": score for name in ("layer-0", "twin") for seed, score in enumerate([(8, 9), (5, 5)])}
    rates = {f"{name}@0.1 {seed}": (0, 0) for name in ("full-rl", "layer-0") for seed in (0, 1)}
    with study(tmp_path, runs | rates, seeds=[0, 1], layers=[0], sets={"twin": [0]}, **TWO_RATES) as opened:
        tables = [opened.contributions, opened.set_contributions]
        found = [[table(seed)["contribution"].iloc[0] for seed in (None, 0, 1)] for table in tables]
        rate = [opened.rate_control(seed).set_index("run").loc["layer-0", "contribution"] for seed in (None, 0, 1)]
        seeds = [opened.contributions(seed)["seeds"].iloc[0] for seed in (None, 0, 1)]
    assert found == [pytest.approx([27 / 46, 17 / 22, 10 / 24])] * 2
    assert rate == pytest.approx([14 / 25, 9 / 12, 5 / 13]), "on the half that did not choose"
    assert seeds == [2, 1, 1]

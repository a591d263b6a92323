"""`top-K` and `bottom-K`: chosen from a profile, on items that the set is then not scored on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lensrl.errors import LensrlError
from lensrl.recipe import Chosen, Recipe
from lensrl.train.choose import choose_sets, rank_layers
from tests.store.synthetic import add_run, make_study, solved_by_half

ITEMS = [("only", str(i)) for i in range(40)]
# on the items at even places layer 0 is the better one, on the others layer 1, and so it is over all
TWO_FACED = {"base": (0, 0), "full-rl": (20, 20), "layer-0": (10, 0), "layer-1": (6, 18)}


def profile(folder: Path, runs: Mapping[str, tuple[int, int]] = TWO_FACED, *, prefix: str = "") -> Path:
    make_study(folder)
    for name, score in runs.items():
        add_run(folder, name, solved_by_half(*score), prefix=prefix)
    return folder


def recipe(**sets: Any) -> Recipe:
    return Recipe.model_validate({"model": "tiny:none", "task": "arithmetic", "sets": sets})


def best(path: Path, **values: Any) -> dict[str, Any]:
    return {"layers": "top-1", "profile": path} | values


def test_with_the_same_items_the_choice_sees_one_half_alone(tmp_path: Path) -> None:
    path = profile(tmp_path / "profile")
    assert rank_layers(path, 2, ITEMS) == (pytest.approx({0: 0.5, 1: 0.3}), "other half")
    sets = choose_sets(recipe(best=best(path), worst=best(path, layers="bottom-1")), 2, ITEMS, {}).sets
    assert sets["best"].chosen == Chosen(layers=[0], items="other half")
    assert sets["worst"].chosen == Chosen(layers=[1], items="other half")


def test_with_other_items_the_choice_sees_them_all(tmp_path: Path) -> None:
    path = profile(tmp_path / "profile", prefix="elsewhere-")
    assert rank_layers(path, 2, ITEMS) == (pytest.approx({0: 0.25, 1: 0.6}), "all")


def test_where_items_overlap_none_that_is_reported_was_seen(tmp_path: Path) -> None:
    path = profile(tmp_path / "profile")
    # of these 20 items, 1, 3, ... are the other half; the choice sees all that the profile has but those 10
    assert rank_layers(path, 2, ITEMS[:20]) == (pytest.approx({0: 10 / 30, 1: 14 / 30}), "other half")


def test_a_profile_of_nothing_but_reported_items_leaves_none_to_choose_by(tmp_path: Path) -> None:
    path = profile(tmp_path / "profile")
    beside = [pair for i in range(40) for pair in (("only", f"new-{i}"), ("only", str(i)))]
    with pytest.raises(LensrlError, match="none is left to choose by"):
        rank_layers(path, 2, beside)


def test_layers_to_boost_are_chosen_from_the_profile_too(tmp_path: Path) -> None:
    ranked = best(profile(tmp_path / "profile"), layers="full", boost="top-1", factor=3.0)
    chosen = choose_sets(recipe(boosted=ranked, plain="mid-1"), 2, ITEMS, {}).sets
    assert chosen["boosted"].chosen == Chosen(layers=None, boost=[0], items="other half")
    assert chosen["plain"].chosen is None


def test_a_published_table_is_chosen_from_as_it_is(tmp_path: Path) -> None:
    table = tmp_path / "published.csv"
    table.write_text("layer,contribution\n0,0.2\n1,0.9\n2,0.4\n", encoding="utf-8")
    sets = choose_sets(recipe(best=best(table, layers="top-2")), 3, ITEMS, {}).sets
    assert sets["best"].chosen == Chosen(layers=[1, 2], items="all")
    with pytest.raises(LensrlError, match=r"sets\.best: .*published.csv is of a model with 3 layers, this one has 8"):
        choose_sets(recipe(best=best(table)), 8, ITEMS, {})


def test_what_has_a_run_stays_chosen_even_where_the_profile_is_gone(tmp_path: Path) -> None:
    asked = recipe(best=best(tmp_path / "gone"))
    made = asked.sets["best"].model_copy(update={"chosen": Chosen(layers=[1], items="other half")})
    assert choose_sets(asked, 2, ITEMS, {"best": made}).sets["best"] == made
    with pytest.raises(LensrlError, match=r"sets\.best: no study folder at .*gone"):
        choose_sets(asked, 2, ITEMS, {})
    with pytest.raises(LensrlError, match=r"sets\.best: no study folder at .*gone"):  # now it means something else
        choose_sets(recipe(best=best(tmp_path / "gone", layers="top-2")), 2, ITEMS, {"best": made})


@pytest.mark.parametrize(
    ("left_out", "complaint"),
    [
        ("layer-1", r"profile is not finished: layer-1 seed 0 is missing"),
        ("full-rl", r"profile is not finished: full-rl seed 0 is missing"),
    ],
)
def test_a_profile_that_is_not_finished_is_refused(tmp_path: Path, left_out: str, complaint: str) -> None:
    path = profile(tmp_path / "profile", {name: score for name, score in TWO_FACED.items() if name != left_out})
    with pytest.raises(LensrlError, match=complaint):
        rank_layers(path, 2, ITEMS)


def test_a_layer_without_a_contribution_is_named(tmp_path: Path) -> None:
    path = profile(tmp_path / "profile", {k: v for k, v in TWO_FACED.items() if k != "layer-1"})
    add_run(path, "layer-1", None, status="diverged", reason="the loss is not finite")
    complaint = r"profile has no contribution of layer 1: layer-1 seed 0: the loss is not finite"
    with pytest.raises(LensrlError, match=complaint):
        rank_layers(path, 2, ITEMS)


def test_a_profile_without_a_certain_gain_is_refused(tmp_path: Path) -> None:
    path = profile(tmp_path / "profile", TWO_FACED | {"full-rl": (1, 0)})
    with pytest.raises(LensrlError, match=r"no contribution of layers 0-1: the interval of S_full - S_base contains 0"):
        rank_layers(path, 2, ITEMS)


def test_a_profile_of_some_layers_ranks_nothing(tmp_path: Path) -> None:
    path = profile(tmp_path / "profile")
    with pytest.raises(LensrlError, match=r"profile is of a model with 2 layers, this one has 4"):
        rank_layers(path, 4, ITEMS)
    (path / "recipe.json").write_text(recipe().model_copy(update={"layers": [0]}).model_dump_json(), encoding="utf-8")
    (path / "layer-1.seed-0.h5").unlink()
    with pytest.raises(LensrlError, match="no contribution of layer 1: never trained alone"):
        rank_layers(path, 2, ITEMS)

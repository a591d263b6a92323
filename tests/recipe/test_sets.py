"""Sets of layers and learning rates in a recipe: what is read, what is refused, and with which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensrl.errors import RecipeError
from lensrl.recipe import Chosen, LayerSet, Recipe, load_recipe, read_kept_recipe

MINIMAL = 'model = "tiny:qwen3"\ntask = "arithmetic"\n'


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(MINIMAL + text, encoding="utf-8")
    return load_recipe(path)


def test_sets_are_words_layers_or_tables(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        """
        [sets]
        ends = [0, 7]
        one = 3
        middle = "mid-3"
        attention = { layers = "all", component = "attn" }
        best = { layers = "top-3", profile = "../tiny" }
        boosted = { layers = "full", boost = "0-2", factor = 5.0 }
        """,
    )
    assert recipe.sets == {
        "ends": LayerSet(layers=[0, 7]),
        "one": LayerSet(layers=3),
        "middle": LayerSet(layers="mid-3"),
        "attention": LayerSet(layers="all", component="attn"),
        "best": LayerSet(layers="top-3", profile=tmp_path.parent / "tiny"),  # relative to the recipe
        "boosted": LayerSet(layers="full", boost="0-2", factor=5.0),
    }


def test_a_list_of_words_names_each_set_after_its_word(tmp_path: Path) -> None:
    recipe = load(tmp_path, 'sets = ["mid-3", "random-2"]\n')
    assert recipe.sets == {"mid-3": LayerSet(layers="mid-3"), "random-2": LayerSet(layers="random-2")}


def test_pairs_of_a_list_are_sets_of_two_layers(tmp_path: Path) -> None:
    recipe = load(tmp_path, 'sets = ["pairs:9,3,7", "all-but-2"]\n')
    assert {name: one.layers for name, one in recipe.sets.items()} == {
        "pair-3-7": [3, 7], "pair-3-9": [3, 9], "pair-7-9": [7, 9], "all-but-2": "all-but-2",
    }  # fmt: skip


def test_the_recipe_of_a_study_made_before_there_were_words_still_loads(tmp_path: Path) -> None:
    kept = json.loads(Recipe.model_validate({"model": "tiny:qwen3", "task": {"name": "arithmetic"}}).model_dump_json())
    del kept["learning_rates"]
    kept["sets"] = {"ends": [0, 7], "low": "0-2"}
    (tmp_path / "recipe.json").write_text(json.dumps(kept), encoding="utf-8")
    recipe = read_kept_recipe(tmp_path / "recipe.json")
    assert recipe.sets == {"ends": LayerSet(layers=[0, 7]), "low": LayerSet(layers="0-2")}
    assert recipe.learning_rates == []


def test_what_was_chosen_is_kept_and_does_not_set_recipes_at_odds(tmp_path: Path) -> None:
    recipe = load(tmp_path, 'sets.best = { layers = "top-1", profile = "tiny" }\n')
    chosen = recipe.sets["best"].model_copy(update={"chosen": Chosen(layers=[4], items="other half")})
    settled = recipe.model_copy(update={"sets": {"best": chosen}})
    (tmp_path / "recipe.json").write_text(settled.model_dump_json(), encoding="utf-8")
    assert read_kept_recipe(tmp_path / "recipe.json") == settled
    assert settled.conflict(recipe) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('sets.a = "tpo-3"', r"sets\.a: 'tpo-3' names no layers; did you mean 'top'\?"),
        ('sets.a = "top-3"', r"sets\.a: 'top-3' is chosen by contribution: add profile"),
        ('sets = ["bottom-3"]', r"sets\.bottom-3: 'bottom-3' is chosen by contribution: add profile"),
        ('sets.a = { layers = "all", boost = "top-1", factor = 2.0 }', r"sets\.a: 'top-1' is chosen by contribution"),
        ('sets.a = { layers = "mid-3", profile = "x" }', r"sets\.a: profile is given but nothing is chosen from it"),
        ('sets.a = { layers = "all", boost = "0-2" }', r"sets\.a: boost and factor go together"),
        ("sets.a = { layers = 0, factor = 2.0 }", r"sets\.a: boost and factor go together"),
        ("sets.a = { layers = 0, boost = 0, factor = 0 }", r"sets\.a\.factor: .* greater than 0 \(given: 0\)"),
        ("sets.a = { layers = 0, boost = 0, factor = -1.5 }", r"sets\.a\.factor: .* greater than 0 \(given: -1.5\)"),
        ('sets.a = { layers = 0, boost = "full", factor = 2.0 }', r"sets\.a: boost = 'full' is another learning rate"),
        ('sets.a = { layers = "full", component = "mlp" }', r"sets\.a: component = 'mlp' is a part of layers"),
        ('sets.a = { layers = 0, component = "norm" }', r"sets\.a\.component: .*'block', 'attn' or 'mlp'"),
        ('sets.a = { component = "mlp" }', r"'sets\.a\.layers' is missing"),
        ("sets.a = 3.5", r"sets\.a\.layers: .* integer"),
        ("sets.a = { layers = 3, chosen = { layers = [1] } }", r"sets\.a\.chosen is found by the study"),
        ('sets = ["mid-3", "mid-3"]', r"sets: sets \['mid-3', 'mid-3'\] name a set twice"),
        ('sets = ["pairs:3"]', r"sets: 'pairs:3' names no pairs: write at least two layers"),
        ('sets = ["pairs:3,7", "pairs:7,3"]', r"name a set twice"),
        ("sets = [3]", r"sets: a list of sets holds words"),
        ("learning_rates = [1e-6]", r"toml: learning rates \[1e-06, 1e-06\] name a learning rate twice"),
        ("learning_rates = [1e-4, 0.0]", r"learning_rates\.1: .* greater than 0"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint) as caught:
        load(tmp_path, f"{text}\n")
    assert "\n" not in str(caught.value)

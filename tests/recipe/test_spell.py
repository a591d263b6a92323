"""`lensrl recipe`: the text that it prints is the recipe that it was given, with nothing left out."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from lensrl import load_recipe
from lensrl.recipe import Recipe, parse_recipe
from lensrl.recipe.spell import spell_recipe
from tests.cli.typed import lensrl

SHIPPED = Path(__file__).parents[2] / "runs"
RECIPES = [path for path in sorted(SHIPPED.rglob("*.toml")) if path.name != "gsm8k-random.toml"]  # its data is made


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("meanings", [False, True], ids=["", "meanings"])
def test_a_spelled_recipe_is_the_recipe(path: Path, meanings: bool) -> None:
    recipe = load_recipe(path)
    text = spell_recipe(recipe, meanings=meanings)
    assert parse_recipe(tomllib.loads(text), "spelled") == recipe


def test_sets_checkpoints_and_odd_names_are_spelled(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({
        "model": 'a "quoted"\nname', "task": {"name": "math", "test": {"amc 23": "test.jsonl"}}, "layers": [],
        "seeds": [], "report_to": "wandb", "on_no_gain": "go on",
        "checkpoints": {"full-rl": {"seed-3": {"model": "there", "snapshots": {"10": "at10"}}}},
        "evaluation": {"amc 23": {"samples": 32}},
    })  # fmt: skip
    assert parse_recipe(tomllib.loads(spell_recipe(recipe)), "spelled") == recipe


def test_every_setting_of_every_table_is_there_with_its_meaning() -> None:
    recipe = load_recipe(SHIPPED / "tiny.toml")
    text = spell_recipe(recipe, meanings=True)

    def fields(table: BaseModel) -> set[str]:
        inner = (getattr(table, name) for name in type(table).model_fields)
        return {*type(table).model_fields}.union(*(fields(one) for one in inner if isinstance(one, BaseModel)))

    for name in fields(recipe):
        assert f"\n{name} = " in f"\n{text}" or f"\n# {name} is not set" in text or f"{name}]" in text, name
    assert "# With one update, the default, the clipped objective is on-policy" in text or "on-policy" in text
    assert "# nucleus sampling: probability mass to sample from; 1: no cut\ntop_p = 1.0" in text


def test_the_verb_prints_it_and_names_a_mistake(tmp_path: Path) -> None:
    done = lensrl("recipe", SHIPPED / "tiny.toml", "--defaults")
    assert done.stdout == spell_recipe(load_recipe(SHIPPED / "tiny.toml"), meanings=True)
    bad = tmp_path / "bad.toml"
    bad.write_text("modl = 1\n")
    done = lensrl("recipe", bad)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean 'model'" in done.stderr

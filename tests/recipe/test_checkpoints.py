"""The table `checkpoints`: runs that were trained elsewhere, by name, seed and step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lensrl.errors import LensrlError, RecipeError
from lensrl.recipe import Checkpoint, Recipe, load_recipe, read_kept_recipe
from lensrl.recipe.runs import plan, trains

BARE = 'model = "tiny:qwen3"\ntask = "arithmetic"\n'


def load(folder: Path, text: str, head: str = "layers = []\n") -> Recipe:
    (folder / "recipe.toml").write_text(f"{head}{BARE}[checkpoints]\n{text}\n", encoding="utf-8")
    return load_recipe(folder / "recipe.toml")


def recipe(checkpoints: dict[str, Any], **more: Any) -> Recipe:
    return Recipe.model_validate({"model": "m", "task": "arithmetic", "checkpoints": checkpoints} | more)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('full-rl = "org/model"', [("full-rl", 0, "org/model", None)]),
        ('full-rl = { model = "org/model", revision = "a" }', [("full-rl", 0, "org/model", None)]),
        (
            'layer-2 = { seed-0 = "a", seed-7 = { model = "b" } }',
            [("layer-2", 0, "a", (2,)), ("layer-2", 7, "b", (2,))],
        ),
        ('sft = { model = "a", layers = "full" }', [("sft", 0, "a", None)]),
        ('sft = { seed-3 = "a", layers = "0,6-7" }', [("sft", 3, "a", (0, 6, 7))]),
        ('mid-3 = { model = "a", layers = "mid-3" }', [("mid-3", 0, "a", (2, 3, 4))]),
    ],
)
def test_a_checkpoint_is_a_run_of_its_name_and_seed(tmp_path: Path, text: str, expected: list[Any]) -> None:
    found = load(tmp_path, text)
    assert [(s.name, s.seed, s.checkpoint.model, s.layers) for s in plan(found, 8) if s.checkpoint] == expected
    (tmp_path / "recipe.json").write_text(json.dumps(found.model_dump(mode="json")), encoding="utf-8")
    assert read_kept_recipe(tmp_path / "recipe.json") == found


def test_the_end_of_snapshots_is_the_checkpoint(tmp_path: Path) -> None:
    steps = '100 = "a", 20 = "b", 200 = { model = "c", revision = "r" }'
    found = load(tmp_path, f"full-rl = {{ snapshots = {{ {steps} }} }}").checkpoints["full-rl"].seeds[0]
    assert (found.model, found.revision, found.end) == ("c", "r", 200)
    assert sorted(found.snapshots) == [20, 100, 200]
    assert found.origin == {"source": "c", "revision": "r", "snapshots": {"20": "b", "100": "a", "200": "c@r"}}
    other = load(tmp_path, f'full-rl = {{ model = "d", snapshots = {{ {steps} }} }}').checkpoints["full-rl"].seeds[0]
    assert (other.model, other.end) == ("d", None)
    assert Checkpoint(model="d").end is None


def test_a_run_from_a_checkpoint_is_never_trained() -> None:
    asked = recipe({"full-rl": "a", "layer-1": {"seed-5": "b"}}, layers=[0, 1], seeds=[0, 1], sets={"ends": [0, 7]})
    assert [(s.name, s.seed, s.checkpoint is not None) for s in plan(asked, 8)] == [
        ("base", 0, False), ("full-rl", 0, True), ("layer-1", 5, True),
        ("layer-0", 0, False), ("ends", 0, False), ("layer-0", 1, False), ("ends", 1, False),
    ]  # fmt: skip


def test_nothing_is_trained_where_everything_that_is_asked_for_is_given() -> None:
    assert not trains(recipe({"full-rl": "a"}, layers=[]), 8)
    assert not trains(recipe({"full-rl": "a", "layer-0": "b", "layer-1": "c"}, layers="all"), 2)
    assert trains(recipe({"full-rl": "a"}, layers=[3]), 8)
    assert trains(recipe({"full-rl": "a"}, layers=[], sets={"ends": [0]}), 8)
    assert trains(recipe({"layer-3": "a"}, layers=[]), 8)  # full RL


def test_a_study_can_be_extended_by_checkpoints() -> None:
    assert recipe({"full-rl": "a"}).conflict(recipe({})) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('full-rl = { modle = "a" }', r"unknown key 'checkpoints\.full-rl\.modle'; did you mean '.*\.full-rl\.model'"),
        (
            'full-rl = { seed-0 = { modl = "a" } }',
            r"'checkpoints\.full-rl\.seed-0\.modl'; did you mean .*seed-0\.model",
        ),
        ("full-rl = 3", r"checkpoints\.full-rl: .* \(given: 3\)"),
        ("full-rl = { model = 3 }", r"checkpoints\.full-rl\.seed-0\.model: .* string \(given: 3\)"),
        ("full-rl = {}", r"checkpoints\.full-rl: names no model"),
        ('full-rl = { layers = "all" }', r"checkpoints\.full-rl: names no model"),
        ('full-rl = { seed-0 = "a", model = "b" }', r"checkpoints\.full-rl: model is of one checkpoint"),
        ('full-rl = { model = "a", allow = ["embd"] }', r"checkpoints\.full-rl\.allow\.0: .*'embed'"),
        ('full-rl = { snapshots = { 0 = "a" } }', r"snapshots\.0: .* greater than 0"),
        ('full-rl = { snapshots = { a = "a" } }', r"checkpoints\.full-rl\..*"),
        ('full-rl = { snapshots = { 1 = "a" }, revision = "b" }', r"revision belongs to a model"),
        ('a = { model = "a", layers = "top-3" }', r"checkpoints\.a: layers = 'top-3' is a choice"),
        ('a = { model = "a", layers = "tpo-3" }', r"checkpoints\.a: 'tpo-3' names no layers"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("checkpoints", "more", "complaint"),
    [
        ({"base": "a"}, {}, "checkpoints: 'base' is the recipe's model"),
        ({"sft": "a"}, {}, r"checkpoints\.sft: say which layers it trained"),
        ({"full_rl": "a"}, {}, r"checkpoints\.full_rl: .*did you mean 'full-rl'"),
        ({"layer-03": "a"}, {}, r"checkpoints\.layer-03: say which layers"),
        ({"layer-9": "a"}, {}, r"checkpoints\.layer-9: layer 9 is out of range: this model has 8 layers"),
        ({"a/b": {"model": "a", "layers": 1}}, {}, r"checkpoints\.a/b: 'a/b' cannot name a set"),
        ({"sft": {"model": "a", "layers": 9}}, {}, r"checkpoints\.sft: layer 9 is out of range"),
        ({"layer-2": {"model": "a", "layers": 2}}, {}, r"checkpoints\.layer-2: the name says what was trained"),
        ({"ends": {"model": "a", "layers": 0}}, {"sets": {"ends": 0}}, r"checkpoints\.ends: sets\.ends is trained"),
        ({"full-rl": "a"}, {"learning_rates": [1e-3]}, r"checkpoints\.full-rl: learning_rates repeats full RL"),
    ],
)
def test_a_name_that_no_run_can_have_is_refused(
    checkpoints: dict[str, Any], more: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(LensrlError, match=complaint) as caught:
        plan(recipe(checkpoints, **more), 8)
    assert "\n" not in str(caught.value)

"""A recipe of models that were trained elsewhere, from their places alone; and recipes without training items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lensrl import import_recipe
from lensrl.errors import LensrlError
from lensrl.recipe import HarnessTask, MathTask, Recipe, TextsTask, load_recipe, read_kept_recipe
from lensrl.recipe.runs import plan, trains


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "full", "l3", "sft"):
        (tmp_path / name).mkdir()
    for name in ("b", "f", "l"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    return tmp_path


def names(recipe: Recipe) -> list[str]:
    return [spec.name for spec in plan(recipe, 8)]


def test_two_models_are_a_study_on_texts(here: Path) -> None:
    recipe = import_recipe("base", "full")
    assert recipe.model == str(here / "base")
    assert recipe.checkpoints["full-rl"].seeds[0].model == str(here / "full")
    assert recipe.task == TextsTask(name="texts")
    assert names(recipe) == ["base", "full-rl"]
    assert not trains(recipe, 8)


def test_a_name_of_its_own_counts_as_trained_in_full(here: Path) -> None:
    recipe = import_recipe("org/base", {"layer-3": "l3", "sft": "sft"}, texts="t.txt")
    assert names(recipe) == ["base", "layer-3", "sft"]  # and no full RL
    assert [spec.layers for spec in plan(recipe, 8)] == [(), (3,), tuple(range(8))]
    assert recipe.task == TextsTask(name="texts", file=here / "t.txt")


def test_a_task_needs_no_training_items(here: Path) -> None:
    recipe = import_recipe("base", "full", task="math", test=["gsm8k.jsonl", "amc.test.jsonl"])
    assert isinstance(recipe.task, MathTask)
    assert recipe.task.train is None
    assert recipe.task.test == {"gsm8k": here / "gsm8k.jsonl", "amc": here / "amc.test.jsonl"}
    assert names(import_recipe("base", {"layer-3": "l3"}, task="arithmetic")) == ["base", "layer-3"]  # trains nothing


def test_scores_made_elsewhere_go_to_their_runs(here: Path) -> None:
    files = {"base": "b.jsonl", "full-rl": ["f.jsonl"], "layer-3": "l.jsonl"}
    recipe = import_recipe("base", {"full-rl": "full", "layer-3": "l3"}, scores=files, metric="acc", texts="t.txt")
    task = recipe.task
    assert isinstance(task, HarnessTask)
    assert ([one.file for one in task.base], task.metric, task.texts) == ([here / "b.jsonl"], "acc", here / "t.txt")
    layer = recipe.checkpoints["layer-3"].seeds[0]
    assert [one.file for one in layer.scores] == [here / "l.jsonl"]
    assert layer.origin["scores"] == [f"{here / 'l.jsonl'} ({layer.scores[0].sha256[:12]})"]
    (here / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
    assert read_kept_recipe(here / "recipe.json") == recipe


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"task": "math"}, "task 'math' has no items: give a file of them, --test FILE"),
        (
            {"task": "math", "test": ["a/test.jsonl", "b/test.jsonl"]},
            "a/test.jsonl and b/test.jsonl would both be 'test'",
        ),
        ({"test": "a.jsonl"}, "test a.jsonl is of no task: say which, --task math"),
        ({"task": "arithmetic", "texts": "t.txt"}, "scores the models on its own items: leave out texts"),
        ({"task": "arithmetic", "scores": {"base": "b.jsonl"}}, "leave out scores, or leave out the task"),
        ({"metric": "acc"}, "metric and filter are of scores"),
        ({"scores": {"base": "b.jsonl"}}, "no scores of full-rl: add its samples_.*, --scores full-rl=FILE"),
        ({"scores": {"base": "b.jsonl", "ful-rl": "f.jsonl"}}, "'ful-rl', which is no model here; did you mean 'full-"),
        ({"scores": {"base": "b.jsonl", "full-rl": "no.jsonl"}}, "samples .*no.jsonl cannot be read: No such file"),
        ({"task": "maths"}, "no task 'maths'; did you mean 'math'"),
    ],
)
def test_what_does_not_go_together_is_refused(here: Path, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(LensrlError, match=complaint):
        import_recipe("base", "full", **given)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('task = "arithmetic"\nseeds = []', "seeds = .. trains nothing: give a seed, or name trained models under"),
        ('task = "texts"', "'texts' has no training items: name trained models, checkpoints.full-rl"),
        ('task = "texts"\nlayers = "all"\n[checkpoints]\nfull-rl = "a"', r"train nothing, layers = \[\] without sets"),
        ('[task]\nname = "math"\ntest = { a = "b" }', "'math' has no training items: give task.train"),
        ('task = "arithmetic"\n[checkpoints]\nfull-rl = { model = "a", scores = "b.jsonl" }', "is for task 'harness'"),
        (
            '[task]\nname = "harness"\nbase = "b.jsonl"\n[checkpoints]\nfull-rl = "a"',
            "checkpoints.full-rl has no scores",
        ),
    ],
)
def test_a_recipe_that_cannot_train_says_so(here: Path, text: str, complaint: str) -> None:
    (here / "recipe.toml").write_text(f'model = "base"\n{text}\n')
    with pytest.raises(LensrlError, match=complaint):
        load_recipe(here / "recipe.toml")

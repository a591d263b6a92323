"""The table of algorithms: the names of recipes, and which task each algorithm needs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from lensrl import run_study
from lensrl.errors import RecipeError
from lensrl.recipe import CorridorTask, Recipe, Rl
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.corridor import Corridor
from lensrl.train.algorithms import ALGORITHMS, check_algorithm


def recipe(algorithm: str, task: str) -> Recipe:
    return Recipe.model_validate({"model": "tiny:qwen3", "task": task, "rl": {"algorithm": algorithm}})


def test_recipes_can_name_every_algorithm_and_no_other() -> None:
    assert sorted(get_args(Rl.model_fields["algorithm"].annotation)) == sorted(ALGORITHMS)


def test_every_table_of_settings_belongs_to_an_algorithm_that_has_advantages_of_its_own() -> None:
    assert set(Rl.algorithm_tables()) == {"gigpo"}
    for name in Rl.algorithm_tables():
        assert ALGORITHMS[name].advantages is not None


def test_an_algorithm_is_given_its_own_table_alone() -> None:
    rl = Rl.model_validate({"algorithm": "gigpo", "gigpo": {"gamma": 0.5, "baseline": "steps"}})
    assert rl.algorithm_settings == {"gamma": 0.5, "step_weight": 1.0, "normalise": "mean", "baseline": "steps"}
    assert {name: Rl(algorithm=name).algorithm_settings for name in ("grpo", "dr_grpo", "rloo")} == {
        "grpo": {}, "dr_grpo": {}, "rloo": {},
    }  # fmt: skip


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_a_task_in_turns_fits_every_algorithm(algorithm: str) -> None:
    for name, task in (("corridor", Corridor(CorridorTask(name="corridor"))), ("arithmetic", Arithmetic())):
        asked = recipe(algorithm, name)
        if algorithm == "gigpo" and name == "arithmetic":
            with pytest.raises(
                RecipeError,
                match="task arithmetic has none; use grpo, dr_grpo, rloo, dapo, gspo, sft, or a task in turns",
            ):
                check_algorithm(asked, task)
        elif algorithm == "sft" and name == "corridor":
            with pytest.raises(RecipeError, match=r"rl\.algorithm = 'sft' is for tasks with one completion per prompt"):
                check_algorithm(asked, task)
        else:
            check_algorithm(asked, task)


def test_a_study_with_an_algorithm_that_does_not_fit_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"rl\.algorithm gigpo compares the turns of an agent"):
        run_study(recipe("gigpo", "arithmetic"), tmp_path / "study")
    assert not (tmp_path / "study").exists()

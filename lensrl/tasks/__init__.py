"""Tasks: prompts, items, rewards and scores."""

from __future__ import annotations

from lensrl.recipe import MathTask, Recipe
from lensrl.tasks.arithmetic import Arithmetic
from lensrl.tasks.protocol import Item, Split, Task

__all__ = ["Item", "Split", "Task", "evaluation_items", "load_task"]


def load_task(recipe: Recipe) -> Task:
    """The task that a recipe names."""
    if isinstance(recipe.task, MathTask):
        from lensrl.tasks.math import Math  # math-verify brings sympy, which takes a second to import

        return Math(recipe.task)
    return Arithmetic()


def evaluation_items(task: Task, recipe: Recipe) -> list[Item]:
    """The held-out items that every run of the study is scored on: the first `evaluation.items` of each benchmark."""
    kept: list[Item] = []
    taken: dict[str, int] = {}
    for item in task.items("test"):
        taken[item.benchmark] = taken.get(item.benchmark, 0) + 1
        if taken[item.benchmark] <= recipe.evaluation.items:
            kept.append(item)
    return kept

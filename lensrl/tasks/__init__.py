"""Tasks: items with prompts, and the rewards and scores of completions.

`protocol.py` is the contract of a task; read it first. Each other module is one task, or a part that tasks share. The
settings of a task are in `lensrl.recipe.task_tables`.

The module of a task is imported only when a recipe names it: sympy, TextWorld and reasoning-gym take seconds.
"""

from __future__ import annotations

from lensrl.recipe import (
    ArithmeticTask,
    CodeTask,
    CorridorTask,
    ExpressionTask,
    GymTask,
    HarnessTask,
    MathTask,
    OwnTask,
    Recipe,
    TextsTask,
    TextWorldTask,
)
from lensrl.tasks.protocol import AgentTask, Episode, Item, Split, Task, Turn
from lensrl.tasks.texts import Texts

__all__ = ["AgentTask", "Episode", "Item", "Split", "Task", "Texts", "Turn", "evaluation_items", "load_task"]


def load_task(recipe: Recipe) -> Task | AgentTask | Texts:
    """Open the task that a recipe names. `Texts` have no judge: such a task scores nothing."""
    settings = recipe.task
    # A task is imported when it is named: some need sympy, TextWorld or reasoning-gym, which load slowly.
    match settings:
        case ArithmeticTask():
            from lensrl.tasks.arithmetic import Arithmetic

            return Arithmetic()
        case ExpressionTask():
            from lensrl.tasks.expression import Expression

            return Expression()
        case CorridorTask():
            from lensrl.tasks.corridor import Corridor

            return Corridor(settings)
        case MathTask():
            from lensrl.tasks.math import Math

            return Math(settings)
        case CodeTask():
            from lensrl.tasks.code import Code

            return Code(settings)
        case TextWorldTask():
            from lensrl.tasks.textworld import TextWorld

            return TextWorld(settings)
        case GymTask():
            from lensrl.tasks.gym import Gym

            return Gym(settings)
        case OwnTask():
            from lensrl.tasks.own import load_own

            return load_own(settings)
        case TextsTask():
            return Texts(settings.file)
        case HarnessTask():
            return Texts(settings.texts)
    raise TypeError(f"{settings!r} is not the table of a task")


def evaluation_items(task: Task | AgentTask | Texts, recipe: Recipe) -> list[Item]:
    """Return the items on which every run is scored: the first `evaluation.items` held-out items of each benchmark."""
    kept: list[Item] = []
    taken: dict[str, int] = {}
    for item in task.items("test"):
        taken[item.benchmark] = taken.get(item.benchmark, 0) + 1
        if taken[item.benchmark] <= recipe.evaluation.items:
            kept.append(item)
    return kept

"""Tasks: items with prompts, and the rewards and scores of completions.

`protocol.py` is the contract of a task; read it first. Each other module is one task, or a part that tasks share. The
settings of a task are in `lensrl.recipe.task_tables`.

The module of a task is imported only when a recipe names it: sympy, TextWorld and reasoning-gym take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from lensrl.errors import RecipeError, did_you_mean
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

__all__ = [
    "AgentTask",
    "Episode",
    "Item",
    "Split",
    "Task",
    "Texts",
    "Turn",
    "check_benchmarks",
    "evaluation_items",
    "load_also",
    "load_task",
]


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


def load_also(recipe: Recipe) -> list[Task | AgentTask]:
    """Open the further tasks on which every run is scored: `also` of the recipe."""
    found = (load_task(recipe.model_copy(update={"task": also.task})) for also in recipe.also)
    return [task for task in found if not isinstance(task, Texts)]


def evaluation_items(task: Task | AgentTask | Texts, recipe: Recipe) -> list[Item]:
    """Return the items on which every run is scored: the first held-out items of each benchmark.

    `evaluation.items` is their number, or that of the benchmark's own table.
    """
    kept: list[Item] = []
    taken: dict[str, int] = {}
    for item in task.items("test"):
        taken[item.benchmark] = taken.get(item.benchmark, 0) + 1
        if taken[item.benchmark] <= recipe.evaluation.of(item.benchmark).items:
            kept.append(item)
    return kept


def check_benchmarks(items: Sequence[Sequence[Item]], recipe: Recipe) -> None:
    """Check the names of benchmarks. `items` holds the held-out items of each task, the study's own task first.

    Raises RecipeError for a table of `[evaluation]` that is no benchmark, for a benchmark of two tasks, and for a name
    that the command line needs.
    """
    of_task = [{item.benchmark for item in of} for of in items]
    names = sorted(set().union(*of_task))
    unknown = next((name for name in recipe.evaluation.benchmarks if name not in names), None)
    if unknown is not None:
        raise RecipeError(
            f"evaluation.{unknown}: there is no benchmark {unknown!r}{did_you_mean(unknown, names)}; the benchmarks "
            f"are {', '.join(names)}"
        )
    reserved = next((name for name in names if name in ("all", "each")), None)
    if reserved is not None:
        raise RecipeError(f"a benchmark cannot be named {reserved!r}: lensrl contribution --benchmark has this word")
    twice = next((name for name in names if sum(name in of for of in of_task) > 1), None)
    if twice is not None:
        raise RecipeError(f"also: benchmark {twice!r} is in two tasks; give one of them another name")

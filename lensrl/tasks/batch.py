"""What a task may do beside the contract of `lensrl.tasks.protocol`: judge many completions at once, and name answers.

A task of your own does not need this. A task that runs programs adds the methods `rewards` and `scores`, and then gets
a whole batch at a time. A task with short answers adds `answer`, and then its samples can vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lensrl.tasks.protocol import Item, Task


@runtime_checkable
class BatchTask(Task, Protocol):
    """A task that judges completions together. Each method equals its counterpart for one completion."""

    def rewards(self, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
        """Return `reward(item, completion)` for each pair of an item and a completion."""
        ...

    def scores(self, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
        """Return `score(item, completion)` for each pair of an item and a completion."""
        ...


@runtime_checkable
class AnswerTask(Task, Protocol):
    """A task whose completions give an answer, so that samples of one item can vote."""

    def answer(self, item: Item, completion: str) -> str | None:
        """Return the answer of a completion in one spelling; None where it gives none."""
        ...


def answers(task: Task, items: Sequence[Item], completions: Sequence[str]) -> list[str | None]:
    """Return the answer of each completion; None where the task, or the completion, gives none."""
    if not isinstance(task, AnswerTask):
        return [None] * len(items)
    return [task.answer(item, completion) for item, completion in zip(items, completions, strict=True)]


def rewards(task: Task, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
    """Return the rewards, which RL maximises, of completions, each for the item at the same place."""
    if isinstance(task, BatchTask):
        return task.rewards(items, completions)
    return [task.reward(item, completion) for item, completion in zip(items, completions, strict=True)]


def scores(task: Task, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
    """Return the scores, which a study reports, of completions, each for the item at the same place."""
    if isinstance(task, BatchTask):
        return task.scores(items, completions)
    return [task.score(item, completion) for item, completion in zip(items, completions, strict=True)]

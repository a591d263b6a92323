"""Judging many completions at once: for tasks where that is faster than one after another.

A task of one's own needs nothing of this. One that runs programs adds `rewards` and `scores`, and is asked for a whole
batch at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lensrl.tasks.protocol import Item, Task


@runtime_checkable
class BatchTask(Task, Protocol):
    """A task that judges completions together. Each method equals the single one, completion by completion."""

    def rewards(self, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
        """`reward` of each completion of the item beside it."""
        ...

    def scores(self, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
        """`score` of each completion of the item beside it."""
        ...


def rewards(task: Task, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
    """What RL maximises, for each completion of the item beside it."""
    if isinstance(task, BatchTask):
        return task.rewards(items, completions)
    return [task.reward(item, completion) for item, completion in zip(items, completions, strict=True)]


def scores(task: Task, items: Sequence[Item], completions: Sequence[str]) -> list[float]:
    """What a study reports, for each completion of the item beside it."""
    if isinstance(task, BatchTask):
        return task.scores(items, completions)
    return [task.score(item, completion) for item, completion in zip(items, completions, strict=True)]

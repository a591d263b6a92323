"""Judge many completions in one call, for tasks where this is faster than one after another.

A task of your own does not need this. A task that runs programs adds the methods `rewards` and `scores`, and then gets
a whole batch at a time.
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

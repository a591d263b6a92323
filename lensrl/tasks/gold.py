"""Whether the references of a task pass their own judge: solutions their tests, answers themselves, games their end.

A reference that fails says that a judge, or a row of the data, is wrong. Such an item gives 0 to every model.
"""

from __future__ import annotations

from collections.abc import Sequence

from lensrl.tasks import batch
from lensrl.tasks.protocol import AgentTask, Item, Task

PASSED = 1.0  # the least score of a reference that passes


def failed_references(task: Task | AgentTask, items: Sequence[Item]) -> list[Item]:
    """Return the items whose reference scores under 1 with the task's own judge.

    An item of mathematics passes also with its answer alone, in a box: some rows have no other solution. An episode is
    played again with the moves of its reference.
    """
    if isinstance(task, AgentTask):
        return [item for item in items if _played(task, item) < PASSED]
    scores = batch.scores(task, items, ["".join(item.written) for item in items])
    failed = [item for item, score in zip(items, scores, strict=True) if score < PASSED]
    boxed = [item for item in failed if item.judged_by]
    again = batch.scores(task, boxed, [f"\\boxed{{{item.judged_by}}}" for item in boxed]) if _is_math(task) else []
    passed = {item for item, score in zip(boxed, again, strict=False) if score >= PASSED}
    return [item for item in failed if item not in passed]


def _is_math(task: Task) -> bool:
    from lensrl.tasks.math import Math

    return isinstance(task, Math)


def _played(task: AgentTask, item: Item) -> float:
    """Play the model's part of a reference, and return the score of the episode."""
    episode = task.reset(item)
    for move in item.written[::2]:
        if episode.step(move.strip()).done:
            break
    return float(episode.score)


def described(failed: Sequence[Item], judged: int, *, named: int = 3) -> str:
    """Return one line on the references that fail: how many of how many, and the first of them."""
    names = ", ".join(f"{item.benchmark} {item.id}" for item in failed[:named])
    more = f" and {len(failed) - named} more" if len(failed) > named else ""
    return f"{len(failed)} of {judged} references ({len(failed) / judged:.1%}) fail their own judge: {names}{more}"

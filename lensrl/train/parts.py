"""Scoring in parts: several workers score a run that is not trained, each a part of the held-out items.

    a job of the base or of a checkpoint  ->  parts  ->  the scores of each part  ->  the job with its scores

A part has whole batches of items, and the random numbers of an item follow from its place among all items. So scores in
parts are those of one worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lensrl.recipe import HarnessTask, TextsTask
from lensrl.recipe.runs import BASE
from lensrl.store.write import Scores, stacked
from lensrl.train.job import Job


@dataclass(frozen=True, order=True)
class Part:
    """Part `number` of the held-out items, which are scored in `of` parts."""

    number: int
    of: int

    def items(self, count: int, batch: int) -> range:
        """Return the places of this part's items among `count`: whole batches, as without parts."""
        batches = -(-count // batch)
        start, stop = (batches * n // self.of * batch for n in (self.number, self.number + 1))
        return range(start, min(stop, count))


@dataclass
class InParts:
    """A job that is scored in `parts` before it is made. Without parts, the worker that makes the run scores it."""

    job: Job
    parts: list[Part]
    _found: dict[Part, list[Scores | None]] = field(default_factory=dict)

    def add(self, part: Part, scores: list[Scores | None]) -> Job | None:
        """Keep the scores of a part, of each task. Return the job with all its scores when this was the last part."""
        self._found[part] = scores
        if len(self._found) < len(self.parts):
            return None
        of_tasks = zip(*(self._found[one] for one in self.parts), strict=True)
        return replace(self.job, scores=[stacked([one for one in task if one is not None]) for task in of_tasks])


def in_parts(jobs: Sequence[Job], workers: int) -> list[InParts]:
    """Say in which parts each job is scored before it is made: as many as there are workers for each such job.

    Only a run that is not trained, and whose scores are sampled here, is scored before it is made.
    """
    apart = sum(map(_is_apart, jobs))
    found = []
    for job in jobs:
        settings = job.recipe.evaluation
        of = min(workers // apart, -(-settings.items // settings.batch)) if _is_apart(job) else 1
        found.append(InParts(job, [Part(number, of) for number in range(of)] if of > 1 else []))
    return found


def _is_apart(job: Job) -> bool:
    is_trained = job.spec.name != BASE and job.spec.checkpoint is None
    return not is_trained and not isinstance(job.recipe.task, TextsTask | HarnessTask)

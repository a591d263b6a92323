"""Where runs are made: an engine takes jobs and returns when each of them has its file.

    plan.py plans  ->  jobs  ->  an engine  ->  workshop.py makes one run  ->  a run file

`Here` plans a study and makes its runs one after another in this process. Several processes may share the jobs of one
study: each passes over a run that another process is making, and looks at it again at the end. Another engine is a
class with the same method in a file beside this one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lensrl.errors import Taken
from lensrl.recipe import Recipe
from lensrl.store.file.claim import is_being_written
from lensrl.store.run import Run
from lensrl.train.job import Job, is_made
from lensrl.train.plan import Plan, load_workshop, plan_study
from lensrl.train.watch import Watcher

if TYPE_CHECKING:
    from lensrl.train.workshop import Workshop

PAUSE = 1.0  # seconds between two looks at the runs that other processes make


@runtime_checkable
class Engine(Protocol):
    """A place where runs are made. It may be a `Planner`, too."""

    def make(self, jobs: Sequence[Job], watcher: Watcher) -> None:
        """Return when every job has its run file. Another process may have made the file.

        A run that diverges or collapses has a file, too. Errors propagate, and the files made before stay.
        """
        ...


@runtime_checkable
class Planner(Protocol):
    """An engine that plans a study where it makes the runs. The study's process then loads no torch."""

    def planned(self, recipe: Recipe, folder: Path, only: str | Sequence[str] | None) -> AbstractContextManager[Plan]:
        """Return a context with the plan that `plan_study` makes. `make` is called in it, and all workers end with it.

        Raises LensrlError as `plan_study` does.
        """
        ...


def planned(
    engine: Engine, recipe: Recipe, folder: Path, only: str | Sequence[str] | None
) -> AbstractContextManager[Plan]:
    """Return a context with the plan of a study, made by the engine, or here where the engine makes runs alone."""
    if isinstance(engine, Planner):
        return engine.planned(recipe, folder, only)
    return nullcontext(plan_study(recipe, folder, only)[0])  # the engine needs the memory of the workshop


class Here:
    """Plans a study, and makes runs one after another, in this process and in one workshop."""

    def __init__(self) -> None:
        self._workshop: Workshop | None = None

    @contextmanager
    def planned(self, recipe: Recipe, folder: Path, only: str | Sequence[str] | None) -> Iterator[Plan]:
        """Plan a study. The workshop that this opens is kept for the runs."""
        found, self._workshop = plan_study(recipe, folder, only)
        yield found

    def make(self, jobs: Sequence[Job], watcher: Watcher) -> None:
        """Make the run of every job, and wait at the end for the runs that other processes make.

        When another process ends without a file, because it was killed or failed, its run is made here.
        """
        waiting, told = list(jobs), False
        while waiting:
            left = [job for job in waiting if not self._settle(job, watcher)]
            if len(left) == len(waiting):  # nothing is left to do but to wait
                if not told:
                    watcher.waiting([job.spec for job in left])
                    told = True
                time.sleep(PAUSE)
            waiting = left

    def _settle(self, job: Job, watcher: Watcher) -> bool:
        """Make a run, unless it has its file by now. Return False while another process is making it."""
        if is_being_written(job.path):
            return False
        if is_made(job):
            with Run(job.path) as run:
                watcher.made_elsewhere(job.spec, run)
            return True
        try:
            self.workshop(job).make(job, watcher)
        except Taken:  # another process was quicker
            return False
        with Run(job.path) as run:
            watcher.finished(job.spec, run)
        return True

    def workshop(self, job: Job) -> Workshop:
        """Return the workshop of the job's study. Opening one loads torch, the task and the base model."""
        if self._workshop is None or self._workshop.recipe.conflict(job.recipe):
            self._workshop = load_workshop()(job.recipe)
        return self._workshop

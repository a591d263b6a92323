"""Where runs are made: an engine takes jobs and returns when each of them has its file.

    study.py plans  ->  jobs  ->  an engine  ->  workshop.py makes one run  ->  a run file

`Here` makes the runs one after another in this process. Several processes may share the jobs of one study: each passes
over a run that another process is making, and looks at it again at the end. Another engine is a class with the same
method in a file beside this one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lensrl.errors import Taken
from lensrl.store.file.claim import is_being_written
from lensrl.store.run import Run
from lensrl.train.job import Job, is_made
from lensrl.train.watch import Watcher

if TYPE_CHECKING:
    from lensrl.train.workshop import Workshop

PAUSE = 1.0  # seconds between two looks at the runs that other processes make


@runtime_checkable
class Engine(Protocol):
    """A place where runs are made.

    An engine may have a method `held`: a context around the planning of a study and the call of `make`. The engine may
    load its libraries when the context begins.
    """

    def make(self, jobs: Sequence[Job], watcher: Watcher) -> None:
        """Return when every job has its run file. Another process may have made the file.

        A run that diverges or collapses has a file, too. Errors propagate, and the files made before stay.
        """
        ...


class Here:
    """Makes runs one after another in this process, in `workshop` where one is open already."""

    def __init__(self, workshop: Workshop | None = None) -> None:
        self._workshop = workshop

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


def load_workshop() -> type[Workshop]:
    """Load torch, transformers, TRL and all else that a run needs, and return the class of workshops.

    A million objects are made meanwhile, and all stay. To look for garbage among them takes a seventh of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        from lensrl.train.workshop import Workshop
    finally:
        if was_on:
            gc.enable()
    return Workshop

"""Workers: processes on this machine that plan a study and make its runs side by side.

`Workers` starts the processes. One of them plans the study. Then each gets one job after another: the base first, then
the longest runs. Their libraries are loaded once for all (`lensrl.train.fork_server`), and each worker loads the base
model once. The study's process loads neither. What a worker sees goes to the one watcher of the study.

- A worker that dies: its run is made by another, and a new worker takes its place. So is the plan.
- A worker that meets an error: the error is raised here, after all workers have been stopped.
- Ctrl-C here, or the end of this process in any other way: all workers end, and remove their unfinished files.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path

from lensrl.errors import LensrlError
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE
from lensrl.store.file.claim import is_being_written
from lensrl.store.run import Run
from lensrl.train.engine import PAUSE
from lensrl.train.fork_server import Child, ForkServer
from lensrl.train.job import Job, is_made
from lensrl.train.plan import Plan, plan_from_base
from lensrl.train.relay import Event, Relay
from lensrl.train.watch import Watcher

DEATHS = 3  # of workers, all with one run in hand or all in planning, after which the study is given up


class Workers:
    """Plans studies and makes their runs in `count` processes. Worker k uses the GPU `devices[k % len(devices)]`.

    A device is a number or a name that CUDA_VISIBLE_DEVICES knows. Where none are named, workers take turns on those
    that are visible. Each worker has its share of the processor's cores, unless OMP_NUM_THREADS is set.
    """

    def __init__(self, count: int, devices: Sequence[str] = ()) -> None:
        if count < 1:
            raise LensrlError(f"{count} workers make no runs; ask for 1 or more")
        self._count = count
        self._server = ForkServer(max(1, (os.cpu_count() or 1) // count), devices)
        self._server.begin()  # it loads the libraries while this process loads what it needs itself
        self._workers: dict[int, Child] = {}  # by place

    @contextmanager
    def planned(self, recipe: Recipe, folder: Path, only: str | Sequence[str] | None) -> Iterator[Plan]:
        """Plan a study. The workers start at once, and none is left at the end of the context.

        Raises LensrlError as `plan_study` does, and when the worker that plans ends three times.
        """
        try:
            for place in range(self._count):
                self._workers[place] = self._server.start(place)
            found = plan_from_base(recipe, folder, only)  # meanwhile: it may be that nothing is missing
            if found is None or found.missing:
                found = self._plan(recipe, folder, only)
            yield found
        finally:
            self._end()

    def _plan(self, recipe: Recipe, folder: Path, only: str | Sequence[str] | None) -> Plan:
        """Let the first worker plan a study. It keeps the base model that it loads for its runs."""
        deaths = Counter[Path]()
        while True:
            worker = self._worker(0)
            try:
                worker.pipe.send(("plan", recipe, folder, only))
                said, *what = worker.pipe.recv()
            except (EOFError, OSError):
                self._note_death(self._workers.pop(0), folder, deaths)
                continue
            if said == "failed":
                raise _as_error(*what)
            return what[0]

    def make(self, jobs: Sequence[Job], watcher: Watcher) -> None:
        """Make the run of every job, and wait at the end for the runs that other processes make.

        Raises LensrlError when a run ends its worker three times.
        """
        count = min(self._count, len(jobs))
        left, deaths, told = longest_first(jobs), Counter[Path](), False
        in_hand: dict[int, Job] = {}  # place of a worker -> its job
        relay = Relay(watcher)
        workers = self._workers
        try:
            while left or in_hand:
                # 1. Each free worker gets the next run that nobody makes.
                for place in (p for p in range(count) if p not in in_hand):
                    job = self._next(left, watcher)
                    if job is None:
                        break
                    in_hand[place], worker = job, self._worker(place)
                    with suppress(OSError):  # a worker that has died since its last run is noticed below
                        worker.pipe.send(("make", job))
                if not in_hand:  # every run that is left is made by processes that are not ours
                    if left and not told:
                        watcher.waiting([job.spec for job in left])
                        told = True
                    time.sleep(PAUSE if left else 0)
                    continue
                # 2. What the workers say.
                for pipe in wait([workers[place].pipe for place in in_hand], timeout=PAUSE):
                    place = next(place for place, worker in workers.items() if worker.pipe is pipe)
                    try:
                        event: Event = pipe.recv()  # type: ignore[union-attr]
                    except (EOFError, OSError):
                        job = in_hand.pop(place)
                        self._note_death(workers.pop(place), job.path, deaths)
                        relay.ended(job.spec)
                        left.insert(0, job)
                        continue
                    if event[0] == "failed":
                        raise _as_error(*event[1:])
                    if event[0] == "done":
                        job = in_hand.pop(place)
                        relay.ended(job.spec)
                        with Run(job.path) as run:
                            watcher.finished(job.spec, run)
                    else:
                        relay.tell(event)
        finally:
            self._end()

    def _end(self) -> None:
        self._server.end(self._workers.values())
        self._workers.clear()

    def _next(self, left: list[Job], watcher: Watcher) -> Job | None:
        """Take the first job out of `left` whose run nobody makes. Runs that are there by now are taken out, too."""
        for job in list(left):
            if is_being_written(job.path):
                continue
            left.remove(job)
            if not is_made(job):
                return job
            with Run(job.path) as run:
                watcher.made_elsewhere(job.spec, run)
        return None

    def _worker(self, place: int) -> Child:
        """Return the worker of a place. It is started where there is none."""
        if place not in self._workers:
            self._workers[place] = self._server.start(place)
        return self._workers[place]

    def _note_death(self, worker: Child, path: Path, deaths: Counter[Path]) -> None:
        """Count the death of a worker, whose run or plan will be made again. Raises LensrlError at the third of one."""
        worker.pipe.close()
        code = self._server.exit_code(worker)
        deaths[path] += 1
        if deaths[path] == DEATHS:
            how = (
                "" if code is None else f" by {signal.Signals(-code).name}" if code < 0 else f" with exit status {code}"
            )
            raise LensrlError(
                f"{path}: its worker ended {DEATHS} times, the last time{how}; SIGKILL is what a machine does "
                f"that has no memory left: ask for fewer --workers"
            )


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Order jobs: the base, which all comparisons need; then full RL; then by the lowest layer that is trained.

    Gradients run from the last layer down to the lowest trained one, so a low layer takes longest.
    """
    return sorted(jobs, key=lambda job: (job.spec.name != BASE, min(job.spec.layers or (0,)), job.spec.layers or ()))


def _as_error(error: Exception, where: str) -> Exception:
    if not isinstance(error, LensrlError):
        error.add_note(f"in a worker:\n{where}")
    return error

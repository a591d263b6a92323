"""Workers: processes on this machine that make the runs of a study side by side.

`Workers` starts the processes and hands each of them one job after another: the base first, then the longest runs.
Their libraries are loaded once for all, while the study is planned (`lensrl.train.fork_server`), and each worker loads
the base model once. What it sees goes to the one watcher of the study.

- A worker that dies: its run is made by another, and a new worker takes its place.
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
from lensrl.recipe.runs import BASE
from lensrl.store.file.claim import is_being_written
from lensrl.store.run import Run
from lensrl.train.engine import PAUSE
from lensrl.train.fork_server import Child, ForkServer
from lensrl.train.job import Job, is_made
from lensrl.train.relay import Event, Relay
from lensrl.train.watch import Watcher

DEATHS = 3  # of workers, all with one run in hand, after which the run is given up


class Workers:
    """Makes runs in `count` processes. Worker k uses the GPU `devices[k % len(devices)]`, where any are named.

    A device is a number or a name that CUDA_VISIBLE_DEVICES knows. Each worker has its share of the processor's cores,
    unless OMP_NUM_THREADS is set.
    """

    def __init__(self, count: int, devices: Sequence[str] = ()) -> None:
        if count < 1:
            raise LensrlError(f"{count} workers make no runs; ask for 1 or more")
        self._count = count
        self._devices = devices
        self._server = ForkServer(threads=max(1, (os.cpu_count() or 1) // count))
        self._workers: dict[int, Child] = {}  # by place

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context around the planning of a study: the workers start when it begins, and none is left at its end."""
        try:
            for place in range(self._count):
                self._workers[place] = self._start(place)
            yield
        finally:
            self._end()

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
                    if place not in workers:
                        workers[place] = self._start(place)
                    in_hand[place] = job
                    with suppress(OSError):  # a worker that has died since its last run is noticed below
                        workers[place].pipe.send(job)
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
                        self._note_death(workers.pop(place), job := in_hand.pop(place), deaths)
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

    def _start(self, place: int) -> Child:
        if not self._devices:
            return self._server.start({})
        return self._server.start({"CUDA_VISIBLE_DEVICES": self._devices[place % len(self._devices)]})

    def _note_death(self, worker: Child, job: Job, deaths: Counter[Path]) -> None:
        """Count the death of a worker, whose run will be made again. Raises LensrlError at the third of one run."""
        worker.pipe.close()
        code = self._server.exit_code(worker)
        deaths[job.path] += 1
        if deaths[job.path] == DEATHS:
            how = (
                "" if code is None else f" by {signal.Signals(-code).name}" if code < 0 else f" with exit status {code}"
            )
            raise LensrlError(
                f"{job.path}: its worker ended {DEATHS} times, the last time{how}; SIGKILL is what a machine does "
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

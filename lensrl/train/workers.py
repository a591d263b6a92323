"""Workers: processes on this machine that make the runs of a study side by side.

`Workers` starts the processes and hands each of them one job after another: the base first, then the longest runs. A
worker loads its libraries while the study is planned, and the base model once. What it sees goes to the one watcher of
the study.

- A worker that dies: its run is made by another, and a new worker takes its place.
- A worker that meets an error: the error is raised here, after all workers have been stopped.
- Ctrl-C here, or the end of this process in any other way: all workers end, and remove their unfinished files.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from lensrl.errors import LensrlError
from lensrl.recipe.runs import BASE
from lensrl.store.file.claim import is_being_written
from lensrl.store.run import Run
from lensrl.train.engine import PAUSE, Here
from lensrl.train.job import Job, is_made
from lensrl.train.relay import Event, Relay, Sender
from lensrl.train.watch import Watcher

DEATHS = 3  # of workers, all with one run in hand, after which the run is given up
GRACE = 20.0  # seconds that a worker has to remove its unfinished files before it is killed


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    has_begun: bool = False  # it has had a job, and may have files that are unfinished


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
        self._workers: dict[int, _Worker] = {}  # by place
        self._are_held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context in which the workers, each with its base model, stay from one call of `make` to the next.

        All workers start when the context begins, and load their libraries while this process plans the study.
        """
        self._are_held = True
        try:
            for place in range(self._count):
                self._workers[place] = self._start(place)
            yield
        finally:
            self._are_held = False
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
                    workers[place].has_begun = True
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
            if not self._are_held:
                self._end()

    def _end(self) -> None:
        _stop([*self._workers.values()])
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

    def _start(self, place: int) -> _Worker:
        ours, theirs = Pipe()
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self._count)))
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[place % len(self._devices)]
        number = theirs.fileno()
        start = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as workers; workers.work({number})"
        # In a session of its own: Ctrl-C in the terminal reaches this process alone, which then stops the workers.
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", start], env=environment, pass_fds=[number], stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        return _Worker(process, ours)

    def _note_death(self, worker: _Worker, job: Job, deaths: Counter[Path]) -> None:
        """Count the death of a worker, whose run will be made again. Raises LensrlError at the third of one run."""
        worker.pipe.close()
        code = worker.process.wait()
        deaths[job.path] += 1
        if deaths[job.path] == DEATHS:
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            raise LensrlError(
                f"{job.path}: its worker ended {DEATHS} times, the last time by {how}; SIGKILL is what a machine does "
                f"that has no memory left: ask for fewer --workers"
            )


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """Order jobs: the base, which all comparisons need; then full RL; then by the lowest layer that is trained.

    Gradients run from the last layer down to the lowest trained one, so a low layer takes longest.
    """
    return sorted(jobs, key=lambda job: (job.spec.name != BASE, min(job.spec.layers or (0,)), job.spec.layers or ()))


def work(descriptor: int) -> None:
    """Make the runs that come over a pipe, until it is closed. This is the main function of a worker."""
    pipe = Connection(descriptor)
    jobs: SimpleQueue[Job | None] = SimpleQueue()
    watcher = _PipeSender(pipe)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, watcher.interrupt)

    def receive() -> None:
        try:
            while True:
                jobs.put(pipe.recv())
        except (EOFError, OSError):  # the study has ended, or its process
            jobs.put(None)
            os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=receive, daemon=True).start()
    importlib.import_module("lensrl.train.workshop")  # seconds: most often before the first job is known
    here = Here()
    try:
        while (job := jobs.get()) is not None:
            watcher.is_busy = True
            try:
                here.make([job], watcher)
            except Exception as error:
                pipe.send(("failed", *_picklable(error)))
                return
            finally:
                watcher.is_busy = False
            pipe.send(("done",))
    except (KeyboardInterrupt, BrokenPipeError):
        return  # the partial file is gone


class _PipeSender(Sender):
    """Sends what happens in a worker to the study's process, and stops the worker at the next event after a signal."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(self._put)
        self._pipe = pipe
        self._interrupted = False
        self.is_busy = False  # whether a run is being made

    def interrupt(self, *_: object) -> None:
        """Handle a signal once. The next event raises KeyboardInterrupt again: a library may swallow it."""
        if self.is_busy and not self._interrupted:
            self._interrupted = True
            raise KeyboardInterrupt

    def noted(self, line: str) -> None:
        with suppress(BrokenPipeError):  # the study's process may be gone before a checkpoint is written
            self._pipe.send(("noted", line))

    def _put(self, event: Event) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._pipe.send(event)


def _picklable(error: Exception) -> tuple[Exception, str]:
    """Return an error as it can be sent, and where it was raised."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its class wants arguments that are not in its pickle
        return RuntimeError(f"{type(error).__name__}: {error}"), traceback.format_exc()
    return error, traceback.format_exc()


def _as_error(error: Exception, where: str) -> Exception:
    if not isinstance(error, LensrlError):
        error.add_note(f"in a worker:\n{where}")
    return error


def _stop(workers: Sequence[_Worker]) -> None:
    """End all workers. One that does not end is killed; what it leaves is removed by the next run."""
    for worker in workers:
        worker.pipe.close()  # a worker ends when its pipe is closed
        if not worker.has_begun:
            worker.process.kill()  # it may be loading its libraries, for seconds
    until = time.monotonic() + GRACE
    for worker in workers:
        try:
            worker.process.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()

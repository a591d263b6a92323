"""An engine on a Ray cluster: workers on its nodes make the runs, and the files come into the study's folder.

    this process, the driver                     the nodes of the cluster
    the longest job that waits       ->          a worker (`lensrl.train.ray_worker`), which keeps its base model
    a watcher  <-  the mailbox       <-          an event for each step
    a run file                       <-          the shared folder; without one, the file's bytes in chunks

- A worker asks for the CPUs and GPUs of the recipe's table `[engine]`. At most one worker is asked for each run that
  is missing. Those for which no node has room wait, and begin when a node joins the cluster or becomes free.
- A worker that ends in the middle of a run is replaced, and the run is made again. The same holds for all workers of a
  node that dies. Ray notices a dead node after some seconds; its default is 15.
- A run that is not trained, the base or a checkpoint, is scored in parts by several workers, and then made.
- Where a worker does not see the study's folder, the driver holds the claim on the run's file while the run is made.

The mailbox runs on the driver's node: on another one, it would end with that node, and the driver with it.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensrl.errors import LensrlError, StoreError, Taken, reason
from lensrl.models.ray_cluster import check_ray, connected, room, worker_gpus
from lensrl.recipe.settings import Resources
from lensrl.store.file.atomic import new_file
from lensrl.store.file.claim import claim_path, claimed, is_being_written
from lensrl.store.run import Run
from lensrl.store.write import Scores
from lensrl.train.engine import PAUSE
from lensrl.train.job import Job, is_made
from lensrl.train.parts import Part, in_parts
from lensrl.train.relay import Relay
from lensrl.train.watch import Watcher
from lensrl.train.workers import longest_first

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

    from lensrl.train.ray_worker import Greeting, Made

TRIES = 4  # workers that may end in the middle of one run, before the study stops
PATIENCE = 120.0  # seconds until a file of a shared folder is seen on another node; NFS caches names for 60
CHUNK = 16 * 2**20  # bytes of a run file that travel at once


@dataclass(frozen=True)
class OnRay:
    """Makes runs on the nodes of a Ray cluster.

    `address` is `auto` for the cluster that this machine belongs to, or its `HOST:PORT`. None starts a cluster on this
    machine alone, which listens on 127.0.0.1 and ends with the study. `workers` limits how many runs are made at once.

    Raises LensrlError when Ray is not installed.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        check_ray(self.address)

    def make(self, jobs: Sequence[Job], watcher: Watcher) -> None:
        """Make the run of every job on the cluster.

        Raises LensrlError when there is no cluster at the address, when no node has the resources of a worker, and when
        several workers in turn end in the middle of one run. An error in a worker stops the study, and is raised here.
        """
        folder = jobs[0].folder.absolute()  # workers have other working folders
        jobs = [replace(job, folder=folder) for job in jobs]
        folder.mkdir(parents=True, exist_ok=True)
        sign = folder / f"ray-{secrets.token_hex(4)}.json"  # workers that see the claim on it see the folder
        with connected(self.address), claimed(sign):
            size, limit = jobs[0].recipe.engine, self.workers or len(jobs)
            driver = _Driver(jobs, watcher, size, limit, claim_path(sign))
            try:
                driver.run()
            finally:
                driver.end()


@dataclass(eq=False)
class _Worker:
    """A worker as the driver sees it: no `greeting` before it runs, a `job` while it makes one."""

    actor: ActorHandle
    answer: ObjectRef[Any] | None  # the answer that is due; None while the worker is idle
    greeting: Greeting | None = None
    job: Job | None = None
    part: Part | None = None  # the part of the job's items that it scores; None: it makes the run
    made: Made | None = None  # the run is made, and its file is on the way
    partial: Path | None = None  # where the file's bytes go
    claim: ExitStack = field(default_factory=ExitStack)

    @property
    def place(self) -> str:
        return "a node" if self.greeting is None else self.greeting.host


class _Driver:
    """Directs the workers of one study."""

    def __init__(self, jobs: Sequence[Job], watcher: Watcher, size: Resources, limit: int, mark: Path) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from lensrl.train.ray_worker import Mailbox, Worker

        each = in_parts(longest_first(jobs), min(limit, room(size)))
        # Without a part, the run is made.
        self._waiting: list[tuple[Job, Part | None]] = [(one.job, part) for one in each for part in one.parts or [None]]
        self._in_parts = {one.job.path: one for one in each}
        self._watcher = watcher
        self._limit = limit
        self._mark = mark
        self._workers: list[_Worker] = []
        self._ended: Counter[Path | None] = Counter()  # workers that ended, by run; None: before their first
        self._relay = Relay(watcher)
        self._told = False
        gpus = worker_gpus(size)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._actor: Any = ray.remote(num_cpus=size.num_cpus, num_gpus=gpus)(Worker)

    def run(self) -> None:
        """Return when every run has its file."""
        import ray

        for one in self._in_parts.values():
            if one.parts:
                self._watcher.noted(f"{one.job.spec.name}: its items are scored in {len(one.parts)} parts")
        while self._waiting or self._busy:
            self._staff()
            self._hand_out()
            due = {worker.answer: worker for worker in self._workers if worker.answer is not None}
            if not due:  # all that is left is made by other processes
                time.sleep(PAUSE)
                continue
            ready, _ = ray.wait([*due], num_returns=1, timeout=PAUSE)
            self._deliver()
            for answer in ready:
                self._hear(due[answer], answer)

    def end(self) -> None:
        """End all workers. What they were making is lost."""
        import ray

        for worker in self._workers:
            self._release(worker)
            ray.kill(worker.actor)
        ray.kill(self._mailbox)

    @property
    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.job is not None]

    def _staff(self) -> None:
        """Ask for as many workers as there are runs to make. Without a run that waits, let the idle ones go."""
        import ray

        while len(self._workers) < min(self._limit, len(self._waiting) + len(self._busy)):
            actor = self._actor.remote(self._mailbox)
            self._workers.append(_Worker(actor, actor.greet.remote(self._mark)))
        for worker in [] if self._waiting else [worker for worker in self._workers if worker.job is None]:
            ray.kill(worker.actor)
            self._workers.remove(worker)

    def _hand_out(self) -> None:
        """Give every idle worker a part to score, or the longest run that waits and that no other process makes."""
        for worker in [worker for worker in self._workers if worker.answer is None]:
            for asked in [*self._waiting]:
                job, part = asked
                if part is not None:
                    worker.job, worker.part, worker.answer = job, part, worker.actor.score.remote(job, part)
                elif is_being_written(job.path):
                    continue
                elif is_made(job):
                    self._waiting.remove(asked)
                    self._report(job, made_here=False)
                    continue
                elif not self._begin(worker, job):
                    continue
                self._waiting.remove(asked)
                break
        if self._waiting and not self._busy and all(is_being_written(job.path) for job, _ in self._waiting):
            if not self._told:
                self._watcher.waiting([job.spec for job, _ in self._waiting])
            self._told = True

    def _begin(self, worker: _Worker, job: Job) -> bool:
        """Let a worker make a run. Return False when another process was quicker to claim its file."""
        assert worker.greeting is not None
        if not worker.greeting.sees_folder:
            try:
                worker.partial = worker.claim.enter_context(new_file(job.path, replace=False))
            except Taken:
                return False
            worker.partial.write_bytes(b"")
        worker.job, worker.made = job, None
        worker.answer = worker.actor.make.remote(job, "shared" if worker.greeting.sees_folder else "apart")
        return True

    def _hear(self, worker: _Worker, answer: ObjectRef[Any]) -> None:
        """Take a worker's answer: its greeting, the scores of a part, the end of a run, or some of the run's file."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            said = ray.get(answer)
        except RayActorError as error:
            self._lost(worker, error)
            return
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, LensrlError) else error) from None
        if worker.job is None:
            worker.greeting, worker.answer = said, None
            self._ended.pop(None, None)
        elif worker.part is not None:
            self._take_scores(worker, worker.job, worker.part, said)
        elif worker.partial is None:
            self._finish(worker, said)
        else:
            self._receive(worker, worker.partial, said)

    def _take_scores(self, worker: _Worker, job: Job, part: Part, scores: list[Scores | None]) -> None:
        """Keep the scores of a part. With the last one, the run can be made."""
        worker.job = worker.part = worker.answer = None
        whole = self._in_parts[job.path].add(part, scores)
        if whole is not None:
            self._waiting.insert(0, (whole, None))

    def _receive(self, worker: _Worker, partial: Path, said: Any) -> None:
        """Add a part to the run's file, and ask for the next one. The first answer says how long the file is."""
        made = worker.made or said
        if worker.made is not None:
            with partial.open("ab") as file:
                file.write(said)
        worker.made, size = made, partial.stat().st_size
        if size < made.size:
            worker.answer = worker.actor.read.remote(size, CHUNK)
        else:
            self._finish(worker, made)

    def _finish(self, worker: _Worker, made: Made) -> None:
        """The run is made: its file gets its name, or has it on a shared folder. The worker is free."""
        job = worker.job
        assert job is not None
        worker.claim.close()
        worker.job = worker.made = worker.partial = worker.answer = None
        _await_file(job.path)
        self._deliver()
        self._report(job, made_here=made.here)

    def _lost(self, worker: _Worker, error: Exception) -> None:
        """A worker has ended, or its node has. Its run waits again, before all others."""
        job = worker.job
        self._workers.remove(worker)
        self._release(worker)
        key = None if job is None else job.path
        self._ended[key] += 1
        if self._ended[key] >= TRIES:
            what = "began" if job is None else f"{'scored' if worker.part else 'made'} {job.path.name}"
            raise LensrlError(
                f"{TRIES} workers ended while they {what}, the last one on {worker.place}: {reason(error)} (look into "
                f"Ray's logs on this node)"
            )
        if job is not None:
            self._relay.ended(job.spec)
            self._waiting.insert(0, (job, worker.part))

    def _release(self, worker: _Worker) -> None:
        """Remove the partial file of a run that does not come, and give its claim back."""
        with suppress(EOFError), worker.claim:
            raise EOFError

    def _report(self, job: Job, *, made_here: bool) -> None:
        self._relay.ended(job.spec)
        with Run(job.path) as run:
            (self._watcher.finished if made_here else self._watcher.made_elsewhere)(job.spec, run)

    def _deliver(self) -> None:
        """Tell the watcher what the workers sent."""
        import ray

        for event in ray.get(self._mailbox.take.remote()):
            self._relay.tell(event)


def _await_file(path: Path) -> None:
    """Return when a file that another node has written is seen here. Raises StoreError when it does not come."""
    until = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > until:
            raise StoreError(f"{path} was made on another node, and does not appear here; run the same command again")
        time.sleep(PAUSE)

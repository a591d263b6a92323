"""What runs on the nodes of a Ray cluster: workers that make runs, and the mailbox for their progress.

Ray makes an actor of each class: a process on one of the nodes. `lensrl.train.on_ray` starts and directs them.
"""

from __future__ import annotations

import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import ray
from ray.actor import ActorHandle

from lensrl.recipe.runs import RunSpec
from lensrl.store.run import Run
from lensrl.store.write import Scores
from lensrl.train.engine import Here
from lensrl.train.job import Job
from lensrl.train.parts import Part
from lensrl.train.relay import Event, Sender


class Greeting(NamedTuple):
    """What a new worker says: the name of its node, and whether it sees the folder of the study."""

    host: str
    sees_folder: bool


class Made(NamedTuple):
    """How a run was made: by this worker or by another process; and the bytes to send, 0 for a shared folder."""

    here: bool
    size: int


class Mailbox:
    """Keeps the events of all workers until the driver takes them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        self._events.append(event)

    def take(self) -> list[Event]:
        """Return the events since the last call, and forget them."""
        taken, self._events = self._events, []
        return taken


class Worker:
    """Makes one run at a time. It loads the base model for its first run, and keeps it for the others."""

    def __init__(self, mailbox: ActorHandle) -> None:
        self._here = Here()
        self._mailbox = mailbox
        self._outgoing: tempfile.TemporaryDirectory[str] | None = None
        self._file = Path()

    def greet(self, mark: Path) -> Greeting:
        """Say where this is. `mark` is a file that the driver has just created in the folder of the study."""
        return Greeting(socket.gethostname(), mark.exists())

    def score(self, job: Job, part: Part) -> list[Scores | None]:
        """Score a part of the held-out items, for a run that is not trained."""
        return self._here.workshop(job).score(job, part)

    def make(self, job: Job, where: str) -> Made:
        """Make a run in the `shared` folder of the study; or with where="apart" in a folder of this node, to be read.

        The study's name is part of a run file, so the folder of this node has the same name.
        """
        sender = _MailSender(self._mailbox)
        if where == "apart":
            self._outgoing = tempfile.TemporaryDirectory(prefix="lensrl-")
            job = replace(job, folder=Path(self._outgoing.name) / job.folder.resolve().name)
            self._file = job.path
        self._here.make([job], sender)
        sender.wait()
        return Made(sender.made, job.path.stat().st_size if where == "apart" else 0)

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes of the run file from `offset` on, at most `count`. The last ones end the file here."""
        with self._file.open("rb") as file:
            file.seek(offset)
            chunk = file.read(count)
            last = not file.read(1)
        if last and self._outgoing is not None:
            self._outgoing.cleanup()
            self._outgoing = None
        return chunk


class _MailSender(Sender):
    """Sends the progress of one run to the mailbox."""

    def __init__(self, mailbox: ActorHandle) -> None:
        super().__init__(self._put)
        self.made = False
        self._mailbox = mailbox
        self._last: ray.ObjectRef[None] | None = None

    def finished(self, spec: RunSpec, run: Run) -> None:
        self.made = True

    def wait(self) -> None:
        """Return when the mailbox has every event: those of one sender arrive in order."""
        if self._last is not None:
            ray.get(self._last)

    def _put(self, event: Event) -> None:
        self._last = self._mailbox.put.remote(event)

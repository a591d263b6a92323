"""The progress of runs that are made in other processes, for one watcher.

In a worker, `Sender` watches and sends events: tuples that can be pickled. In the study's process, `Relay` takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lensrl.recipe.runs import RunSpec
from lensrl.train.curve import TrainingCurve
from lensrl.train.watch import NoWatcher, Watcher

Event = tuple[Any, ...]  # (the method of Watcher, its run or line, then for `stepped` the new rows of the curve)


class Sender(NoWatcher):
    """Sends what happens while runs are made. Of a curve, the new rows alone travel: all of them after a resumption."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._sent: dict[RunSpec, int] = {}  # rows of the curve of each run

    def started(self, spec: RunSpec) -> None:
        self._sent[spec] = 0
        self._send(("started", spec))

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        rows = self._sent[spec]
        new = {name: values[rows:] for name, values in vars(curve).items() if name != "n_layers"}
        self._sent[spec] = len(curve)
        self._send(("stepped", spec, curve.n_layers, new))

    def scoring(self, spec: RunSpec) -> None:
        self._send(("scoring", spec))

    def noted(self, line: str) -> None:
        self._send(("noted", line))


class Relay:
    """Hands the events of several workers on to one watcher, with whole curves."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._curves: dict[RunSpec, TrainingCurve] = {}  # of the runs that have started

    def tell(self, event: Event) -> None:
        """Hand an event on. A step of a run that has ended is dropped: its event came late."""
        said, spec, *step = event
        if said == "noted":
            self._watcher.noted(spec)
        elif said == "started":
            self._curves[spec] = TrainingCurve(0)
            self._watcher.started(spec)
        elif said == "scoring":
            self._watcher.scoring(spec)
        elif spec in self._curves:
            curve = self._curves[spec]
            curve.n_layers, new = step
            for name, values in new.items():
                vars(curve)[name].extend(values)
            self._watcher.stepped(spec, curve)

    def ended(self, spec: RunSpec) -> None:
        """Forget the curve of a run that is made, or whose worker is lost."""
        self._curves.pop(spec, None)

"""The progress of runs that are made in other processes, for one watcher.

In a worker, `Sender` watches and sends events: tuples that can be pickled. In the study's process, `Relay` takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lensrl.recipe.runs import RunSpec
from lensrl.train.curve import TrainingCurve
from lensrl.train.watch import NoWatcher, Watcher

Event = tuple[Any, ...]  # (the method of Watcher, the run, then for `stepped` the newest step of the curve)


class Sender(NoWatcher):
    """Sends what happens while a run is made. Of a curve, the newest step alone travels."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send

    def started(self, spec: RunSpec) -> None:
        self._send(("started", spec))

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        newest = {name: values[-1:] for name, values in vars(curve).items() if name != "n_layers"}
        self._send(("stepped", spec, curve.n_layers, newest))

    def scoring(self, spec: RunSpec) -> None:
        self._send(("scoring", spec))


class Relay:
    """Hands the events of several workers on to one watcher, with whole curves."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._curves: dict[RunSpec, TrainingCurve] = {}  # of the runs that have started

    def tell(self, event: Event) -> None:
        """Hand an event on. A step of a run that has ended is dropped: its event came late."""
        said, spec, *step = event
        if said == "started":
            self._curves[spec] = TrainingCurve(0)
            self._watcher.started(spec)
        elif said == "scoring":
            self._watcher.scoring(spec)
        elif spec in self._curves:
            curve = self._curves[spec]
            curve.n_layers, newest = step
            for name, values in newest.items():
                vars(curve)[name].extend(values)
            self._watcher.stepped(spec, curve)

    def ended(self, spec: RunSpec) -> None:
        """Forget the curve of a run that is made, or whose worker is lost."""
        self._curves.pop(spec, None)

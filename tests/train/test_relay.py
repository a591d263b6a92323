"""The progress of runs in other processes: what one watcher is told, as if the runs were made here."""

from __future__ import annotations

import copy
import pickle

from lensrl.recipe.runs import RunSpec
from lensrl.train.curve import TrainingCurve
from lensrl.train.relay import Event, Relay, Sender
from lensrl.train.watch import NoWatcher

FULL, LAYER = RunSpec("full-rl", None, 0), RunSpec("layer-3", (3,), 0)


class Log(NoWatcher):
    """Every call, with a copy of the curve as it was then."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def started(self, spec: RunSpec) -> None:
        self.calls.append(("started", spec))

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        self.calls.append(("stepped", spec, copy.deepcopy(curve)))

    def scoring(self, spec: RunSpec) -> None:
        self.calls.append(("scoring", spec))

    def noted(self, line: str) -> None:
        self.calls.append(("noted", line))


def two_runs(watcher: NoWatcher) -> None:
    """Two runs side by side, of which one has a curve with an optional field."""
    curves = {FULL: TrainingCurve(8), LAYER: TrainingCurve(8)}
    for spec in curves:
        watcher.started(spec)
    for step in range(3):
        for spec, curve in curves.items():
            curve.reward_mean.append(step / 3)
            curve.layer_grad_norm.append([step + layer / 8 for layer in range(8)])
            if spec == LAYER:
                curve.turns.append(float(step))
            watcher.stepped(spec, curve)
    watcher.scoring(LAYER)


def test_a_watcher_behind_a_relay_is_told_what_one_beside_the_run_is_told() -> None:
    beside, behind, sent = Log(), Log(), list[Event]()
    two_runs(beside)
    two_runs(Sender(sent.append))
    relay = Relay(behind)
    for event in sent:
        relay.tell(pickle.loads(pickle.dumps(event)))
    assert behind.calls == beside.calls
    assert len(beside.calls) == 9


def test_a_run_that_goes_on_from_a_checkpoint_has_its_earlier_rows_too() -> None:
    curve = TrainingCurve(8, reward_mean=[0.1, 0.2, 0.3])  # two rows are from the checkpoint
    beside, behind = Log(), Log()
    relay = Relay(behind)
    for watcher in (beside, Sender(relay.tell)):
        watcher.started(FULL)
        watcher.noted("goes on from step 2")
        watcher.stepped(FULL, curve)
    assert behind.calls == beside.calls
    assert [call[0] for call in behind.calls] == ["started", "noted", "stepped"]


def test_a_run_that_is_begun_again_has_a_new_curve_and_late_steps_are_dropped() -> None:
    log, sent = Log(), list[Event]()
    two_runs(Sender(sent.append))
    relay = Relay(log)
    for event in [*sent, *sent]:
        relay.tell(event)
    lengths = [len(call[2]) for call in log.calls if call[0] == "stepped" and call[1] == FULL]  # type: ignore[arg-type]
    assert lengths == [1, 2, 3, 1, 2, 3]
    before = len(log.calls)
    relay.ended(FULL)
    relay.tell(next(event for event in sent if event[:2] == ("stepped", FULL)))
    assert len(log.calls) == before

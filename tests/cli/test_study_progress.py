"""The progress of a study whose runs are made at the same time, and without a terminal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lensrl_cli import study_progress
from lensrl_cli.study_progress import StudyProgress

from lensrl.recipe.runs import RunSpec
from lensrl.train.curve import TrainingCurve

FULL, LAYER = RunSpec("full-rl", None, 0), RunSpec("layer-3", (3,), 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, strftime=lambda _: "12:34")
    monkeypatch.setattr(study_progress, "time", clock)
    return clock


def test_without_a_terminal_there_is_a_line_a_minute_on_every_run_in_the_making(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = StudyProgress(40, sets=[])
    progress.planned([FULL, LAYER], [FULL, LAYER])
    progress.started(FULL)
    progress.started(LAYER)
    curve = TrainingCurve(8)
    for second in range(1, 151):
        clock.now = float(second)
        if second % 5 == 0:
            curve.reward_mean.append(0.25)
            progress.stepped(LAYER, curve)
    assert capsys.readouterr().out.splitlines() == [
        "12:34  0/2 runs done; full-rl seed 0 step 0/40; layer-3 seed 1 step 13/40  reward 0.250",
        "12:34  0/2 runs done; full-rl seed 0 step 0/40; layer-3 seed 1 step 26/40  reward 0.250",
    ]


def test_the_bar_counts_the_steps_of_all_runs_in_the_making(clock: SimpleNamespace) -> None:
    progress = StudyProgress(40, sets=[])
    progress.planned([FULL, LAYER], [FULL, LAYER])
    for spec, steps in ((FULL, 10), (LAYER, 5)):
        progress.started(spec)
        progress.stepped(spec, TrainingCurve(8, reward_mean=[0.5] * steps))
    bar = progress._bar.tasks[0]
    assert (bar.completed, bar.total) == (15, 80)
    assert bar.description == "run 1/2 layer-3 +1"
    progress.started(FULL)  # its worker was killed: another begins it again
    assert progress._bar.tasks[0].completed == 5

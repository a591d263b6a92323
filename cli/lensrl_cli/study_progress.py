"""The progress of a study: one bar over all of its runs, and one line for each finished run."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lensrl_cli.output import console

if TYPE_CHECKING:
    from lensrl import Run
    from lensrl.recipe.runs import RunSpec
    from lensrl.train.curve import TrainingCurve

MINUTE = 60.0  # seconds between two lines where no terminal shows a bar


class StudyProgress:
    """Watch a study: one bar over the training steps of all runs, and one line for each finished run.

    Several runs may be in the making at once. Without a terminal there is no bar, and a line a minute.
    """

    def __init__(self, steps: int, *, sets: Collection[str]) -> None:
        self.planned_runs = 0
        self.made = 0
        self._steps = steps  # of a run; 0 where the recipe counts epochs
        self._sets = sets
        self._missing = 0
        self.interrupted_by = 0  # the number of a signal
        self._states: dict[RunSpec, str] = {}  # of the runs that are being made
        self._done: dict[RunSpec, int] = {}  # training steps, of every run that was begun
        self._told = time.monotonic()
        # The terminal prints ^C into this line. Both must fit into 80 columns, or the bar is not erased.
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=14), TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(), TextColumn("left"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("loading", state="")

    def interrupt(self, number: int, *_: object) -> None:
        """Handle Ctrl-C or SIGTERM. The next event raises KeyboardInterrupt again: a library may swallow it."""
        self.interrupted_by = number
        raise KeyboardInterrupt

    def stop(self) -> None:
        """Erase the bar."""
        if self._bar.live.is_started:  # stopping a bar that never started prints an empty line
            self._bar.stop()

    def planned(self, specs: list[RunSpec], missing: list[RunSpec]) -> None:
        """Say how many runs are missing, and which layers the chosen sets contain, before training starts."""
        self.planned_runs, self._missing = len(specs), len(missing)
        if missing:
            if len(missing) < len(specs):
                console.print(f"{len(specs) - len(missing)} of {len(specs)} runs are done, {len(missing)} to go")
            chosen = {spec.name: spec.trained for spec in missing if spec.name in self._sets}
            for name, trained in chosen.items():  # the layers that words such as random-3 and top-3 chose
                console.print(escape(f"{name}: {trained}"))
            self._bar.update(self._task, total=max(1, sum(self._steps for spec in missing if spec.name != "base")))
            self._bar.start()

    def started(self, spec: RunSpec) -> None:
        untrained = spec.name == "base" or spec.checkpoint is not None
        self._update(spec, 0, "loading" if untrained else f"step 0{self._of}")

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        done = len(curve)
        self._update(spec, done, f"step {done}{self._of}  reward {curve.reward_mean[-1]:.3f}")

    def scoring(self, spec: RunSpec) -> None:
        self._update(spec, self._done.get(spec, 0), "scoring")

    def finished(self, spec: RunSpec, run: Run) -> None:
        self._line(spec, run)
        for line in run.missing_sites if spec.name == "base" else ():
            console.print(escape(f"{run.base}: {line}"))

    def made_elsewhere(self, spec: RunSpec, run: Run) -> None:
        self._line(spec, run, "  made by another process")

    def waiting(self, specs: list[RunSpec]) -> None:
        """Every other run is there: say on which ones this process waits."""
        names = ", ".join(f"{spec.name} seed {spec.seed}" if spec.name != "base" else "base" for spec in specs)
        console.print(escape(f"waiting for other processes: {names}"))

    def noted(self, line: str) -> None:
        """Say what loading changed about the base model, and where a run goes on or keeps a checkpoint."""
        console.print(escape(line))

    @property
    def _of(self) -> str:
        return f"/{self._steps}" if self._steps else ""

    def _line(self, spec: RunSpec, run: Run, who: str = "") -> None:
        """A run has its file: one line, and the bar moves on."""
        self.made += 1
        self._states.pop(spec, None)
        self._done[spec] = 0 if spec.name == "base" else self._steps  # a run that ended early counts as complete
        self._bar.update(self._task, completed=sum(self._done.values()))
        seed = "" if spec.name == "base" else f"  seed {spec.seed}"
        score = f"  score {run.score:.3f}" if run.has_scores else ""
        trouble = "" if run.status == "completed" else f"  [red]{run.status}[/red]: {escape(run.reason)}"
        console.print(f"{self.made:>3}/{self._missing}  {escape(spec.name)}{seed}{score}{trouble}{who}")

    def _update(self, spec: RunSpec, done: int, state: str) -> None:
        if self.interrupted_by:
            raise KeyboardInterrupt
        self._states[spec], self._done[spec] = state, done
        others = f" +{len(self._states) - 1}" if len(self._states) > 1 else ""
        description = f"run {self.made + 1}/{self._missing} {spec.name}{others}"
        self._bar.update(self._task, description=description, completed=sum(self._done.values()), state=state)
        if not console.is_terminal and time.monotonic() > self._told + MINUTE:
            self._told = time.monotonic()
            at_work = "; ".join(f"{s.name} seed {s.seed} {state}" for s, state in self._states.items())
            console.print(escape(f"{time.strftime('%H:%M')}  {self.made}/{self._missing} runs done; {at_work}"))

"""`lensrl run`: make every run of a recipe."""

from __future__ import annotations

import signal
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lensrl import Run, load_recipe, run_study
from lensrl.errors import LensrlError
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, RunSpec
from lensrl_cli.output import console

if TYPE_CHECKING:
    from lensrl.train.curve import TrainingCurve


def run(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE ...", help="TOML files, such as runs/tiny.toml.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The study's folder; by default the recipe's name.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="RUNS", help="Make these runs alone: full-rl,layer-3, or layer-3.seed-1."),
    ] = None,
) -> None:
    """Make every run of a recipe: base, full RL, single layers; scores, weight deltas, activations.

    Several recipes are run one after another. Stop it with Ctrl-C at any time: the same command continues with what is
    missing. The same command in several shells shares the runs among them.

    Example: lensrl run runs/tiny.toml
    """
    if out is not None and len(recipes) > 1:
        raise LensrlError(f"--out {out} names one folder and there are {len(recipes)} recipes; leave it out")
    for path in (out, *(path.with_suffix("") for path in recipes if out is None)):
        if path is not None and path.is_file():
            raise LensrlError(f"{path} is a file and the study needs a folder: name one with --out DIR")
    loaded = [load_recipe(path) for path in recipes]  # all of them before the first is run
    for path, recipe in zip(recipes, loaded, strict=True):
        _run(recipe, out if out is not None else path.with_suffix(""), None if only is None else only.split(","))


def _run(recipe: Recipe, folder: Path, only: list[str] | None) -> None:
    console.print(f"study {folder}: {recipe.model}, {recipe.task.name}, {recipe.rl.algorithm}, {recipe.rl.steps} steps")
    progress = _StudyProgress(recipe.rl.steps, sets=recipe.sets)
    before = signal.signal(signal.SIGINT, progress.interrupt)
    try:
        run_study(recipe, folder, progress, only=only).close()
    except KeyboardInterrupt:
        progress.stop()
        console.print("stopped; the same command continues with what is missing")
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGINT, before)
        progress.stop()
    console.print(
        f"all {progress.planned_runs} runs done in {folder}"
        if progress.made
        else f"all {progress.planned_runs} runs were done already in {folder}"
    )


class _StudyProgress:
    """One bar for the whole study, in steps; a line for every finished run."""

    def __init__(self, steps: int, *, sets: Collection[str]) -> None:
        self.planned_runs = 0
        self.made = 0
        self._steps = steps
        self._sets = sets
        self._missing = 0
        self._base_was_there = False
        self._interrupted = False
        # short enough that the terminal's own ^C still fits the line at 80 columns, or the bar is not wiped away
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=14), TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(), TextColumn("left"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("loading", state="")

    def interrupt(self, *_: object) -> None:
        """Ctrl-C. Raised again at the next sign of life: libraries swallow one that meets them while they load."""
        self._interrupted = True
        raise KeyboardInterrupt

    def stop(self) -> None:
        if self._bar.live.is_started:  # a bar that never started would print an empty line
            self._bar.stop()

    def planned(self, specs: list[RunSpec], missing: list[RunSpec]) -> None:
        self.planned_runs, self._missing = len(specs), len(missing)
        if missing:
            if len(missing) < len(specs):
                console.print(f"{len(specs) - len(missing)} of {len(specs)} runs are done, {len(missing)} to go")
            chosen = {spec.name: spec.trained for spec in missing if spec.name in self._sets}
            for name, trained in chosen.items():  # what random-3 and top-3 came to mean, before they are trained
                console.print(escape(f"{name}: {trained}"))
            self._base_was_there = all(spec.name != "base" for spec in missing)
            self._bar.update(self._task, total=max(1, sum(self._steps for spec in missing if spec.name != "base")))
            self._bar.start()

    def started(self, spec: RunSpec) -> None:
        self._update(spec, 0, "loading" if spec.name == "base" else f"step 0/{self._steps}")

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        self._update(spec, 1, f"step {len(curve)}/{self._steps}  reward {curve.reward_mean[-1]:.3f}")

    def scoring(self, spec: RunSpec) -> None:
        self._update(spec, 0, "scoring")

    def finished(self, spec: RunSpec, run: Run) -> None:
        self._line(spec, run)

    def made_elsewhere(self, spec: RunSpec, run: Run) -> None:
        self._line(spec, run, "  made by another process")

    def waiting(self, specs: list[RunSpec]) -> None:
        """Every other run is there: say on which ones this process waits."""
        names = ", ".join(f"{spec.name} seed {spec.seed}" if spec.name != BASE else BASE for spec in specs)
        console.print(escape(f"waiting for other processes: {names}"))

    def _line(self, spec: RunSpec, run: Run, who: str = "") -> None:
        """A run has its file: one line, and the bar moves on."""
        self.made += 1
        total = self._steps * (self.made - (not self._base_was_there))  # a run that ended early counts as a whole one
        self._bar.update(self._task, completed=total)
        seed = "" if spec.name == BASE else f"  seed {spec.seed}"
        score = f"  score {run.score:.3f}" if run.has_scores else ""
        trouble = "" if run.status == "completed" else f"  [red]{run.status}[/red]: {escape(run.reason)}"
        console.print(f"{self.made:>3}/{self._missing}  {escape(spec.name)}{seed}{score}{trouble}{who}")

    def _update(self, spec: RunSpec, advance: int, state: str) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        description = f"run {self.made + 1}/{self._missing} {spec.name}"
        self._bar.update(self._task, description=description, advance=advance, state=state)

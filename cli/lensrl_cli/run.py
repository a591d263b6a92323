"""`lensrl run`: train, score and measure every run of a recipe."""

from __future__ import annotations

import signal
from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import lensrl
from lensrl.errors import LensrlError
from lensrl.recipe import parse_recipe
from lensrl.recipe.task_tables import has_training
from lensrl_cli.output import console, named_path

if TYPE_CHECKING:
    from lensrl import Run
    from lensrl.recipe import Recipe
    from lensrl.recipe.runs import RunSpec
    from lensrl.train.curve import TrainingCurve
    from lensrl.train.engine import Engine


PLACE = "Where the runs are made"  # the options' group in the help


class Place(Enum):
    """The engines that the command line knows."""

    HERE = "here"
    RAY = "ray"


def run(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE", help="TOML files, such as runs/tiny.toml.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=named_path,
            help="The folder of the study; by default the recipe's path without .toml.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="RUNS", help="Make these runs alone: full-rl,layer-3, or layer-3.seed-1."),
    ] = None,
    place: Annotated[
        Place, typer.Option("--engine", help="On this machine, or on a Ray cluster.", rich_help_panel=PLACE)
    ] = Place.HERE,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="CLUSTER",
            rich_help_panel=PLACE,
            help="The Ray cluster: auto, or HOST:PORT; by default one that is started on this machine for the study.",
        ),
    ] = None,
    num_cpus: Annotated[
        float | None, typer.Option("--num-cpus", help="CPUs of a worker on Ray.", rich_help_panel=PLACE)
    ] = None,
    num_gpus: Annotated[
        float | None,
        typer.Option("--num-gpus", help="GPUs of a worker on Ray; 0.5: two workers share one.", rich_help_panel=PLACE),
    ] = None,
) -> None:
    """Train, score and measure every run of a recipe: the base, full RL, each layer alone, sets of layers.

    Every run becomes one file with its scores, weight deltas and activations.

    Several recipes are run one after the other. The same command in several shells shares the runs among them.

    Ctrl-C stops the command at any time. The same command then continues with the missing runs.

    Example: lensrl run runs/tiny.toml
    """
    if out is not None and len(recipes) > 1:
        raise LensrlError(f"--out {out} names one folder and there are {len(recipes)} recipes; leave it out")
    if only is not None and len(recipes) > 1:
        raise LensrlError(f"--only {only} names runs of one recipe and there are {len(recipes)}; run them one by one")
    names = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    if names == []:
        raise LensrlError("--only names no run; write --only full-rl,layer-3")
    # Check all recipes before the first run starts.
    if any(not path.name for path in recipes):
        raise LensrlError("'' is no recipe: name a TOML file, such as runs/tiny.toml")
    for path in (out, *(path.with_suffix("") for path in recipes if out is None)):
        if path is not None and path.is_file():
            raise LensrlError(f"{path} is a file and the study needs a folder: name one with --out DIR")
    loaded = [_with_resources(lensrl.load_recipe(path), num_cpus=num_cpus, num_gpus=num_gpus) for path in recipes]
    of_ray = {"--address": address, "--num-cpus": num_cpus, "--num-gpus": num_gpus}
    given = next((option for option, value in of_ray.items() if value is not None), None)
    if place is Place.RAY:
        from lensrl.train.on_ray import OnRay

        engine = OnRay(address)
    elif given is not None:
        raise LensrlError(f"{given} is for a Ray cluster: add --engine ray")
    else:
        engine = None
    for path, recipe in zip(recipes, loaded, strict=True):
        make_study(recipe, out if out is not None else path.with_suffix(""), names, engine)


def _with_resources(recipe: Recipe, **given: float | None) -> Recipe:
    """Return the recipe with options in place of settings of its table `[engine]`."""
    said = {name: value for name, value in given.items() if value is not None}
    if not said:
        return recipe
    option = f"--{[*said][-1].replace('_', '-')}"
    engine = parse_recipe(
        {**recipe.model_dump(mode="json"), "engine": recipe.engine.model_dump() | said}, option
    ).engine
    return recipe.model_copy(update={"engine": engine})


def make_study(recipe: Recipe, folder: Path, only: list[str] | None, engine: Engine | None = None) -> None:
    """Make the runs of a recipe that `folder` lacks, with a bar and a line for each. Ctrl-C ends with exit code 130."""
    count = len(recipe.checkpoints)
    given = f"{count} run{'s' * (count > 1)} from checkpoints" if count else ""
    # Without layers and sets, and with full RL from a checkpoint, nothing is trained; nor without seeds or items.
    idle = recipe.layers == [] and {"full-rl", *recipe.sets} <= recipe.checkpoints.keys()
    idle = idle or not recipe.seeds or not has_training(recipe.task)
    trained = "" if idle else f"{recipe.rl.algorithm}, {recipe.rl.budget}"
    what = ", ".join(filter(None, (recipe.model, recipe.task.name, trained, given)))
    console.print(f"study {folder}: {what}")
    progress = _StudyProgress(recipe.rl.steps or 0, sets=recipe.sets)
    before = signal.signal(signal.SIGINT, progress.interrupt)
    try:
        lensrl.run_study(recipe, folder, progress, only=only, engine=engine).close()
    except KeyboardInterrupt:
        progress.stop()
        console.print("stopped; the same command continues with the missing runs")
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGINT, before)
        progress.stop()
    asked = "runs" if only is None else "runs of --only"
    console.print(
        f"all {progress.planned_runs} {asked} done in {folder}"
        if progress.made
        else f"all {progress.planned_runs} {asked} were done already in {folder}"
    )


class _StudyProgress:
    """Watch a study: one bar over the training steps of all runs, and one line for each finished run."""

    def __init__(self, steps: int, *, sets: Collection[str]) -> None:
        self.planned_runs = 0
        self.made = 0
        self._steps = steps  # of a run; 0 where the recipe counts epochs
        self._sets = sets
        self._missing = 0
        self._base_was_there = False
        self._interrupted = False
        # The terminal prints ^C into this line. Both must fit into 80 columns, or the bar is not erased.
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=14), TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(), TextColumn("left"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("loading", state="")

    def interrupt(self, *_: object) -> None:
        """Handle Ctrl-C. The next event raises KeyboardInterrupt again: a library that is loading may swallow it."""
        self._interrupted = True
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
            self._base_was_there = all(spec.name != "base" for spec in missing)
            self._bar.update(self._task, total=max(1, sum(self._steps for spec in missing if spec.name != "base")))
            self._bar.start()

    def started(self, spec: RunSpec) -> None:
        self._update(spec, 0, "loading" if spec.name == "base" or spec.checkpoint is not None else f"step 0{self._of}")

    def stepped(self, spec: RunSpec, curve: TrainingCurve) -> None:
        self._update(spec, 1, f"step {len(curve)}{self._of}  reward {curve.reward_mean[-1]:.3f}")

    def scoring(self, spec: RunSpec) -> None:
        self._update(spec, 0, "scoring")

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
        """Say what loading changed about the base model."""
        console.print(escape(line))

    @property
    def _of(self) -> str:
        return f"/{self._steps}" if self._steps else ""

    def _line(self, spec: RunSpec, run: Run, who: str = "") -> None:
        """A run has its file: one line, and the bar moves on."""
        self.made += 1
        # The base has no training steps. A run that ended early counts as complete.
        total = self._steps * (self.made - (not self._base_was_there))
        self._bar.update(self._task, completed=total)
        seed = "" if spec.name == "base" else f"  seed {spec.seed}"
        score = f"  score {run.score:.3f}" if run.has_scores else ""
        trouble = "" if run.status == "completed" else f"  [red]{run.status}[/red]: {escape(run.reason)}"
        console.print(f"{self.made:>3}/{self._missing}  {escape(spec.name)}{seed}{score}{trouble}{who}")

    def _update(self, spec: RunSpec, advance: int, state: str) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        description = f"run {self.made + 1}/{self._missing} {spec.name}"
        self._bar.update(self._task, description=description, advance=advance, state=state)

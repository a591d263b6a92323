"""`lensrl run`: train, score and measure every run of a recipe."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

import lensrl
from lensrl.errors import LensrlError, NoGain
from lensrl.recipe import parse_recipe
from lensrl.recipe.task_tables import has_training
from lensrl_cli.cluster import Address, NumCpus, NumGpus, Place, Where, check_place
from lensrl_cli.engines import engine_here, engine_on_ray, gpus_of
from lensrl_cli.estimate import print_estimate
from lensrl_cli.output import console, named_path
from lensrl_cli.study_progress import StudyProgress

if TYPE_CHECKING:
    from lensrl.recipe import Recipe
    from lensrl.train.engine import Engine


# sbatch's option for an array, as getopt reads it: -a 0-3, -a0-3, --array 0-3, --array=0-3, or shorter, --arr=0-3
_ARRAY = re.compile(r"-a.*|--ar(r(ay?)?)?(=.*)?", re.DOTALL)


class Keep(Enum):
    """Parts of a model that a run may keep (`store.keep`)."""

    ALL = "all"
    DELTAS = "deltas"
    NORMS = "norms"


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
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Make N runs at once, each in a process.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option("--devices", metavar="LIST", help="The GPUs of the workers: 0,1,2,3.")
    ] = None,
    per_device: Annotated[
        int | None, typer.Option("--per-device", metavar="N", min=1, help="Workers on each of --devices; by default 1.")
    ] = None,
    devices_per_run: Annotated[
        int | None,
        typer.Option("--devices-per-run", metavar="N", min=1, help="Share each run out over N GPUs of this machine."),
    ] = None,
    place: Where = Place.HERE,
    address: Address = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    array_limit: Annotated[
        int | None, typer.Option("--array-limit", metavar="N", min=1, help="Tasks of --slurm that run at once.")
    ] = None,
    *,
    shard: Annotated[
        bool, typer.Option("--shard", help="With --devices-per-run: share the weights out as well, by FSDP2.")
    ] = False,
    keep: Annotated[
        Keep | None,
        typer.Option("--keep", help="Of each run: deltas without activations, or norms without both (store.keep)."),
    ] = None,
    slurm: Annotated[
        bool,
        typer.Option("--slurm", help="Write a Slurm script, a task for each run; sbatch options after --."),
    ] = False,
    submit: Annotated[bool, typer.Option("--submit", help="Hand the script of --slurm to sbatch.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make nothing: print runs, disk and time, from a few measured steps.")
    ] = False,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Train single layers although full RL gained nothing (on_no_gain).")
    ] = False,
) -> None:
    """Train, score and measure every run of a recipe: the base, full RL, each layer alone, sets of layers.

    Every run becomes one file with its scores, weight deltas and activations.

    Several recipes are run one after the other. The same command in several shells shares the runs among them, and so
    do the processes of --workers.

    Ctrl-C stops the command at any time. The same command then continues with the missing runs, and goes on inside a
    run from its latest checkpoint (rl.checkpoint_every). SIGTERM writes a checkpoint first.

    Example: lensrl run runs/tiny.toml

    On a cluster: lensrl run RECIPE --slurm --submit -- --gpus=1 --time=8:00:00
    """
    options = [str(word) for word in recipes]
    first = next((place for place, word in enumerate(options) if word.startswith("-")), len(options))
    recipes, options = recipes[:first], options[first:]
    if options and not slurm:
        raise LensrlError(f"{options[0]} is an option of sbatch: it needs --slurm")
    array = next(filter(_ARRAY.fullmatch, options), None)
    if array is not None:
        raise LensrlError(
            f"{array} would leave runs out: the script has its own array, a task for each missing run; before --, "
            "--array-limit N lets N of them run at once, and --only RUNS makes some of the runs"
        )
    if not slurm and (submit or array_limit is not None):
        raise LensrlError("--submit and --array-limit belong to --slurm")
    if slurm and len(recipes) != 1:
        raise LensrlError(f"--slurm makes the script of one recipe, and there are {len(recipes)}")
    if out is not None and len(recipes) > 1:
        raise LensrlError(f"--out {out} names one folder and there are {len(recipes)} recipes; leave it out")
    if only is not None and len(recipes) > 1:
        raise LensrlError(f"--only {only} names runs of one recipe and there are {len(recipes)}; run them one by one")
    names = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    if names == []:
        raise LensrlError("--only names no run; write --only full-rl,layer-3")
    gpus = gpus_of(devices)
    # Check all recipes before the first run starts.
    if any(not path.name for path in recipes):
        raise LensrlError("'' is no recipe: name a TOML file, such as runs/tiny.toml")
    for path in (out, *(path.with_suffix("") for path in recipes if out is None)):
        if path is not None and path.is_file():
            raise LensrlError(f"{path} is a file and the study needs a folder: name one with --out DIR")
    said = {
        "engine": {"num_cpus": num_cpus, "num_gpus": num_gpus, "shard": shard or None},
        "store": {"keep": keep and keep.value},
    }
    loaded = [_with_options(lensrl.load_recipe(path), said) for path in recipes]
    check_place(place, address, num_cpus, num_gpus)
    of_one_run = "--shard" if shard else "--devices-per-run" if devices_per_run is not None else None
    if of_one_run and (slurm or place is Place.RAY or (workers, devices, per_device) != (None,) * 3):
        raise LensrlError(f"{of_one_run} cannot be combined with --workers, --devices, --engine or --slurm yet")
    if slurm and keep is not None:
        raise LensrlError(f"--slurm hands the recipe on as it is: write keep = {keep.value!r} under [store] in it")
    if slurm:
        folder = out if out is not None else recipes[0].with_suffix("")
        if place is Place.RAY:
            raise LensrlError("--slurm and --engine ray are two ways to use a cluster: leave one of them out")
        if (workers, devices, per_device) != (None, None, None):
            raise LensrlError("--slurm makes a task for each run: leave out --workers, --devices and --per-device")
        if not dry_run:
            _slurm(recipes[0], loaded[0], folder, names, array_limit, options, submit=submit)
            return
    if dry_run:
        for path, recipe in zip(recipes, loaded, strict=True):
            print_estimate(recipe, out if out is not None else path.with_suffix(""), names)
        return
    engine = engine_on_ray(address, workers, devices, per_device) if place is Place.RAY else None
    engine = engine or engine_here(workers, gpus, per_device)
    with _ranks(devices_per_run):
        for path, recipe in zip(recipes, loaded, strict=True):
            folder = out if out is not None else path.with_suffix("")
            make_study(recipe, folder, names, engine, go_on=go_on or recipe.on_no_gain == "go on")


def _ranks(count: int | None) -> AbstractContextManager[None]:
    """Be one of the ranks that share each run out, where they are not started yet."""
    from lensrl.train import ranks

    if count is None or ranks.world() > 1:
        return nullcontext()
    return ranks.started(count, [sys.executable, "-m", "lensrl_cli.main", *sys.argv[1:]])


def _slurm(
    path: Path,
    recipe: Recipe,
    folder: Path,
    only: list[str] | None,
    limit: int | None,
    options: list[str],
    *,
    submit: bool,
) -> None:
    """Write and print the Slurm script of the missing runs, and hand it to sbatch where asked."""
    from lensrl.train.plan import kept_less
    from lensrl.train.slurm import run_paths, slurm_script

    paths = run_paths(recipe, folder, only)
    names = [path.stem for path in paths if not path.exists()]
    for line in kept_less(recipe, folder, paths):
        console.print(line, markup=False)
    if not names:
        console.print(f"all runs are in {folder}: there is nothing to submit")
        return
    study = ["run", str(path.absolute()), "--out", str(folder.absolute())]
    command = [sys.executable, "-m", "lensrl_cli.main", *study]
    text = slurm_script(command, folder, names, limit=limit, options=options)
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "slurm.sh"
    script.write_text(text, encoding="utf-8")
    typer.echo(text)
    if not submit:
        console.print(f"written to {script}; submit it with: sbatch {script}")
        return
    try:
        done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True)
    except FileNotFoundError:
        raise LensrlError(f"this machine has no sbatch; submit {script} where Slurm is") from None
    if done.returncode:
        raise LensrlError(f"sbatch refused {script}: {done.stderr.strip() or done.stdout.strip()}")
    console.print(done.stdout.strip(), markup=False)


def _with_options(recipe: Recipe, given: dict[str, dict[str, float | str | None]]) -> Recipe:
    """Return the recipe with options in place of settings of its tables: table -> setting -> value, None: not given."""
    for table, settings in given.items():
        said = {name: value for name, value in settings.items() if value is not None}
        if said:
            option = f"--{[*said][-1].replace('_', '-')}"
            whole = recipe.model_dump(mode="json") | {table: getattr(recipe, table).model_dump() | said}
            recipe = recipe.model_copy(update={table: getattr(parse_recipe(whole, option), table)})
    return recipe


def make_study(
    recipe: Recipe, folder: Path, only: list[str] | None, engine: Engine | None = None, *, go_on: bool = True
) -> None:
    """Make the runs of a recipe that `folder` lacks, with a bar and a line for each.

    Ctrl-C ends with exit code 130, SIGTERM with 143, and with 1 where full RL gained nothing, without `go_on`. Where
    ranks share a run out, rank 0 alone speaks.
    """
    from lensrl.train import ranks

    if ranks.rank() > 0:
        try:
            lensrl.run_study(recipe, folder, only=only, engine=engine).close()
        except ranks.Refused:
            raise typer.Exit(2) from None
        return
    count = len(recipe.checkpoints)
    given = f"{count} run{'s' * (count > 1)} from checkpoints" if count else ""
    # Without layers and sets, and with full RL from a checkpoint, nothing is trained; nor without seeds or items.
    idle = recipe.layers == [] and {"full-rl", *recipe.sets} <= recipe.checkpoints.keys()
    idle = idle or not recipe.seeds or not has_training(recipe.task)
    trained = "" if idle else f"{recipe.rl.algorithm}, {recipe.rl.budget}"
    what = ", ".join(filter(None, (recipe.model, recipe.task.name, trained, given)))
    console.print(f"study {folder}: {what}")
    progress = StudyProgress(recipe.rl.steps or 0, sets=recipe.sets)
    before = {number: signal.signal(number, progress.interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        lensrl.run_study(recipe, folder, progress, only=only, engine=engine, go_on=go_on).close()
    except NoGain as error:
        progress.stop()
        console.print(Text(str(error), style="red"), soft_wrap=not console.is_terminal)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        progress.stop()
        by = " by SIGTERM" if progress.interrupted_by == signal.SIGTERM else ""
        console.print(f"stopped{by}; the same command continues with the missing runs")
        raise typer.Exit(128 + (progress.interrupted_by or signal.SIGINT)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        progress.stop()
    asked = "runs" if only is None else "runs of --only"
    console.print(
        f"all {progress.planned_runs} {asked} done in {folder}"
        if progress.made
        else f"all {progress.planned_runs} {asked} were done already in {folder}"
    )

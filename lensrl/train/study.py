"""Making a study: which runs its recipe asks for, which of them are missing, and an engine that makes these.

    recipe  ->  plan: base, then full RL, single layers and sets for each seed  ->  jobs for missing runs  ->  engine

A run that the recipe names in `checkpoints` is not trained: its weights are read from a folder (`lensrl.train.adopt`).
A run is an idempotent task that writes one file. The same command continues an interrupted study. Several processes
that make one study share its runs (`lensrl.train.engine`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lensrl.errors import LensrlError, Taken, did_you_mean
from lensrl.recipe import LayerSet, Recipe, read_kept_recipe
from lensrl.recipe.runs import BASE, FULL, RunSpec, plan
from lensrl.store.file.atomic import begun, new_file, remove_litter
from lensrl.store.file.claim import is_being_written
from lensrl.store.file.training import remove_trained
from lensrl.store.names import RECIPE_FILE, run_path
from lensrl.store.origin import item_digests
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.train import ranks
from lensrl.train.choose import choose_sets
from lensrl.train.disk import check_disk
from lensrl.train.engine import Engine, Here, load_workshop
from lensrl.train.job import Job, is_made
from lensrl.train.no_gain import StopsWithoutGain, why_no_gain
from lensrl.train.watch import NoWatcher, Watcher

if TYPE_CHECKING:
    from lensrl.train.workshop import Workshop

PATIENCE = 60.0  # seconds to wait for another process that keeps the same recipe


def run_study(
    recipe: Recipe,
    folder: str | Path,
    watcher: Watcher | None = None,
    *,
    only: str | Sequence[str] | None = None,
    engine: Engine | None = None,
    go_on: bool = True,
) -> Study:
    """Make every run of `recipe` that `folder` lacks, and return the study.

    `only` names the runs to make, as `full-rl` (with every seed) or `layer-3.seed-1`; the study keeps the whole recipe.
    `engine` makes the runs; by default this process does, one after another (`lensrl.train.engine.Here`). Without
    `go_on`, the base and full RL come first, and NoGain is raised once they show that full RL gained nothing; runs that
    workers have in hand then are stopped. With it, `watcher` notes this at the end.

    Before any training, raises LensrlError when the folder holds a study of another recipe or of another base model, or
    a damaged file; for a disk without room for the missing runs; for sets that the model cannot have; for a checkpoint
    that is no run of this base, or moved another part than it is said to have trained; for a name in `only` that is no
    run of the recipe; and where a launcher asks for several devices a run (torchrun) and the recipe cannot be shared
    out so (`lensrl.train.ranks`). A run that diverges or collapses is written with that status, and the study goes on.

    Under such a launcher, every rank calls this function. Rank 0 makes the study with the others, and they return when
    it is made.
    """
    folder = Path(folder)
    ranks.check_launcher()
    if ranks.rank() > 0:
        _take_part(recipe)
    else:
        with ranks.led(), getattr(engine, "held", nullcontext)():
            _make(recipe, folder, watcher or NoWatcher(), only, engine, go_on=go_on)
    return Study(folder)


def _take_part(recipe: Recipe) -> None:
    """Make the runs of a study with rank 0, until it says that all are made."""
    ranks.join()
    workshop: Workshop | None = None
    while (job := ranks.next_job()) is not None:
        workshop = workshop or _open_workshop(recipe, job.folder)
        workshop.take_part(job)


def _make(
    recipe: Recipe,
    folder: Path,
    watcher: Watcher,
    only: str | Sequence[str] | None,
    engine: Engine | None,
    *,
    go_on: bool,
) -> None:
    """Make a study: plan, check, and let an engine make what is missing."""
    ranks.check_ranks(recipe)
    if ranks.world() > 1 and engine is not None:
        raise LensrlError("one run on several devices and an engine cannot be combined yet: leave one of them out")
    planned = plan_study(recipe, folder, only)
    missing, workshop = planned.missing, planned.workshop
    if workshop is not None:
        if not run_path(folder, BASE, 0).exists() and (line := workshop.check_references()):
            watcher.noted(line)
        if recipe.store.compression == "none":  # else the bytes are not known before
            check_disk(folder, [workshop.bytes_of(job.spec) for job in missing if not is_being_written(job.path)])
    # Nothing is wrong with the recipe: keep it, and make the runs.
    _keep_recipe(planned.recipe, folder)
    remove_litter(folder)
    remove_trained(folder)
    for line in workshop.notes if workshop is not None else ():
        watcher.noted(line)
    watcher.planned(planned.specs, [job.spec for job in missing])
    if missing:
        engine = engine or Here(workshop)
        del workshop, planned  # an engine elsewhere needs the memory
        _make_runs(engine, missing, watcher, folder, recipe.seeds, go_on=go_on or only is not None)


class Planned(NamedTuple):
    """What a study lacks. `recipe` has its sets chosen; `workshop` is open where runs are missing."""

    recipe: Recipe
    specs: list[RunSpec]
    missing: list[Job]
    workshop: Workshop | None


def plan_study(recipe: Recipe, folder: Path, only: str | Sequence[str] | None = None) -> Planned:
    """Check a recipe against its folder and its base, and find the runs that are missing. Writes nothing.

    Raises LensrlError as `run_study` does.
    """
    _check_recipe(recipe, folder)
    # 1. The number of layers, the base's fingerprint and the items: from base.h5, else from the model and the task.
    workshop: Workshop | None = None
    base_path = run_path(folder, BASE, 0)
    if base_path.exists():
        with Run(base_path) as base:
            n_layers, fingerprint = base.n_layers, base.fingerprint
            items = [*base.scores_by_item()[["benchmark", "item"]].itertuples(index=False, name=None)]
            digests = item_digests(base)
    else:
        workshop = _open_workshop(recipe, folder)
        n_layers, fingerprint = workshop.base.blocks.n_layers, workshop.base.fingerprint
        items, digests = [(item.benchmark, item.id) for item in workshop.items], workshop.digests
    # 2. The runs to make. Sets that rest on a profile are chosen now, and stay.
    recipe = choose_sets(recipe, n_layers, items, made=_made_sets(recipe, folder))
    specs = named(plan(recipe, n_layers), [only] if isinstance(only, str) else only)
    jobs = [Job(recipe, spec, folder, fingerprint, digests) for spec in specs]
    missing = [job for job in jobs if not is_made(job)]
    if missing:
        workshop = workshop or _open_workshop(recipe, folder)
        workshop.check_runs([job.spec for job in missing])
    return Planned(recipe, specs, missing, workshop)


def _make_runs(
    engine: Engine, jobs: Sequence[Job], watcher: Watcher, folder: Path, seeds: Sequence[int], *, go_on: bool
) -> None:
    """Make all runs. Without `go_on`, stop once full RL is made and has gained nothing."""
    first = [job for job in jobs if job.spec.name in (BASE, FULL)]
    rest = [job for job in jobs if job not in first]
    if go_on or all(job.spec.checkpoint is not None for job in rest):
        engine.make(jobs, watcher)
        if first and (why := why_no_gain(folder, seeds)):
            watcher.noted(why)
        return
    stopping = StopsWithoutGain(watcher, folder, seeds, [job.path for job in rest])
    stopping.check()
    engine.make([*first, *rest], stopping)


def named(specs: list[RunSpec], only: Sequence[str] | None) -> list[RunSpec]:
    """Return the runs that `only` names. Raises LensrlError for a name that no run has."""
    if only is None:
        return specs
    names = {spec: (spec.name, run_path(Path(), spec.name, spec.seed).stem) for spec in specs}
    known = dict.fromkeys(name for both in names.values() for name in both)
    unknown = next((name for name in only if name not in known), None)
    if unknown is not None:
        raise LensrlError(f"the recipe asks for no run {unknown!r}{did_you_mean(unknown, known)}")
    return [spec for spec in specs if not {*only}.isdisjoint(names[spec])]


def _check_recipe(recipe: Recipe, folder: Path) -> None:
    """Raise LensrlError when the folder holds a study that measures something else, or one of its runs is begun.

    A file, or the folder of a model, is no place for a study either.
    """
    kept = folder / RECIPE_FILE
    if folder.is_file():
        raise LensrlError(f"{folder} is a file and the study needs a folder: name one with --out")
    if (folder / "config.json").is_file() and not kept.exists():
        raise LensrlError(f"{folder} is the folder of a model (it has a config.json); choose another folder with --out")
    runs = (path for path in begun(folder) if path.suffix == ".h5")
    # Before its first run begins, the recipe of a study may still be corrected.
    if kept.exists() and (any(folder.glob("*.h5")) or any(map(is_being_written, runs))):
        conflict = recipe.conflict(read_kept_recipe(kept))
        if conflict is not None:
            raise LensrlError(
                f"{folder} holds a study of another recipe ({conflict}); choose another folder with --out"
            )
    elif any(folder.glob("*.h5")):
        raise LensrlError(f"{folder} holds HDF5 files but no {RECIPE_FILE}; choose another folder with --out")


def _keep_recipe(recipe: Recipe, folder: Path) -> None:
    """Write `recipe.json`, unless the folder has the same one. Wait for a process that is writing it.

    Raises LensrlError when another process has begun a study of another recipe in the folder meanwhile.
    """
    path = folder / RECIPE_FILE
    text = json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n"
    until = time.monotonic() + PATIENCE
    while not ((kept := path.exists()) and path.read_text(encoding="utf-8") == text):
        try:
            # Of many processes that begin one study at once, one writes. The others find the file, and are done.
            with new_file(path, replace=kept) as partial:
                _check_recipe(recipe, folder)
                partial.write_text(text, encoding="utf-8")
        except Taken:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _made_sets(recipe: Recipe, folder: Path) -> dict[str, LayerSet]:
    """Return the sets that were chosen from a profile and have a run, as this run was made: set -> choice."""
    found = {}
    for name in (name for name, layer_set in recipe.sets.items() if layer_set.profile is not None):
        for path in sorted(folder.glob(f"{name}.seed-*.h5"))[:1]:
            with Run(path) as run:
                if run.layer_set is not None:
                    found[name] = run.layer_set
    return found


def _open_workshop(recipe: Recipe, folder: Path) -> Workshop:
    workshop = load_workshop()(recipe)
    base_path = run_path(folder, BASE, 0)
    if base_path.exists():
        with Run(base_path) as run:
            workshop.check_same(run)
    return workshop

"""Making a study: plan it, keep its recipe, and let an engine make the runs that are missing.

    recipe  ->  plan.py: jobs for missing runs  ->  engine.py: each run in its file

A run that the recipe names in `checkpoints` is not trained: its weights are read from a folder (`lensrl.train.adopt`).
A run is an idempotent task that writes one file. The same command continues an interrupted study. Several processes
that make one study share its runs (`lensrl.train.engine`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lensrl.errors import LensrlError, Taken
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.file.atomic import new_file, remove_litter
from lensrl.store.file.claim import is_being_written
from lensrl.store.file.training import remove_trained
from lensrl.store.names import RECIPE_FILE
from lensrl.store.study import Study
from lensrl.train import ranks
from lensrl.train.disk import check_disk
from lensrl.train.engine import Engine, Here, planned
from lensrl.train.job import Job
from lensrl.train.no_gain import StopsWithoutGain, why_no_gain
from lensrl.train.plan import check_place, open_workshop
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
        with ranks.led():
            _make(recipe, folder, watcher or NoWatcher(), only, engine, go_on=go_on)
    return Study(folder)


def _take_part(recipe: Recipe) -> None:
    """Make the runs of a study with rank 0, until it says that all are made."""
    ranks.join()
    workshop: Workshop | None = None
    while (job := ranks.next_job()) is not None:
        workshop = workshop or open_workshop(recipe, job.folder)
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
    engine = engine or Here()
    with planned(engine, recipe, folder, only) as plan:
        if recipe.store.compression == "none":  # else the bytes are not known before
            sizes = zip(plan.missing, plan.sizes, strict=True)
            check_disk(folder, [size for job, size in sizes if not is_being_written(job.path)])
        # Nothing is wrong with the recipe: keep it, and make the runs.
        _keep_recipe(plan.recipe, folder)
        _remove_left(folder)
        for line in plan.notes:
            watcher.noted(line)
        watcher.planned(plan.specs, [job.spec for job in plan.missing])
        if plan.missing:
            _make_runs(engine, plan.missing, watcher, folder, recipe.seeds, go_on=go_on or only is not None)
            _remove_left(folder)  # a worker may have been killed just after its file got its name


def _remove_left(folder: Path) -> None:
    """Remove what killed processes left. What a living process is writing stays."""
    remove_litter(folder)
    remove_trained(folder)


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
                check_place(recipe, folder)
                partial.write_text(text, encoding="utf-8")
        except Taken:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)

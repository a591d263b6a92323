"""The order of things: which runs a recipe asks for, which are missing, and making them one by one.

A run is an idempotent task that writes one file. A study that was interrupted continues with what is missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lensrl.errors import LensrlError, StoreError
from lensrl.recipe import LayerSet, Recipe, read_kept_recipe
from lensrl.recipe.runs import BASE, RunSpec, plan, set_run
from lensrl.store.file.atomic import new_file, remove_litter
from lensrl.store.names import RECIPE_FILE, run_path
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.train.choose import choose_sets
from lensrl.train.watch import NoWatcher, Watcher

if TYPE_CHECKING:
    from lensrl.train.workshop import Workshop


def run_study(recipe: Recipe, folder: str | Path, watcher: Watcher | None = None) -> Study:
    """Make every run of `recipe` that `folder` lacks, and return the study.

    Raises LensrlError when the folder holds a study of another recipe or of another base model, or a damaged file, and
    for sets that the model cannot have: before any training.
    A run that diverges or collapses is written with that status, and the study goes on.
    """
    folder = Path(folder)
    watcher = watcher or NoWatcher()
    _check_recipe(recipe, folder)
    workshop: Workshop | None = None
    base_path = run_path(folder, BASE, 0)
    if base_path.exists():
        with Run(base_path) as base:
            n_layers, fingerprint = base.n_layers, base.fingerprint
            items = [*base.items[["benchmark", "item"]].itertuples(index=False, name=None)]
    else:
        workshop = _open_workshop(recipe, folder)
        n_layers, fingerprint = workshop.base.blocks.n_layers, workshop.base.fingerprint
        items = [(item.benchmark, item.id) for item in workshop.items]
    recipe = choose_sets(recipe, n_layers, items, made=_made_sets(recipe, folder))
    specs = plan(recipe, n_layers)
    missing = [spec for spec in specs if not _is_done(folder, spec, fingerprint)]
    if missing:
        workshop = workshop or _open_workshop(recipe, folder)
        workshop.prepare(recipe, missing)
    _keep_recipe(recipe, folder)
    remove_litter(folder)
    watcher.planned(specs, missing)
    if workshop is not None:
        for spec in missing:
            path = run_path(folder, spec.name, spec.seed)
            watcher.started(spec)
            workshop.make(spec, path, watcher)
            with Run(path) as run:
                watcher.finished(spec, run)
    return Study(folder)


def _check_recipe(recipe: Recipe, folder: Path) -> None:
    """Raises LensrlError when the folder holds a study that measures something else."""
    kept = folder / RECIPE_FILE
    if kept.exists() and any(folder.glob("*.h5")):  # before the first run, a recipe may still be put right
        conflict = recipe.conflict(read_kept_recipe(kept))
        if conflict is not None:
            raise LensrlError(
                f"{folder} holds a study of another recipe ({conflict}); choose another folder with --out"
            )
    elif any(folder.glob("*.h5")):
        raise LensrlError(f"{folder} holds HDF5 files but no {RECIPE_FILE}; choose another folder with --out")


def _keep_recipe(recipe: Recipe, folder: Path) -> None:
    with new_file(folder / RECIPE_FILE) as partial:
        partial.write_text(json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def _is_done(folder: Path, spec: RunSpec, fingerprint: str) -> bool:
    """Whether the run is there. Raises StoreError for a damaged file, rather than replace what may be rescued."""
    path = run_path(folder, spec.name, spec.seed)
    if not path.exists():
        return False
    with Run(path) as run:
        if (run.name, run.seed) != (spec.name, spec.seed):
            raise StoreError(f"{path} holds the run {run.name} with seed {run.seed}; move it away and run again")
        if run.fingerprint != fingerprint:
            raise StoreError(f"{path} was made from another base model than {BASE}.h5; move it away and run again")
        if run.layer_set is None and spec.layers is not None and tuple(run.layers) != spec.layers:
            raise StoreError(f"{path} trained layers {run.layers}, not {spec.trained}; move it away and run again")
        before = spec if run.layer_set is None else set_run(run.name, run.layer_set, run.n_layers, run.seed)
        if before != spec:
            raise StoreError(f"{path} trained {before.trained}, not {spec.trained}; name the set differently")
    return True


def _made_sets(recipe: Recipe, folder: Path) -> dict[str, LayerSet]:
    """The sets chosen from a profile that have a run, as they were when it was made."""
    found = {}
    for name in (name for name, layer_set in recipe.sets.items() if layer_set.profile is not None):
        for path in sorted(folder.glob(f"{name}.seed-*.h5"))[:1]:
            with Run(path) as run:
                if run.layer_set is not None:
                    found[name] = run.layer_set
    return found


def _open_workshop(recipe: Recipe, folder: Path) -> Workshop:
    from lensrl.train.workshop import Workshop  # torch, transformers and trl, only where there is work for them

    workshop = Workshop(recipe, study=folder.resolve().name)
    base_path = run_path(folder, BASE, 0)
    if base_path.exists():
        with Run(base_path) as run:
            workshop.check_same(run)
    return workshop

"""Planning a study: which runs its recipe asks for, which of them are missing, and whether these can be made.

    recipe  ->  base, then full RL, single layers and sets for each seed  ->  jobs for missing runs, notes, sizes

Nothing is written. The base's file alone tells which runs are missing. Without it, and to check the missing runs, the
workshop is opened: torch and the other libraries are loaded, the task, and the base model.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lensrl.errors import LensrlError, did_you_mean
from lensrl.recipe import LayerSet, Recipe, read_kept_recipe
from lensrl.recipe.runs import BASE, RunSpec, plan
from lensrl.store.file.atomic import begun
from lensrl.store.file.claim import is_being_written
from lensrl.store.names import RECIPE_FILE, run_path
from lensrl.store.origin import item_digests
from lensrl.store.run import Run
from lensrl.train.disk import RunBytes
from lensrl.train.job import Job, is_made

if TYPE_CHECKING:
    from lensrl.train.workshop import Workshop

KEPT = ("norms", "deltas", "all")  # store.keep, from little to all


class Plan(NamedTuple):
    """What a study has and lacks. It can be pickled."""

    recipe: Recipe  # with its sets chosen
    specs: list[RunSpec]
    missing: list[Job]
    sizes: Sequence[RunBytes] = ()  # of each missing run, before compression; empty in a plan from the base's file
    notes: Sequence[str] = ()  # for whoever watches, on runs that are there, the base, the task and the sets


def plan_study(recipe: Recipe, folder: Path, only: str | Sequence[str] | None = None) -> tuple[Plan, Workshop | None]:
    """Check a recipe against its folder and its base, and find the runs that are missing. Writes nothing.

    The workshop is open where runs are missing, or the base's file is. Raises LensrlError as `run_study` does.
    """
    found = plan_from_base(recipe, folder, only)
    if found is not None and not found.missing:
        return found, None
    workshop = open_workshop(recipe, folder)
    notes: list[str] = []
    if found is None:
        items = [(item.benchmark, item.id) for item in workshop.items]
        base = workshop.base
        found = _plan(recipe, folder, only, base.blocks.n_layers, base.fingerprint, items, workshop.digests)
    specs = [job.spec for job in found.missing]
    workshop.check_runs(specs)
    if not run_path(folder, BASE, 0).exists() and (line := workshop.check_references()):
        notes.append(line)
    sizes = [workshop.bytes_of(spec) for spec in specs]
    return found._replace(sizes=sizes, notes=[*found.notes, *notes, *workshop.notes]), workshop


def plan_from_base(recipe: Recipe, folder: Path, only: str | Sequence[str] | None = None) -> Plan | None:
    """Plan a study by the file of its base, without sizes; None without this file. Loads no model.

    Raises LensrlError as `run_study` does for a folder, a file or a name that do not fit the recipe.
    """
    check_place(recipe, folder)
    path = run_path(folder, BASE, 0)
    if not path.exists():
        return None
    with Run(path) as base:
        items = [*base.scores_by_item()[["benchmark", "item"]].itertuples(index=False, name=None)]
        return _plan(recipe, folder, only, base.n_layers, base.fingerprint, items, item_digests(base))


def _plan(
    recipe: Recipe,
    folder: Path,
    only: str | Sequence[str] | None,
    n_layers: int,
    fingerprint: str,
    items: Sequence[tuple[str, str]],
    digests: Mapping[str, str],
) -> Plan:
    """Plan a study whose base is known. Sets that rest on a profile are chosen now, and stay."""
    if any(layer_set.profile is not None for layer_set in recipe.sets.values()):
        from lensrl.train.choose import choose_sets  # here: pandas and SciPy take a second

        recipe = choose_sets(recipe, n_layers, items, made=_made_sets(recipe, folder))
    specs = named(plan(recipe, n_layers), [only] if isinstance(only, str) else only)
    jobs = [Job(recipe, spec, folder, fingerprint, digests) for spec in specs]
    missing = [job for job in jobs if not is_made(job)]
    return Plan(recipe, specs, missing, notes=kept_less(recipe, folder, [job.path for job in jobs]))


def kept_less(recipe: Recipe, folder: Path, paths: Sequence[Path]) -> list[str]:
    """Say in one line, if any, which files of `paths` are there and keep less of their models than the recipe asks for.

    They are no reason to refuse the recipe: scores do not depend on what is kept, and a study may keep some runs whole.
    A run that diverged has no weights to keep, and the base has no deltas.
    """
    asked, less = recipe.store.keep, dict[str, list[str]]()
    for path in (path for path in paths if path.exists()):
        with Run(path) as run:
            enough = KEPT.index(run.keep) >= KEPT.index(asked) or (run.name == BASE and asked == "deltas")
            if run.has_weights and not enough:
                less.setdefault(run.keep, []).append(path.stem)
    if not less:
        return []
    made = "; ".join(f"{keep!r}: {_listed(less[keep])}" for keep in KEPT if keep in less)
    count = sum(map(len, less.values()))
    verb = "is there and keeps" if count == 1 else "are there and keep"
    return [
        f"{count} of {len(paths)} runs {verb} less than store.keep = {asked!r} (made with {made}); to make one again, "
        f"move its file out of {folder} and type the same command"
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])


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


def check_place(recipe: Recipe, folder: Path) -> None:
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


def _made_sets(recipe: Recipe, folder: Path) -> dict[str, LayerSet]:
    """Return the sets that were chosen from a profile and have a run, as this run was made: set -> choice."""
    found = {}
    for name in (name for name, layer_set in recipe.sets.items() if layer_set.profile is not None):
        for path in sorted(folder.glob(f"{name}.seed-*.h5"))[:1]:
            with Run(path) as run:
                if run.layer_set is not None:
                    found[name] = run.layer_set
    return found


def open_workshop(recipe: Recipe, folder: Path) -> Workshop:
    """Open the workshop of a study. Raises LensrlError where its base.h5 came from another model or other items."""
    workshop = load_workshop()(recipe)
    base_path = run_path(folder, BASE, 0)
    if base_path.exists():
        with Run(base_path) as run:
            workshop.check_same(run)
    return workshop


def load_workshop() -> type[Workshop]:
    """Load torch, transformers, TRL and all else that a run needs, and return the class of workshops.

    A million objects are made meanwhile, and all stay. To look for garbage among them takes a seventh of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        from lensrl.train.workshop import Workshop
    finally:
        if was_on:
            gc.enable()
    return Workshop

"""The names of the files of a study, and the order of its runs in listings."""

from __future__ import annotations

from pathlib import Path

from lensrl.recipe.runs import BASE, FULL, run_layer, run_rate

RECIPE_FILE = "recipe.json"
PATCH_FOLDER = "patches"


def run_path(folder: Path, run: str, seed: int) -> Path:
    """Return the path of a run's file: `layer-3.seed-0.h5`, or `base.h5`, since the base has no training seed."""
    return folder / (f"{BASE}.h5" if run == BASE else f"{run}.seed-{seed}.h5")


def run_of(path: Path) -> tuple[str, int]:
    """Return the run and the seed in the name of a run's file: the inverse of `run_path`."""
    name, _, seed = path.name.removesuffix(".h5").partition(".seed-")
    return name, int(seed) if seed.isdecimal() else 0


def order(name: str, seed: int) -> tuple[object, ...]:
    """Return the sort key of a run: base, full RL, single layers by depth, sets; then the same at each other rate."""
    run, rate = run_rate(name) or (name, 0.0)
    layer = run_layer(run)
    return (rate, run != BASE, run != FULL, layer is None, layer or 0, run, seed)

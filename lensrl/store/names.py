"""The names of a study's files, and the order in which runs are listed."""

from __future__ import annotations

from pathlib import Path

from lensrl.recipe.runs import BASE, FULL, run_layer, run_rate

RECIPE_FILE = "recipe.json"
PATCH_FOLDER = "patches"


def run_path(folder: Path, run: str, seed: int) -> Path:
    """The file of a run: `base.h5` (the base has no training seed), `layer-3.seed-0.h5`."""
    return folder / (f"{BASE}.h5" if run == BASE else f"{run}.seed-{seed}.h5")


def run_of(path: Path) -> tuple[str, int]:
    """The run and seed that a file's name says: the inverse of `run_path`."""
    name, _, seed = path.name.removesuffix(".h5").partition(".seed-")
    return name, int(seed) if seed.isdecimal() else 0


def order(name: str, seed: int) -> tuple[object, ...]:
    """Sort key of runs: base, full RL, single layers from the bottom up, sets; then other learning rates by rate."""
    run, rate = run_rate(name) or (name, 0.0)
    layer = run_layer(run)
    return (rate, run != BASE, run != FULL, layer is None, layer or 0, run, seed)

"""A job: one run to make, and whether its file is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lensrl.errors import StoreError
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, RunSpec, set_run
from lensrl.store.names import run_path
from lensrl.store.run import Run


@dataclass(frozen=True)
class Job:
    """One run to make. It can be pickled, and holds everything that a worker needs.

    `recipe` has its sets chosen. `fingerprint` is the base model's: a worker that loads another base refuses the job.
    """

    recipe: Recipe
    spec: RunSpec
    folder: Path
    fingerprint: str

    @property
    def path(self) -> Path:
        """The run's file."""
        return run_path(self.folder, self.spec.name, self.spec.seed)


def is_made(job: Job) -> bool:
    """Whether the job's run is there.

    Raises StoreError for a damaged file, and for the file of another run or another base: it is not replaced, since
    its data may be rescued.
    """
    path, spec = job.path, job.spec
    if not path.exists():
        return False
    with Run(path) as run:
        if (run.name, run.seed) != (spec.name, spec.seed):
            raise StoreError(f"{path} holds the run {run.name} with seed {run.seed}; move it away and run again")
        if run.fingerprint != job.fingerprint:
            raise StoreError(f"{path} was made from another base model than {BASE}.h5; move it away and run again")
        if run.layer_set is None and spec.layers is not None and tuple(run.layers) != spec.layers:
            raise StoreError(f"{path} trained layers {run.layers}, not {spec.trained}; move it away and run again")
        before = spec if run.layer_set is None else set_run(run.name, run.layer_set, run.n_layers, run.seed)
        if before != spec:
            raise StoreError(f"{path} trained {before.trained}, not {spec.trained}; name the set differently")
    return True

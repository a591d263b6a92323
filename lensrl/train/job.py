"""A job: one run to make, and whether its file is there."""

from __future__ import annotations

from collections.abc import Mapping
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

    Raises StoreError for a damaged file, and for the file of another run, another base or another checkpoint: it is not
    replaced, since its data may be rescued.
    """
    path, spec = job.path, job.spec
    if not path.exists():
        return False
    with Run(path) as run:
        if (run.name, run.seed) != (spec.name, spec.seed):
            raise StoreError(f"{path} holds the run {run.name} with seed {run.seed}; move it away and run again")
        if run.fingerprint != job.fingerprint:
            raise StoreError(f"{path} was made from another base model than {BASE}.h5; move it away and run again")
        _check_origin(run, spec)
        if run.layer_set is None and spec.layers is not None and tuple(run.layers) != spec.layers:
            raise StoreError(f"{path} trained layers {run.layers}, not {spec.trained}; move it away and run again")
        before = spec if run.layer_set is None else set_run(run.name, run.layer_set, run.n_layers, run.seed)
        if before != spec:
            raise StoreError(f"{path} trained {before.trained}, not {spec.trained}; name the set differently")
    return True


def _check_origin(run: Run, spec: RunSpec) -> None:
    """Raises StoreError where a run was trained and the recipe names a checkpoint, or the other way round.

    Raises StoreError also where a run was taken from another checkpoint.
    """
    asked = None if spec.checkpoint is None else spec.checkpoint.origin
    kept = None if run.checkpoint is None else {key: run.checkpoint.get(key) for key in asked or run.checkpoint}
    if kept != asked:
        raise StoreError(
            f"{run.path} was {_made_from(kept)}, and the recipe asks for a run that was {_made_from(asked)}; move it "
            f"away and run again"
        )


def _made_from(origin: Mapping[str, object] | None) -> str:
    if origin is None:
        return "trained by lensrl"
    revision = f"@{origin['revision']}" if origin["revision"] is not None else ""
    steps = [*origin["snapshots"]] if isinstance(origin["snapshots"], dict) else []
    return f"taken from {origin['source']}{revision}" + (f" with snapshots {', '.join(steps)}" if steps else "")

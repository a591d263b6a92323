"""A job: one run to make, and whether its file is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lensrl.errors import StoreError
from lensrl.recipe import Recipe, parse_kept_recipe
from lensrl.recipe.runs import BASE, RunSpec, set_run
from lensrl.store.names import run_path
from lensrl.store.origin import check_items
from lensrl.store.run import Run
from lensrl.store.write import Scores


@dataclass(frozen=True)
class Job:
    """One run to make. It can be pickled, and holds everything that a worker needs.

    `recipe` has its sets chosen. `fingerprint` is the base model's, and `items` holds the digests of the study's items
    (`lensrl.tasks.digest`): a worker that loads another base or other items refuses the job.

    `scores` holds the scores of each task where they were taken before (`lensrl.train.parts`).
    """

    recipe: Recipe
    spec: RunSpec
    folder: Path
    fingerprint: str
    items: Mapping[str, str]
    scores: Sequence[Scores] | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The path of the run's file."""
        return run_path(self.folder, self.spec.name, self.spec.seed)


def is_made(job: Job) -> bool:
    """Return whether the job's run has its file.

    Raises StoreError for a damaged file, and for the file of another run, another base, another recipe or another
    checkpoint; LensrlError for a run that was made with other items. The file is not replaced: its data may be rescued.
    """
    path, spec = job.path, job.spec
    if not path.exists():
        return False
    with Run(path) as run:
        if (run.name, run.seed) != (spec.name, spec.seed):
            raise StoreError(f"{path} holds the run {run.name} with seed {run.seed}; move it away and run again")
        if run.fingerprint != job.fingerprint:
            raise StoreError(f"{path} was made from another base model than {BASE}.h5; move it away and run again")
        conflict = run_recipe(job).conflict(parse_kept_recipe(run.recipe, f"the recipe of {path}"))
        if conflict is not None:
            raise StoreError(
                f"{path} was made with another recipe ({conflict}); move it away and run again, or choose another "
                f"folder with --out"
            )
        check_items(run, job.items)
        _check_origin(run, spec)
        if run.layer_set is None and spec.layers is not None and tuple(run.layers) != spec.layers:
            raise StoreError(f"{path} trained layers {run.layers}, not {spec.trained}; move it away and run again")
        before = spec if run.layer_set is None else set_run(run.name, run.layer_set, run.n_layers, run.seed)
        if before != spec:
            raise StoreError(f"{path} trained {before.trained}, not {spec.trained}; name the set differently")
    return True


def _check_origin(run: Run, spec: RunSpec) -> None:
    """Raise StoreError where a run was trained and the recipe names a checkpoint, or the other way round.

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
    scores = origin.get("scores")
    with_ = [f"snapshots {', '.join(steps)}"] if steps else []
    with_ += [f"scores {', '.join(map(str, scores))}"] if isinstance(scores, list) else []
    return f"taken from {origin['source']}{revision}" + (f" with {' and '.join(with_)}" if with_ else "")


def run_recipe(job: Job) -> Recipe:
    """Return the recipe that a run is made with: the study's, at the learning rate of the run.

    A checkpoint with layers and a name of its own is the run of a set, so its recipe has this set.
    """
    taken = job.recipe.checkpoints.get(job.spec.name)
    if taken is not None and taken.layers is not None:
        return job.recipe.model_copy(update={"sets": job.recipe.sets | {job.spec.name: taken.layer_set}})
    if job.spec.learning_rate is None:
        return job.recipe
    rl = job.recipe.rl.model_copy(update={"learning_rate": job.spec.learning_rate})
    return job.recipe.model_copy(update={"rl": rl, "learning_rates": []})

"""A study on a Slurm cluster: a script whose array has one task for each missing run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lensrl.errors import LensrlError, reason
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, RunSpec, plan
from lensrl.store.names import run_path
from lensrl.store.run import Run
from lensrl.train.plan import named


def run_paths(recipe: Recipe, folder: Path, only: Sequence[str] | None = None) -> list[Path]:
    """Return the path of each run's file, there or not. Its stem is what `--only` takes. No weights are loaded.

    Raises LensrlError as `plan` does, and for a name in `only` that is no run of the recipe.
    """
    # Which layers a profile chooses is decided when a run is made. Its name is known now.
    ranked = {name for name, layer_set in recipe.sets.items() if layer_set.profile is not None}
    known = {name: layer_set for name, layer_set in recipe.sets.items() if name not in ranked}
    specs = plan(recipe.model_copy(update={"sets": known}), _count_layers(recipe, folder))
    specs += [RunSpec(name, None, seed) for name in recipe.sets if name in ranked for seed in recipe.seeds]
    return [run_path(folder, spec.name, spec.seed) for spec in named(specs, only)]


def slurm_script(
    command: Sequence[str], folder: Path, runs: Sequence[str], *, limit: int | None = None, options: Sequence[str] = ()
) -> str:
    """Return a script for `sbatch`: an array of one task a run, at most `limit` at once.

    `command` makes the study; a task adds `--only RUN` to it. `options` are options of sbatch, as `--gpus=1` or the two
    words `--time`, `8:00:00`. They come last, and win.
    """
    lines: list[str] = []
    for word in options:
        if word.startswith("-") or not lines:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    log = folder.absolute() / "slurm-%A_%a.log"
    at_once = "" if limit is None else f"%{limit}"
    return "\n".join([
        "#!/bin/bash",
        f"#SBATCH --job-name={shlex.quote(f'lensrl-{folder.absolute().name}')}",
        f"#SBATCH --array=0-{len(runs) - 1}{at_once}",
        f"#SBATCH --output={shlex.quote(str(log))}",
        *(f"#SBATCH {line}" for line in lines),
        "",
        "# One task a run. A run that another task makes is passed over; the same script makes what is missing.",
        f"runs=({' '.join(map(shlex.quote, runs))})",
        f'exec {shlex.join(command)} --only "${{runs[$SLURM_ARRAY_TASK_ID]}}"',
        "",
    ])  # fmt: skip


def _count_layers(recipe: Recipe, folder: Path) -> int:
    """Return the number of the model's layers: from base.h5, else from the model's configuration."""
    base = run_path(folder, BASE, 0)
    if base.exists():
        with Run(base) as run:
            return run.n_layers
    from transformers import AutoConfig

    from lensrl.models.base import find_source, quiet_hub
    from lensrl.models.folder import not_found
    from lensrl.models.skeleton import build_skeleton

    quiet_hub()
    source = find_source(recipe.model)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if not Path(source).is_dir():
            raise not_found(f"model {recipe.model!r}", recipe.model, error) from None
        raise LensrlError(f"{recipe.model} has no config.json that can be read ({reason(error)})") from None
    return build_skeleton(recipe.model, config).blocks.n_layers

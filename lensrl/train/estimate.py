"""What a study will take, before it is made: runs, disk, and time from a few measured steps.

Two steps of full RL and two of the last single layer are trained, and nothing is kept. The backward pass of a layer
ends at this layer, so the seconds of a step grow from the last layer to the first; in between they are interpolated:

    t(l) = t(last) + (t(full RL) - t(last)) (last - l) / last

Scoring is estimated as if every completion were as long as it may be, from a few sampled tokens. Rewards that run
programs, and loading, are not in the estimate of scoring.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lensrl.errors import LensrlError
from lensrl.models.evaluate import seconds_to_sample
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, FULL, RunSpec, run_layer
from lensrl.tasks import Texts
from lensrl.train.plan import plan_study
from lensrl.train.training import train
from lensrl.train.workshop import Workshop

MEASURED = 2  # steps: the first one loads kernels, the second one counts


@dataclass(frozen=True)
class Estimate:
    """What the missing runs of a study will take, one after another on this machine."""

    runs: list[RunSpec]  # those to make
    done: int  # runs that are there
    bytes: int  # of the files, before compression
    free: int  # bytes of the disk
    scoring: float  # seconds a run
    step: dict[str, float]  # run -> measured seconds of a step: full RL, and the last layer
    steps: int  # of a run
    seconds: float  # all runs, one after another
    memory: float  # bytes: the peak in the steps that were measured
    notes: Sequence[str] = ()  # on runs that are there, the base, the task and the sets


def estimate_study(recipe: Recipe, folder: Path, only: list[str] | None = None) -> Estimate:
    """Plan a study, measure a few steps, and return what its missing runs will take. Writes nothing.

    Raises LensrlError as `run_study` does before any training.
    """
    plan, workshop = plan_study(recipe, folder, only)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, specs = shutil.disk_usage(place).free, [job.spec for job in plan.missing]
    if workshop is None:
        return Estimate([], len(plan.specs), 0, free, 0.0, {}, 0, 0.0, 0.0, plan.notes)
    size = sum(one.file for one in plan.sizes)
    scoring = _scoring(workshop)
    trained = [spec for spec in specs if spec.name != BASE and spec.checkpoint is None]
    steps, measured, memory = 0, dict[str, float](), 0.0
    if trained:
        steps = recipe.rl.steps_on(len(workshop.task.items("train")))
        last = max((spec for spec in trained if run_layer(spec.name) is not None), key=_layer, default=None)
        whole = next((spec for spec in trained if spec.name == FULL), trained[0])
        for spec in dict.fromkeys(spec for spec in (whole, last) if spec is not None):
            measured[spec.name], peak = _measure(workshop, plan.recipe, spec)
            memory = max(memory, peak)
    seconds = len(specs) * scoring + sum(steps * _step(spec, measured, workshop) for spec in trained)
    done = len(plan.specs) - len(specs)
    return Estimate(specs, done, size, free, scoring, measured, steps, seconds, memory, plan.notes)


def _layer(spec: RunSpec) -> int:
    return run_layer(spec.name) or 0


def _scoring(workshop: Workshop) -> float:
    """Seconds to score a run, at most; 0 where nothing is sampled."""
    if isinstance(workshop.task, Texts):
        return 0.0
    model, recipe = workshop.base.reading(device=workshop.device), workshop.recipe
    parts = [workshop.items, *(items for _, items in workshop.also)]
    return sum(seconds_to_sample(model, workshop.base.prompts, items, recipe) for items in parts)


def _measure(workshop: Workshop, recipe: Recipe, spec: RunSpec) -> tuple[float, float]:
    """Train two steps of a run. Returns the seconds of the second one, and the peak of memory in bytes."""
    if isinstance(workshop.task, Texts):
        raise LensrlError("a study of texts trains nothing")
    rl = recipe.rl.model_copy(update={"steps": MEASURED, "epochs": None, "warmup_steps": 0})
    short = recipe.model_copy(update={"rl": rl, "report_to": []})
    curve = train(
        workshop.base, workshop.task, short, layers=spec.layers, component=spec.component, outside=spec.outside,
        boost=spec.boost, factor=spec.factor, lora=spec.lora, seed=spec.seed, device=workshop.device,
    ).curve  # fmt: skip
    return curve.step_time[-1], max(curve.peak_memory)


def _step(spec: RunSpec, measured: dict[str, float], workshop: Workshop) -> float:
    """Seconds of a step of a run: that of full RL for sets, and interpolated for single layers."""
    slowest, fastest = max(measured.values()), min(measured.values())
    layer, last = run_layer(spec.name.partition("@")[0]), workshop.base.blocks.n_layers - 1
    if layer is None or last == 0:
        return slowest
    return fastest + (slowest - fastest) * (last - layer) / last

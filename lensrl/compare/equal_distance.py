"""C_l at an equal distance from the base: a layer alone beside full RL where full RL had come as far as the layer.

In the same number of steps, full RL goes farther from the base than one layer does, and C_l divides by the gain at the
end of a longer way. Let x_r be the distance of run r from the base, S_r(x) its score where it first reaches the
distance x, and

    x = min(largest x_l, largest x_full)

    C_l(x) = (S_l(x) - S_base) / (S_full(x) - S_base)

The distance is KL(run || base) on held-out items, in nats a completion (`lensrl.compare.kl`), or the Frobenius norm of
all deltas. It is measured at the snapshots and at the end of training; `lensrl.measures.equal_distance` interpolates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float64

from lensrl.compare.kl import divergences
from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.graft import check_has_weights, run_weights
from lensrl.compare.progress import with_bar
from lensrl.errors import LensrlError, did_you_mean
from lensrl.measures.contribution import gain_ratios
from lensrl.measures.equal_distance import scores_at
from lensrl.models.base import load_base, pick_device
from lensrl.models.evaluate import sampled_scores
from lensrl.recipe.runs import BASE, FULL, run_layer
from lensrl.store.origin import check_items
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.tasks import AgentTask, Texts, evaluation_items, load_task

Distance = Literal["kl", "norm"]
EQUAL_COLUMNS = [
    "layer", "distance", "contribution", "low", "high", "gain", "full_gain", "full_distance", "at_end", "status",
    "reason",
]  # fmt: skip


class Path(NamedTuple):
    """A run along its training, from the base on: its distance from the base, and the scores of the items."""

    distance: Float64[np.ndarray, " point"]
    scores: Float64[np.ndarray, "point item"]


@with_bar("at equal distance")
def contributions_at_equal(
    study: Study, by: Distance = "kl", *, seed: int | None = None, on_progress: OnProgress | None = None
) -> pd.DataFrame:
    """Compare each single layer with full RL at an equal distance from the base: one row a layer.

    Columns: layer; distance, the x above; contribution, C_l(x), with its 95 % interval over items, low and high (the
    error of the distance is not in it); gain and full_gain, S_l(x) - S_base and S_full(x) - S_base; full_distance, the
    largest distance of full RL; at_end, C_l as `Study.contributions` has it; status and reason, as there.

    Each snapshot is sampled and scored as the study's runs were. `seed` is one training seed, by default the lowest of
    full RL. Raises LensrlError for a study without snapshots (`store.snapshots` of the recipe), without single
    layers or full RL, for KL in a task in turns, and when the base model or the items are not the study's.
    """
    if by not in get_args(Distance):
        raise LensrlError(f"there is no distance {by!r}{did_you_mean(by, get_args(Distance))}")
    study.runs.check_scored()
    seed = study.runs.shared_seed(FULL, scored=True) if seed is None else seed
    layers = [run for run in study.runs.values() if run_layer(run.name) is not None and run.seed == seed]
    runs = [study.runs.find(FULL, seed), *layers]
    if len(runs) < 2:
        raise LensrlError(f"{study.name} has no single layer with seed {seed} to compare with full RL")
    paths = _Paths(study, by).measure(runs, on_progress)
    benchmark = study[BASE].scores_by_item()["benchmark"].tolist()
    full = paths.pop(FULL)
    at_end = {row["layer"]: row["contribution"] for row in study.contributions(seed).to_dict("records")}
    rows = []
    for name, path in sorted(paths.items(), key=lambda one: run_layer(one[0]) or 0):
        x = float(min(path.distance.max(), full.distance.max()))
        before, after, part = (scores[None] for scores in (full.scores[0], scores_at(*full, x), scores_at(*path, x)))
        found = gain_ratios(before, after, {name: part}, benchmark, gain="S_full - S_base at this distance")[name]
        status, reason, ratio = found.status, found.reason, tuple(found.ratio)
        if status == "defined" and found.denominator.value < 0:
            lost = -found.denominator.value
            status, ratio = "undefined", (np.nan,) * 3
            reason = f"full RL lowered the score by {lost:.3g} on its way: there is no gain to share"
        gains = found.numerator.value, found.denominator.value
        layer = run_layer(name)
        rows.append((layer, x, *ratio, *gains, float(full.distance.max()), at_end[layer], status, reason))
    return pd.DataFrame(rows, columns=EQUAL_COLUMNS).astype({"layer": "Int64"})


class _Paths:
    """Measures runs along their training. Holds the base and one other model."""

    def __init__(self, study: Study, by: Distance) -> None:
        self.recipe = study.recipe
        self.task = load_task(self.recipe)
        if isinstance(self.task, Texts) or (by == "kl" and isinstance(self.task, AgentTask)):
            raise LensrlError(f"KL is measured on completions, and task {self.recipe.task.name!r} has none; try norm")
        self.base = load_base(self.recipe.model, self.recipe.prompt)
        self.items = evaluation_items(self.task, self.recipe)
        self.first = study[BASE]
        check_items(self.first, self.base.prompts.digests("test", self.items))
        self.device = pick_device()
        self.before = self.base.reading(device=self.device).eval() if by == "kl" else None

    def measure(self, runs: list[Run], on_progress: OnProgress | None) -> dict[str, Path]:
        """Return the path of every run, by name."""
        points = {run.name: _points(run) for run in runs}
        found, done, total = {}, 0, sum(map(len, points.values()))
        own = self.first.scores_by_item()["score"].to_numpy()
        for run in runs:
            distances, scores = [0.0], [own]
            for step in points[run.name]:
                distance, score = self._point(run, step)
                distances.append(distance)
                scores.append(score)
                done += 1
                if on_progress is not None:
                    on_progress("points", done, total)
            found[run.name] = Path(np.array(distances), np.stack(scores).astype(np.float64))
        return found

    def _point(self, run: Run, step: int | None) -> tuple[float, np.ndarray]:
        """Return the distance and the scores after the step of a snapshot; None: at the end."""
        changes = run.deltas if step is None else run.snapshots[step]
        if self.before is None and step is None:  # both are in the file
            return _norm(changes), run.scores_by_item()["score"].to_numpy()
        model = self.base.reading(run_weights(run, self.base, step), device=self.device).eval()
        if step is None:
            score = run.scores_by_item()["score"].to_numpy()
        else:
            assert not isinstance(self.task, Texts)
            score = sampled_scores(model, self.base.prompts, self.task, self.items, self.recipe)
        if self.before is None:
            return _norm(changes), score
        evaluation = self.recipe.evaluation
        each = divergences(
            model, self.before, self.base, self.items,
            max_tokens={name: self.recipe.evaluation_tokens(name) for name in {i.benchmark for i in self.items}},
            seed=evaluation.seed, generation=self.recipe.generation, batch=evaluation.batch,
        )  # fmt: skip
        return float(np.mean([one.kl for one in each])), score


def _norm(changes: Mapping[int | str, Any]) -> float:
    """Return the Frobenius norm of the deltas of all parts together."""
    return float(np.linalg.norm([changes[part].frobenius for part in changes]))


def _points(run: Run) -> list[int | None]:
    """Return the steps of a run's snapshots, in order, and None for its end.

    Raises LensrlError for a run without snapshots, or without weights or scores.
    """
    check_has_weights(run)
    last = int(run.training()["step"].max()) if run.has_training else None
    before_end = [step for step in sorted(run.snapshots) if step != last]
    if not before_end or not run.has_scores:
        raise LensrlError(
            f"{run.path} has no scores, or no snapshots before its end: put snapshots = [0.1, 0.25, 0.5] under [store] "
            f"in the recipe, and run it into a folder of its own with --out"
        )
    return [*before_end, None]

"""The workshop: makes one run after another from one base model. Train, check, score, take activations, write.

A run from a checkpoint is made in the same way, with its weights read from the checkpoint in place of training.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from lensrl.errors import LensrlError
from lensrl.models.bridge import capture
from lensrl.models.evaluate import evaluate
from lensrl.recipe import Checkpoint
from lensrl.recipe.runs import BASE
from lensrl.store.file.atomic import new_file
from lensrl.store.file.claim import duration, tell
from lensrl.store.file.training import kept_with_checkpoint, training_folder
from lensrl.store.write import Scores, joined, stacked, write_run
from lensrl.tasks import Texts
from lensrl.train import ranks
from lensrl.train.adopt import Opened, open_checkpoint, record_of
from lensrl.train.checks import is_finite
from lensrl.train.curve import TrainingCurve
from lensrl.train.job import Job, run_recipe
from lensrl.train.materials import Materials, probe_items
from lensrl.train.parts import Part
from lensrl.train.resume import Checkpoints
from lensrl.train.snapshots import KeptWeights, Snapshots
from lensrl.train.trackers import followed
from lensrl.train.trainer import OnStep
from lensrl.train.training import Training, train
from lensrl.train.watch import Watcher


class Workshop(Materials):
    """Makes single runs: train, measure, write. It holds the materials that all runs of a study share."""

    def make(self, job: Job, watcher: Watcher) -> None:
        """Make one run and write its file.

        Raises Taken when another process makes the run, or has made it. Nothing is written when a frozen parameter has
        moved, nor for a base or for items that are not the job's.
        """
        self._check(job)
        with new_file(job.path, replace=False) as partial, kept_with_checkpoint(training_folder(job.path)):
            watcher.started(job.spec)
            tell(job.path, "loading")
            if job.spec.checkpoint is not None:
                self._adopt(job, partial, job.spec.checkpoint, watcher)
            else:
                with ranks.together(job):
                    if job.spec.name == BASE:
                        self.keep(job, partial, None, watcher)
                    else:
                        self._train(job, partial, watcher)
        shutil.rmtree(training_folder(job.path), ignore_errors=True)  # the file is complete

    def take_part(self, job: Job) -> None:
        """Train and score a run with rank 0, which makes its file. This is the part of every other rank."""
        self._check(job)
        if job.spec.name == BASE:
            self._scores(job, self.base.reading(device=self.device))
            return
        recipe = run_recipe(job)
        snapshots = Snapshots(None, self._snapshot_steps(recipe)) if recipe.engine.shard else None
        training = self._trained(job, snapshots=snapshots)
        if training.status != "diverged":
            self._scores(job, self.base.reading(training.weights, device=self.device))

    def _check(self, job: Job) -> None:
        """Raise LensrlError for a job that asks for another base, or for other items, than are here."""
        if job.fingerprint != self.base.fingerprint:
            raise LensrlError(
                f"{job.path} is to be made from another base model (fingerprint {job.fingerprint[:12]}) than "
                f"{self.recipe.model} is here ({self.base.fingerprint[:12]})"
            )
        for split, digest in job.items.items():
            if self.digests.get(split, digest) != digest:
                raise LensrlError(f"{job.path} is to be made with other {split} items than the recipe gives here")

    def keep(
        self,
        job: Job,
        path: Path,
        weights: Mapping[str, torch.Tensor] | None,
        watcher: Watcher,
        *,
        status: str = "completed",
        reason: str = "",
        curve: TrainingCurve | None = None,
        snapshots: Mapping[int, Mapping[str, np.ndarray]] | None = None,
        snapshot_steps: Sequence[int] = (),
        checkpoint: Mapping[str, object] | None = None,
        resumed: Sequence[int] = (),
    ) -> None:
        """Measure a model and write its run at `path`, the partial file of `new_file`.

        `weights` maps the trained parameters, or all, to their tensors on any device; it is None for the base itself.
        The scores, the log-probabilities and the activations are taken here, by the same code for every run of a study.
        `snapshots` maps a step to the weights after it; `snapshot_steps` also names the last step, where it counts.
        `checkpoint` is the record of the checkpoint that the weights come from; None where they were trained here.
        `resumed` are the steps from which training has gone on.
        """
        watcher.scoring(job.spec)
        tell(job.path, "scoring")
        base = self.base
        # Scores before activations: TransformerLens changes the attention of its model in place.
        model = base.reading(weights, device=self.device)
        scores = self._scores(job, model)
        keep = self.recipe.store.keep
        activations = capture(model, base.prompts, self.probed, base.blocks.n_layers) if keep == "all" else None
        write_run(
            path,
            self.conditions.header(
                job, status=status, reason=reason, snapshots=snapshot_steps, checkpoint=checkpoint, resumed=resumed,
                references=self._references() if job.spec.name == BASE else None,
            ),
            self.parameters, self.before,
            after=None if weights is None else KeptWeights({n: w.cpu for n, w in weights.items()}, self.before),
            snapshots=snapshots,
            training=None if curve is None else curve.arrays(),
            training_completions=() if curve is None else curve.kept(), scores=scores, probe=self.probe,
            activations=activations, norms_alone=keep == "norms",
        )  # fmt: skip

    def score(self, job: Job, part: Part) -> list[Scores | None]:
        """Score a part of the items of each task, of a run that is not trained. None: the part has none of them."""
        self._check(job)
        model = self.base.reading(device=self.device) if job.spec.checkpoint is None else self._opened(job)[-1]
        found: list[Scores | None] = []
        first = 0
        for task, items in [(self.task, self.items), *self.also]:
            mine = part.items(len(items), job.recipe.evaluation.batch)
            asked = items[mine.start : mine.stop]
            place = first + mine.start
            found.append(evaluate(model, self.base.prompts, task, asked, job.recipe, first=place) if asked else None)
            first += len(items)
        return found

    def _scores(self, job: Job, model: PreTrainedModel) -> Scores:
        """Score a model on the held-out items, or take the scores that were made elsewhere."""
        if job.scores is not None:
            return joined(job.scores[0], job.scores[1:])
        if self.harness is None:
            found, first = [], 0
            for task, items in [(self.task, self.items), *self.also]:
                # Each rank scores a range of the items. A checkpoint is scored by rank 0 alone.
                mine = ranks.share(len(items)) if job.spec.checkpoint is None else range(len(items))
                asked = items[mine.start : mine.stop]
                scored = [evaluate(model, self.base.prompts, task, asked, job.recipe, first=first + mine.start)]
                found.append(scored[0] if len(mine) == len(items) else stacked(ranks.gathered(scored)))
                first += len(items)
            return joined(found[0], found[1:])
        made = job.spec.checkpoint
        found = self.harness.base if made is None else self.harness.read(made.scores)
        return Scores(item=found.item, benchmark=found.benchmark, score=found.score[:, None].astype(np.float32))

    def _opened(self, job: Job) -> tuple[Opened, dict[int, Opened], dict[str, torch.Tensor], PreTrainedModel]:
        """Open a run's checkpoint: the model, its snapshots, the weights as tensors, and a model that has them."""
        opened, snapshots = open_checkpoint(job.spec, self.base)
        weights = {name: torch.from_numpy(values) for name, values in opened.items()}
        model = self.base.reading(weights, device=self.device)
        if not is_finite(model, self.base, probe_items(self.items, job.recipe.store.probe_items)):
            raise LensrlError(f"checkpoint {opened.place.spelled} has logits that are not finite on the held-out items")
        return opened, snapshots, weights, model

    def _adopt(self, job: Job, path: Path, checkpoint: Checkpoint, watcher: Watcher) -> None:
        """Take a run from its checkpoint, and write its file at `path`."""
        opened, snapshots, weights = self._opened(job)[:3]
        self.keep(
            job, path, weights, watcher, snapshots=snapshots, snapshot_steps=sorted(checkpoint.snapshots),
            checkpoint=record_of(checkpoint, opened, self.base),
        )  # fmt: skip

    def _train(self, job: Job, path: Path, watcher: Watcher) -> None:
        """Train a run, and write its file at `path`."""
        assert not isinstance(self.task, Texts)  # `plan` has no run to train without training items
        spec, recipe = job.spec, run_recipe(job)
        steps = recipe.rl.steps_on(len(self.task.items("train")))

        def on_step(curve: TrainingCurve) -> None:
            show(curve)
            watcher.stepped(spec, curve)
            left = float(np.median(curve.step_time)) * (steps - len(curve))
            tell(job.path, f"step {len(curve)}/{steps}, reward {curve.reward_mean[-1]:.3f}, {duration(left)} left")

        folder = training_folder(job.path)
        snapshots = Snapshots(folder, self._snapshot_steps(recipe))
        checkpoints = Checkpoints(
            folder, self.conditions.origin(job), every=recipe.rl.checkpoint_every,
            note=lambda line: watcher.noted(f"{spec.name} seed {spec.seed}: {line}"),
        )  # fmt: skip
        if ranks.world() > 1:  # no checkpoints are kept there, and none is gone on from
            checkpoints = None
            shutil.rmtree(folder, ignore_errors=True)
        config = recipe.measured() | {"run": spec.name, "seed": spec.seed}
        with followed(self.recipe.report_to, job.folder.absolute(), job.path.stem, folder, config) as show:
            training = self._trained(job, on_step, snapshots=snapshots, checkpoints=checkpoints)
        status, reason, curve = training.status, training.reason, training.curve
        if status == "diverged":  # its weights are not numbers: the curve is all there is to keep
            header = self.conditions.header(job, status=status, reason=reason, resumed=training.resumed)
            write_run(
                path, header, self.parameters, self.before, training=curve.arrays(), training_completions=curve.kept()
            )
            return
        kept = snapshots.weights(self.before)
        resumed = training.resumed
        ended = {len(curve)} & {*recipe.snapshot_steps(steps)}
        self.keep(
            job, path, training.weights, watcher, status=status, reason=reason, curve=curve, snapshots=kept,
            snapshot_steps=sorted({*kept, *ended}), resumed=resumed,
        )  # fmt: skip

    def _trained(
        self,
        job: Job,
        on_step: OnStep | None = None,
        *,
        snapshots: Snapshots | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> Training:
        """Train a run."""
        assert not isinstance(self.task, Texts)
        spec = job.spec
        return train(
            self.base, self.task, run_recipe(job), layers=spec.layers, component=spec.component, outside=spec.outside,
            boost=spec.boost, factor=spec.factor, lora=spec.lora, seed=spec.seed, device=self.device,
            on_step=on_step, snapshots=snapshots, checkpoints=checkpoints,
        )  # fmt: skip

    def _references(self) -> dict[str, object] | None:
        if not self._scored_items:
            return None
        failed = [f"{item.benchmark}/{item.id}" for item in self.failed_references]
        return {"judged": len(self._scored_items), "failed": failed}

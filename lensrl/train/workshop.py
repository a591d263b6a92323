"""The workshop: makes one run after another from one base model. Train, check, score, take activations, write.

A run from a checkpoint is made in the same way, with its weights read from the checkpoint in place of training.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from lensrl.errors import LensrlError
from lensrl.models.base import Base, load_base, pick_device
from lensrl.models.bridge import capture, probe_set
from lensrl.models.evaluate import evaluate
from lensrl.models.generation import pad_id
from lensrl.models.histories import drops_ended
from lensrl.models.lora import check_peft, linear_maps, lora_size
from lensrl.models.sampler import CARRIED
from lensrl.recipe import Checkpoint, HarnessTask, Recipe
from lensrl.recipe.runs import BASE, RunSpec, set_run, trains
from lensrl.recipe.task_tables import has_training
from lensrl.store.file.atomic import new_file
from lensrl.store.file.claim import duration, tell
from lensrl.store.file.deltas import Parameter, frobenius
from lensrl.store.file.hdf5 import compression_plugin
from lensrl.store.file.training import kept_with_checkpoint, training_folder
from lensrl.store.origin import check_base, check_items
from lensrl.store.run import Run
from lensrl.store.write import Scores, joined, stacked, write_run
from lensrl.tasks import AgentTask, Item, Texts, check_benchmarks, evaluation_items, load_also, load_task
from lensrl.tasks.gold import failed_references
from lensrl.tasks.harness import Harness
from lensrl.train import ranks
from lensrl.train.adopt import open_checkpoint, record_of
from lensrl.train.algorithms import check_algorithm
from lensrl.train.checks import is_finite
from lensrl.train.conditions import Conditions
from lensrl.train.curve import TrainingCurve
from lensrl.train.disk import RunBytes, run_bytes
from lensrl.train.job import Job, run_recipe
from lensrl.train.preflight import (
    check_checkpointing,
    check_enough,
    check_fits,
    check_frozen_dtype,
    check_outside,
    check_references,
    check_several,
    head_is_tied,
)
from lensrl.train.resume import Checkpoints
from lensrl.train.snapshots import Snapshots
from lensrl.train.trackers import check_trackers, followed
from lensrl.train.trainer import OnStep, Training, train
from lensrl.train.watch import Watcher


class Workshop:
    """Makes single runs: train, measure, write. It holds the base model, the task and the held-out items."""

    def __init__(self, recipe: Recipe) -> None:
        if recipe.store.compression != "none":
            compression_plugin()  # missed now, not after an hour of training
        check_trackers(recipe.report_to)
        self.recipe = recipe  # without its sets chosen: a job has these
        self.task = load_task(recipe)
        self.items = evaluation_items(self.task, recipe)
        self.also = [(task, evaluation_items(task, recipe)) for task in load_also(recipe)]
        also_items = [item for _, items in self.also for item in items]
        check_benchmarks([self.items, *(items for _, items in self.also)], recipe)
        # Texts are there to be probed, all of them. Of a task's items a few are enough.
        self.probed = self.items
        if not isinstance(self.task, Texts):
            self.probed = probe_items(self.items, recipe.store.probe_items)
        # Scores that were made elsewhere are paired now, before any model is loaded.
        self.harness = Harness(recipe.task) if isinstance(recipe.task, HarnessTask) else None
        if not isinstance(self.task, Texts):
            check_several([*self.items, *also_items])
        if self.harness is not None:
            for checkpoint in (c for run in recipe.checkpoints.values() for c in run.seeds.values()):
                self.harness.read(checkpoint.scores)
        self.base = load_base(recipe.model, recipe.prompt)
        self.digests = self.base.prompts.digests("test", self.items)
        if also_items:
            self.digests |= self.base.prompts.digests("also", also_items)
        if has_training(recipe.task):
            self.digests |= self.base.prompts.digests("train", self.task.items("train"))
        if self.harness is not None:
            self.digests["scored"] = self.harness.base.digest
        # A study of checkpoints alone needs no settings of rl.
        if trains(recipe, self.base.blocks.n_layers) and not isinstance(self.task, Texts):
            check_algorithm(recipe, self.task)
            check_enough(self.task, recipe)
            check_checkpointing(self.base, recipe)
            check_frozen_dtype(self.base, recipe)
        check_fits(self.base, self.task, [*self.items, *also_items], recipe)
        self.device = pick_device()
        sampled = not isinstance(self.task, Texts)
        self.conditions = Conditions(recipe, self.base, self.digests, self.device, samples=sampled)
        self.parameters = parameter_table(self.base)
        self.before = {name: tensor.numpy() for name, tensor in self.base.weights.items()}
        self.probe = probe_set(self.base.prompts, self.probed)

    @property
    def notes(self) -> list[str]:
        """What loading changed about the base's folder, and which texts are left out, in one line each."""
        notes = [f"{self.recipe.model}: {line}" for line in self.base.notes]
        samples = not isinstance(self.task, Texts) and self.recipe.generation == "pieces"
        if samples and not drops_ended(self.base.model, pad_id(self.base.tokenizer)):
            notes.append(f"{self.recipe.model}: {CARRIED}")
        notes += self._sizes_of_lora()
        both = [name for name, one in self.recipe.sets.items() if "embed" in one.layers_and_outside[1]]
        if both and head_is_tied(self.base):
            notes.append(f"{self.recipe.model}: its lm_head is its embed, so sets.{both[0]} trains both")
        given = len(self.task.items("test"))
        if isinstance(self.task, Texts) and given > len(self.items):
            notes.append(f"the first {len(self.items)} of {given} texts are used (evaluation.items)")
        return notes

    def _sizes_of_lora(self) -> list[str]:
        """Say how many parameters each LoRA set trains, beside one layer, and which rank comes nearest to a layer."""
        model, blocks = self.base.model, self.base.blocks
        layer = sum(p.size for p in self.parameters if p.part == "0")
        lines = []
        for spec in (set_run(n, s, blocks.n_layers) for n, s in self.recipe.sets.items() if s.lora and not s.ranked):
            assert spec.lora is not None
            size = lora_size(model, blocks, spec.layers or (), spec.lora)
            nearest = max(1, round(layer * spec.lora.rank / size))
            lines.append(
                f"sets.{spec.name}: {spec.trained} trains {size:,} parameters, layer 0 has {layer:,}; rank {nearest} "
                f"comes nearest to it"
            )
        return lines

    @cached_property
    def failed_references(self) -> list[Item]:
        """The held-out items whose reference fails its own judge, those of further tasks included."""
        tasks = [(self.task, self.items), *self.also]
        return [item for task, items in tasks if not isinstance(task, Texts) for item in failed_references(task, items)]

    def check_references(self) -> str:
        """Return a line on references that fail their own judge; empty without any. Raises LensrlError for many."""
        return check_references(self.failed_references, len(self._scored_items), self.recipe)

    @property
    def _scored_items(self) -> list[Item]:
        return (
            [] if isinstance(self.task, Texts) else [*self.items, *(item for _, items in self.also for item in items)]
        )

    def check_runs(self, specs: Sequence[RunSpec]) -> None:
        """Raise LensrlError for a run that would train nothing, and for a checkpoint that cannot be its run."""
        in_run = self.base.blocks.trains
        for spec in specs:
            check_outside(spec, self.base)
            if spec.layers and not any(in_run(name, spec.layers, spec.component) for name in self.before):
                raise LensrlError(f"sets.{spec.name}: {self.recipe.model} has no {spec.trained}: its blocks have none")
        for spec in specs:
            if spec.lora is not None:
                check_peft()
                linear_maps(self.base.model, self.base.blocks, spec.layers or (), spec.lora)
            if spec.checkpoint is not None:
                open_checkpoint(spec, self.base)

    def bytes_of(self, spec: RunSpec) -> RunBytes:
        """Return the bytes that a run will take on the disk, at most: compression makes a file smaller."""
        in_run, keep = self.base.blocks.trains, self.recipe.store.keep
        tokens = len(self.probe.token_id) if keep == "all" else 0
        kept = keep != "norms" and spec.name != BASE
        trained = [p for p in self.parameters if in_run(p.name, spec.layers, spec.component, spec.outside)]
        sizes = [p.size for p in trained if kept]
        if spec.checkpoint is not None:
            snapshots = max(0, len(spec.checkpoint.snapshots) - 1)
        elif spec.name == BASE or isinstance(self.task, Texts):
            snapshots = 0
        else:
            snapshots = len(self._snapshot_steps(self.recipe))
        return run_bytes(
            sum(sizes),
            arrays=len(sizes),
            layers=self.base.blocks.n_layers,
            width=self.base.model.config.get_text_config().hidden_size,
            tokens=tokens,
            sampled=self._sampled_tokens(),
            snapshots=snapshots,
        )

    def _sampled_tokens(self) -> int:
        """The tokens of all completions of scoring, as if each were as long as it may be."""
        if isinstance(self.task, Texts):
            return 0
        return sum(
            (task.max_turns if isinstance(task, AgentTask) else 1)
            * self.recipe.evaluation.of(item.benchmark).samples
            * self.recipe.evaluation_tokens(item.benchmark)
            for task, items in [(self.task, self.items), *self.also]
            for item in items
        )

    def check_same(self, run: Run) -> None:
        """Raise LensrlError when `run` came from another base model or from other items."""
        check_base(run, self.base.name, self.base.fingerprint)
        check_items(run, self.digests)

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
            self._scores(job, self.base.fresh(device=self.device))
            return
        recipe = run_recipe(job)
        snapshots = Snapshots(None, self._snapshot_steps(recipe)) if recipe.engine.shard else None
        training = self._trained(job, snapshots=snapshots)
        if training.status != "diverged":
            self._scores(job, self.base.fresh(_weights(training), device=self.device))

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

        `weights` maps every parameter to its tensor, wherever it was trained; None for the base itself. The scores,
        the log-probabilities and the activations are taken here, by the same code for every run of a study.
        `snapshots` maps a step to the weights after it; `snapshot_steps` also names the last step, where it counts.
        `checkpoint` is the record of the checkpoint that the weights come from; None where they were trained here.
        `resumed` are the steps from which training has gone on.
        """
        watcher.scoring(job.spec)
        tell(job.path, "scoring")
        base = self.base
        # Scores before activations: TransformerLens changes the attention of its model in place.
        model = base.fresh(weights, device=self.device)
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
            after=None if weights is None else {name: w.numpy() for name, w in weights.items()}, snapshots=snapshots,
            training=None if curve is None else curve.arrays(),
            training_completions=() if curve is None else curve.kept(), scores=scores, probe=self.probe,
            activations=activations, norms_alone=keep == "norms",
        )  # fmt: skip

    def _scores(self, job: Job, model: PreTrainedModel) -> Scores:
        """Score a model on the held-out items, or take the scores that were made elsewhere."""
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

    def _adopt(self, job: Job, path: Path, checkpoint: Checkpoint, watcher: Watcher) -> None:
        """Take a run from its checkpoint, and write its file at `path`."""
        opened, snapshots = open_checkpoint(job.spec, self.base)
        weights = {name: torch.from_numpy(values) for name, values in opened.items()}
        model = self.base.fresh(weights, device=self.device)
        if not is_finite(model, self.base, probe_items(self.items, job.recipe.store.probe_items)):
            raise LensrlError(f"checkpoint {opened.place.spelled} has logits that are not finite on the held-out items")
        del model
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
        snapshots = Snapshots(folder, self._snapshot_steps(recipe), self.base.weights)
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
        weights = _weights(training)
        del training  # on a GPU the trained model would stand beside its copies
        self.keep(
            job, path, weights, watcher, status=status, reason=reason, curve=curve, snapshots=kept,
            snapshot_steps=sorted({*kept, *ended}), resumed=resumed,
        )  # fmt: skip

    def _snapshot_steps(self, recipe: Recipe) -> set[int]:
        """Return the steps after which snapshots are kept: the last step is the run itself."""
        steps = recipe.rl.steps_on(len(self.task.items("train")))
        return {*recipe.snapshot_steps(steps)} - {steps}

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


def _weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().cpu().float() for name, p in training.model.named_parameters()}


def parameter_table(base: Base) -> list[Parameter]:
    """Return the place, the size and the norm of each parameter, in the model's order."""
    blocks = base.blocks
    return [
        Parameter(
            name=name,
            part=str(blocks.part(name)),
            inner=blocks.inner(name),
            component=blocks.component(name) or "",
            size=tensor.numel(),
            norm=frobenius(tensor.numpy()),
        )
        for name, tensor in base.weights.items()
    ]


def probe_items(items: Sequence[Item], count: int) -> list[Item]:
    """Return `count` items: the first of each benchmark, then the second of each, and so on."""
    benchmarks: dict[str, list[Item]] = {}
    for item in items:
        benchmarks.setdefault(item.benchmark, []).append(item)
    turns = zip_longest(*benchmarks.values())
    return [item for turn in turns for item in turn if item is not None][:count]

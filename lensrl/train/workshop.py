"""Making one run: train, check, score, take activations, write."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from lensrl.errors import LensrlError
from lensrl.models.base import Base, load_base, pick_device
from lensrl.models.bridge import capture, probe_set
from lensrl.models.evaluate import evaluate
from lensrl.models.generation import learned_positions, token_ids
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, RunSpec
from lensrl.store.file.atomic import new_file, removed_at_end, scratch_folder
from lensrl.store.file.deltas import Parameter, frobenius
from lensrl.store.file.hdf5 import compression_plugin
from lensrl.store.origin import check_base, check_items, provenance
from lensrl.store.run import Run
from lensrl.store.write import Header, Probe, Scores, write_run
from lensrl.tasks import AgentTask, Item, Task, evaluation_items, load_task
from lensrl.tasks.digest import digests_of
from lensrl.train.algorithms import check_algorithm
from lensrl.train.snapshots import Snapshots
from lensrl.train.trainer import train
from lensrl.train.watch import Watcher


class Workshop:
    """What all runs of a study share: the pristine base, the task and the held-out items."""

    def __init__(self, recipe: Recipe, *, study: str) -> None:
        if recipe.store.compression != "none":
            compression_plugin()  # missed now, not after an hour of training
        self.recipe = recipe
        self.study = study
        self.task = load_task(recipe)
        check_algorithm(recipe, self.task)
        check_enough(self.task, recipe)
        self.items = evaluation_items(self.task, recipe)
        self.digests = digests_of("train", self.task.items("train")) | digests_of("test", self.items)
        self.base = load_base(recipe.model)
        check_fits(self.base, self.task, self.items, recipe)
        self.device = pick_device()
        self.parameters = parameter_table(self.base)
        self.before = {name: tensor.numpy() for name, tensor in self.base.weights.items()}

    def prepare(self, recipe: Recipe, specs: Sequence[RunSpec]) -> None:
        """Take over the recipe with its sets chosen. Raises LensrlError for a run that would train nothing."""
        self.recipe = recipe
        for spec in specs:
            if spec.layers != () and not any(
                self.base.blocks.trains(p, spec.layers, spec.component) for p in self.before
            ):
                raise LensrlError(f"sets.{spec.name}: {recipe.model} has no {spec.trained}: its blocks have none")

    def check_same(self, run: Run) -> None:
        """Raises LensrlError when a run of this study's folder came from another base model or from other items."""
        check_base(run, self.base.name, self.base.fingerprint)
        check_items(run, self.digests)

    def make(self, spec: RunSpec, path: Path, watcher: Watcher) -> None:
        """Make one run and write its file, which nobody else can make meanwhile.

        Nothing is written when a frozen parameter has moved.
        """
        with new_file(path, replace=False) as partial, removed_at_end(scratch_folder(partial)):
            if spec.name == BASE:
                self._make_base(spec, partial, watcher)
            else:
                self._make_trained(spec, partial, watcher)

    def _make_base(self, spec: RunSpec, path: Path, watcher: Watcher) -> None:
        scores, probe, activations = self._measure(spec, {}, watcher)
        write_run(
            path, self._header(spec), self.parameters, self.before, scores=scores, probe=probe, activations=activations
        )  # fmt: skip

    def _make_trained(self, spec: RunSpec, path: Path, watcher: Watcher) -> None:
        base, recipe = self.base, self._recipe(spec)
        snapshots = Snapshots(scratch_folder(path), set(recipe.snapshot_steps) - {recipe.rl.steps})
        training = train(
            base, self.task, recipe, layers=spec.layers, component=spec.component, boost=spec.boost, factor=spec.factor,
            seed=spec.seed, device=self.device,
            on_step=lambda curve: watcher.stepped(spec, curve), snapshots=snapshots,
        )  # fmt: skip
        header = replace(self._header(spec), status=training.status, reason=training.reason)
        if training.status == "diverged":  # its weights are not numbers: the curve is all there is to keep
            write_run(path, header, self.parameters, self.before, training=training.curve.arrays())
            return
        kept = snapshots.weights(self.before)
        ended = {len(training.curve)} & set(recipe.snapshot_steps)
        header = replace(header, snapshots=sorted({*kept, *ended}))
        weights = {name: p.detach().cpu() for name, p in training.model.named_parameters()}
        curve = training.curve
        del training  # on a GPU the trained model would stand beside its copies
        scores, probe, activations = self._measure(spec, weights, watcher)
        write_run(
            path, header, self.parameters, self.before,
            after={name: tensor.numpy() for name, tensor in weights.items()}, snapshots=kept,
            training=curve.arrays(), scores=scores, probe=probe, activations=activations,
        )  # fmt: skip

    def _measure(
        self, spec: RunSpec, weights: dict[str, torch.Tensor], watcher: Watcher
    ) -> tuple[Scores, Probe, dict[str, np.ndarray]]:
        """Scores, probe set and activations of the base with `weights` in it."""
        watcher.scoring(spec)
        base = self.base
        chosen = probe_items(self.items, self.recipe.store.probe_items)
        activations = capture(
            base.fresh(weights, device=self.device), base.tokenizer, chosen, base.blocks.n_layers
        )  # fmt: skip
        scores = evaluate(base.fresh(weights, device=self.device), base.tokenizer, self.task, self.items, self.recipe)
        return scores, probe_set(base.tokenizer, chosen), activations

    def _recipe(self, spec: RunSpec) -> Recipe:
        """What the run is made with: the recipe, at the run's own learning rate."""
        if spec.learning_rate is None:
            return self.recipe
        rl = self.recipe.rl.model_copy(update={"learning_rate": spec.learning_rate})
        return self.recipe.model_copy(update={"rl": rl, "learning_rates": []})

    def _header(self, spec: RunSpec) -> Header:
        n_layers = self.base.blocks.n_layers
        compute = "bfloat16" if self.device == "cuda" else "float32"
        hardware = torch.cuda.get_device_name() if self.device == "cuda" else f"cpu {platform.machine()}"
        return Header(
            study=self.study,
            run=spec.name,
            seed=spec.seed,
            layers=range(n_layers) if spec.layers is None else spec.layers,
            status="completed",
            reason="",
            base=self.recipe.model,
            fingerprint=self.base.fingerprint,
            n_layers=n_layers,
            recipe=self._recipe(spec).model_dump_json(),
            compression=self.recipe.store.compression,
            provenance=provenance(
                device=hardware,
                dtypes={
                    "masters": "float32",
                    "training and sampling": compute,
                    "log-probabilities and activations": "float32",
                },
                items=self.digests,
            ),
        )


def check_enough(task: Task | AgentTask, recipe: Recipe) -> None:
    """Raises LensrlError where the training items do not fill a step: TRL passes over a step that is not full."""
    found, needed = len(task.items("train")), recipe.rl.prompts_per_step
    if found < needed:
        raise LensrlError(
            f"task {recipe.task.name} has {found} training items, fewer than the {needed} of a step: give it more, or "
            f"a smaller rl.prompts_per_step"
        )


def check_fits(base: Base, task: Task | AgentTask, scored: Sequence[Item], recipe: Recipe) -> None:
    """Raises LensrlError where a prompt and its completion, or its reference, outgrow a model's table of positions."""
    limit = learned_positions(base.model)
    if limit is None:
        return
    length = {item: len(token_ids(base.tokenizer, item.prompt)) for item in [*task.items("train"), *scored]}
    longest = max(length.values())
    tokens = max(recipe.rl.max_completion_tokens, recipe.evaluation_tokens)
    if longest + tokens > limit:
        raise LensrlError(
            f"{recipe.model} has {limit} positions, fewer than the {longest} of the longest prompt and the {tokens} "
            f"of a completion; choose shorter items, or a smaller max_completion_tokens"
        )
    forced = max(length[i] + sum(len(token_ids(base.tokenizer, piece)) for piece in i.written) + 1 for i in scored)
    if forced > limit:
        raise LensrlError(
            f"{recipe.model} has {limit} positions, fewer than the {forced} of a prompt with its reference, whose "
            f"log-probability is measured; choose shorter items"
        )


def parameter_table(base: Base) -> list[Parameter]:
    """Where each parameter of the model lives, in the model's order."""
    blocks = base.blocks
    return [
        Parameter(
            name,
            str(blocks.part(name)),
            blocks.inner(name),
            blocks.component(name) or "",
            tensor.numel(),
            frobenius(tensor.numpy()),
        )
        for name, tensor in base.weights.items()
    ]


def probe_items(items: Sequence[Item], count: int) -> list[Item]:
    """The first items of every benchmark in turn, `count` of them."""
    benchmarks: dict[str, list[Item]] = {}
    for item in items:
        benchmarks.setdefault(item.benchmark, []).append(item)
    turns = zip_longest(*benchmarks.values())
    return [item for turn in turns for item in turn if item is not None][:count]

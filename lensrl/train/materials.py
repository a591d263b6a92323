"""The materials of a study: base model, task, held-out items, probe set; and what can be known of its runs before them.

Checks that need no training stand here, and the sizes of runs on the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest

from lensrl.errors import LensrlError
from lensrl.models.base import Base, load_base, pick_device
from lensrl.models.bridge import probe_set
from lensrl.models.generation import pad_id
from lensrl.models.histories import drops_ended
from lensrl.models.lora import check_peft, linear_maps, lora_size
from lensrl.models.sampler import CARRIED
from lensrl.models.vllm_sampler import check_vllm
from lensrl.recipe import HarnessTask, Recipe
from lensrl.recipe.runs import BASE, RunSpec, set_run, trains
from lensrl.recipe.task_tables import has_training
from lensrl.store.file.deltas import Parameter, frobenius
from lensrl.store.file.hdf5 import compression_plugin
from lensrl.store.origin import check_base, check_items
from lensrl.store.run import Run
from lensrl.tasks import AgentTask, Item, Texts, check_benchmarks, evaluation_items, load_also, load_task
from lensrl.tasks.gold import failed_references
from lensrl.tasks.harness import Harness
from lensrl.train.adopt import open_checkpoint
from lensrl.train.algorithms import check_algorithm
from lensrl.train.conditions import Conditions
from lensrl.train.disk import RunBytes, run_bytes
from lensrl.train.preflight import (
    check_checkpointing,
    check_enough,
    check_fits,
    check_frozen_dtype,
    check_optim,
    check_outside,
    check_references,
    check_several,
    head_is_tied,
)
from lensrl.train.trackers import check_trackers


class Materials:
    """The base model, the task and the held-out items of a recipe, checked before any run is made."""

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
        sampled = not isinstance(self.task, Texts)
        if sampled and recipe.generation == "vllm":
            check_vllm(self.base.model)
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
            check_optim(recipe)
        check_fits(self.base, self.task, [*self.items, *also_items], recipe)
        self.device = pick_device()
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

    def _snapshot_steps(self, recipe: Recipe) -> set[int]:
        """Return the steps after which snapshots are kept: the last step is the run itself."""
        steps = recipe.rl.steps_on(len(self.task.items("train")))
        return {*recipe.snapshot_steps(steps)} - {steps}

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

"""Checks before any run is made: recipe, task and base fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.models.generation import learned_positions
from lensrl.models.precision import inexact
from lensrl.recipe import Recipe
from lensrl.recipe.runs import RunSpec
from lensrl.tasks import AgentTask, Item, Task, Texts
from lensrl.tasks.gold import described

MOST_FAILED = 0.05  # of the references


def check_enough(task: Task | AgentTask, recipe: Recipe) -> None:
    """Raise LensrlError when the training items do not fill a step. TRL skips an incomplete step without a word."""
    found, needed = len(task.items("train")), recipe.rl.prompts_per_step
    if found < needed:
        raise LensrlError(
            f"task {recipe.task.name} has {found} training items, fewer than the {needed} of a step: give it more, or "
            f"a smaller rl.prompts_per_step"
        )


def check_outside(spec: RunSpec, base: Base) -> None:
    """Raise LensrlError for a part outside the layers that the model does not have, or that is tied to another."""
    for part in spec.outside:
        if part in base.blocks.outside.values():
            continue
        if part == "lm_head" and head_is_tied(base):
            raise LensrlError(
                f"sets.{spec.name}: {base.name} has no lm_head of its own, it is embed; layers = 'embed' trains both"
            )
        raise LensrlError(f"sets.{spec.name}: {base.name} has no parameter in its {part}")


def head_is_tied(base: Base) -> bool:
    """Return whether the output embedding of a model is its input embedding."""
    head = base.model.get_output_embeddings()
    return head is not None and head.weight is base.model.get_input_embeddings().weight


def check_several(items: Sequence[Item]) -> None:
    """Raise LensrlError for a benchmark with a single held-out item: it has no interval."""
    counts = Counter(item.benchmark for item in items)
    alone = next((benchmark for benchmark, count in counts.items() if count == 1), None)
    if alone is not None:
        raise LensrlError(
            f"benchmark {alone!r} has a single held-out item, which shows no precision: give it two or more, or leave "
            f"it out (evaluation.items limits their number)"
        )


def check_references(failed: Sequence[Item], judged: int, recipe: Recipe) -> str:
    """Return a line on the references that fail their own judge; empty where all pass.

    Raises LensrlError for more than 5 %, unless `check_references` of the recipe is false.
    """
    if not failed:
        return ""
    line = described(failed, judged)
    if recipe.check_references and len(failed) > MOST_FAILED * judged:
        raise LensrlError(f"{line}; correct the task or its data, or write check_references = false into the recipe")
    return line


def check_checkpointing(base: Base, recipe: Recipe) -> None:
    """Raises LensrlError where the recipe asks for gradient checkpointing and the model has none."""
    if recipe.rl.gradient_checkpointing and not base.model.supports_gradient_checkpointing:
        raise LensrlError(
            f"{recipe.model} ({type(base.model).__name__}) has no gradient checkpointing; set "
            f"rl.gradient_checkpointing = false"
        )


def check_optim(recipe: Recipe) -> None:
    """Raise LensrlError where the optimizer needs bitsandbytes, and it is not installed."""
    if "8bit" in recipe.rl.optim and find_spec("bitsandbytes") is None:
        raise LensrlError(
            f'rl.optim = {recipe.rl.optim!r} needs bitsandbytes: pip install "lensrl[8bit]", or leave rl.optim out'
        )


def check_frozen_dtype(base: Base, recipe: Recipe) -> None:
    """Raise LensrlError where frozen weights would be rounded: bfloat16 is asked for, and the base is in fp32."""
    first = inexact(base.weights) if recipe.rl.frozen_dtype == "bfloat16" else None
    if first is not None:
        raise LensrlError(
            f"rl.frozen_dtype = 'bfloat16' would round {first} of {recipe.model}, and frozen weights stay as they are; "
            f"set rl.frozen_dtype = 'float32', or give a base that is stored in bfloat16"
        )


def check_fits(base: Base, task: Task | AgentTask | Texts, scored: Sequence[Item], recipe: Recipe) -> None:
    """Raise LensrlError when a prompt with its completion or reference outgrows a model's table of positions."""
    limit = learned_positions(base.model)
    if limit is None:
        return
    length = {item: len(base.prompts.ids(item)) for item in [*task.items("train"), *scored]}
    longest = max(length.values())
    scoring = max(recipe.evaluation_tokens(benchmark) for benchmark in {item.benchmark for item in scored})
    tokens = 0 if isinstance(task, Texts) else max(recipe.rl.max_completion_tokens, scoring)
    if longest + tokens > limit:
        raise LensrlError(
            f"{recipe.model} has {limit} positions, fewer than the {longest} of the longest prompt and the {tokens} "
            f"of a completion; choose shorter items, or a smaller max_completion_tokens"
        )
    forced = max(len(base.prompts.forced(item)[0]) for item in scored)
    if forced > limit:
        raise LensrlError(
            f"{recipe.model} has {limit} positions, fewer than the {forced} of a prompt with its reference, whose "
            f"log-probability is measured; choose shorter items"
        )

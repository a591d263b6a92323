"""One run of RL: a fresh copy of the base, frozen where it should be, trained with the algorithm of the recipe.

`lensrl.train.trainer` is the trainer itself, and `lensrl.train.algorithms` gives the objective of each algorithm.
"""

from __future__ import annotations

import gc
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from datasets.utils import logging as datasets_logging
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lensrl.models.base import Base
from lensrl.models.blocks import train_only
from lensrl.models.lora import add_lora, named_weights
from lensrl.models.precision import any_shape, copy_in_bf16, lower_frozen, own_weights
from lensrl.models.sampler import SAMPLERS, Copied
from lensrl.models.shards import shard, whole
from lensrl.recipe import Lora, Recipe, Trained
from lensrl.recipe.layers import Outside
from lensrl.tasks import AgentTask, Task
from lensrl.train import ranks
from lensrl.train.checks import check_frozen, is_finite
from lensrl.train.config import frozen_in_bf16, grpo_config, samples_with_copy
from lensrl.train.curve import TrainingCurve
from lensrl.train.recorder import Collapsed, Diverged, Recorder
from lensrl.train.reference import stop_backward
from lensrl.train.resume import Checkpoints
from lensrl.train.sampling import Completions, Episodes
from lensrl.train.snapshots import Snapshots
from lensrl.train.trainer import OnStep, StepCallback, Trainer, count_positions

Status = Literal["completed", "collapsed", "diverged"]


@dataclass(frozen=True)
class Training:
    """The result of training. `reason` explains a status other than `completed`, and is empty otherwise.

    `weights` are the trained weights alone, by the base's names, in fp32, on the device that trained them. Adapters are
    merged. `resumed` are the steps from which the run has gone on after an interruption.
    """

    weights: dict[str, torch.Tensor]
    status: Status
    reason: str
    curve: TrainingCurve
    resumed: tuple[int, ...] = ()


def train(
    base: Base,
    task: Task | AgentTask,
    recipe: Recipe,
    *,
    layers: Iterable[int] | None,
    component: Trained = "block",
    outside: Collection[Outside] = (),
    boost: Collection[int] = (),
    factor: float = 1.0,
    lora: Lora | None = None,
    seed: int,
    device: str = "cpu",
    on_step: OnStep | None = None,
    snapshots: Snapshots | None = None,
    checkpoints: Checkpoints | None = None,
) -> Training:
    """Train a fresh copy of the base: all of it (`layers=None`) or the given layers, with everything else frozen.

    `component` limits training to the attention or the MLP of the layers. `outside` names parts outside the layers that
    are trained, too. The layers in `boost` learn at `factor` times
    the recipe's learning rate. `lora` trains adapters of the layers.
    `on_step` receives the curve after every step. `snapshots` keeps weights on the way. `checkpoints` keeps the state
    of training on the way. Where it has a checkpoint, training goes on from there.

    Runs with the same `recipe` and `seed` see the same prompts in the same order. A run that diverges or collapses is
    returned with this status.

    Raises RuntimeError when a frozen parameter has moved by a single bit, and when training ends before its last step
    without a reason.

    On several ranks (`lensrl.train.ranks`), each of them calls this function, and ends with the same weights.
    """
    ranks.join()
    # A copy of the base in which exactly the chosen parameters have gradients.
    chosen = None if layers is None else sorted(layers)
    model = base.reading()  # the base's weights themselves, until each has a copy of its own
    train_only(model, base.blocks, chosen, component, outside)
    if lora is not None and chosen:
        add_lora(model, base.blocks, chosen, lora, seed=seed)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    limit = recipe.rl.gradient_limit(trained, sum(weights.numel() for weights in base.weights.values()))
    if frozen_in_bf16(base, recipe, device):
        lower_frozen(model)
    if recipe.engine.shard:
        shard(model, base.blocks, device)
    elif device == "cpu":
        own_weights(model)
    else:
        model.to(device)  # pyright: ignore[reportArgumentType]
    copied = None
    if samples_with_copy(recipe, device):
        copied = copy_in_bf16(base.reading(), device, dict(named_weights(model, trained=False)))
    count_positions(model)
    if chosen and "embed" not in outside:
        stop_backward(model.get_submodule(f"{base.blocks.prefix}.{chosen[0]}"))
    steps, updates = recipe.rl.steps_on(len(task.items("train"))), recipe.rl.updates_per_rollout
    recorder = Recorder(
        base.blocks, group_size=recipe.rl.completions_per_prompt, updates=updates,
        kept_steps=recipe.completion_steps(steps), kept=recipe.store.training_completions,
    )  # fmt: skip
    sampling_kind = Episodes if isinstance(task, AgentTask) else Completions
    sampler = SAMPLERS[recipe.generation](model if copied is None else copied, base.tokenizer)
    sampling = sampling_kind(
        task, recipe, model, base.prompts, recorder,  # pyright: ignore[reportArgumentType]
        sampler=sampler if copied is None else Copied(model, copied, sampler), seed=seed,
    )  # fmt: skip

    # Where an earlier process of the same run has come to.
    found = None if checkpoints is None else checkpoints.find(model, () if snapshots is None else snapshots.steps)
    if found is not None:
        recorder.curve.extend(found.state["curve"])
        if snapshots is not None:
            snapshots.go_on(found.step)

    # Training itself. TRL needs a folder even where it saves nothing.
    status, reason = "completed", ""
    waiting = nullcontext() if checkpoints is None else checkpoints.before_sigterm()
    with waiting, tempfile.TemporaryDirectory(prefix="lensrl-") as scratch, quiet(), any_shape():
        trainer = Trainer(
            model=model,
            args=grpo_config(recipe, seed=seed, device=device, output_dir=scratch, max_grad_norm=limit),
            processing_class=base.tokenizer,
            sampling=sampling,
            recorder=recorder,
            boosted=[p for name, p in model.named_parameters() if base.blocks.layer(name) in boost],
            factor=factor,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StepCallback(recorder, on_step, snapshots, updates))
        if checkpoints is not None:  # after the row of the curve is recorded
            checkpoints.begin(recorder.curve, updates)
            trainer.add_callback(checkpoints)
        try:
            if found is None:
                trainer.train()
            elif found.step < steps:
                trainer.go_on(found, updates)
            else:  # only scoring was left to do
                found.load_weights(model)
        except Collapsed as error:
            status, reason = "collapsed", str(error)
        except Diverged as error:
            status, reason = "diverged", str(error)
        finally:
            if "8bit" in recipe.rl.optim:
                _forget_embeddings()

    # Checks, because a study compares runs only if each trained for its whole budget and moved nothing else.
    if status == "completed" and len(recorder.curve) != steps:
        raise RuntimeError(f"training ended after {len(recorder.curve)} of {steps} steps")
    check_frozen(model, base, chosen, component, outside)
    weights = {name: whole(weight) for name, weight in named_weights(model, trained=True)}
    del trainer, sampling, sampler, copied, model
    if device != "cpu" or recipe.engine.shard:
        gc.collect()  # gradients, moments and frozen weights would stand beside the model that is read
    if status == "completed" and not is_finite(base.reading(weights, device=device), base, task.items("train")[:8]):
        status, reason = "diverged", f"the weights or logits are not finite after step {len(recorder.curve)}"
    return Training(weights, status, reason, recorder.curve, () if found is None else found.resumed)


def _forget_embeddings() -> None:
    """Empty the list of embeddings whose moments have 32 bits: it would keep each in memory as long as the process."""
    from bitsandbytes.optim import GlobalOptimManager  # pyright: ignore[reportMissingImports]

    GlobalOptimManager.get_instance().initialize()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of TRL and its libraries about settings that are meant."""
    loggers = [logging.getLogger(name) for name in ("transformers", "trl", "accelerate")]
    levels = [logger.level for logger in loggers]
    datasets_logging.disable_progress_bar()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""RL with TRL's GRPOTrainer on all parameters or on chosen layers.

`train` makes one run: a fresh copy of the base, frozen where it should be, trained with the algorithm of the recipe.
`lensrl.train.algorithms` gives the objective of each algorithm, and `lensrl.train.advantages` the advantages.

TRL's settings are those of `lensrl.train.config`.
"""

from __future__ import annotations

import gc
import inspect
import logging
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from datasets.utils import logging as datasets_logging
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl.trainer.grpo_config import GRPOConfig

from lensrl.models.base import Base
from lensrl.models.blocks import train_only
from lensrl.models.lora import add_lora, trained_weights
from lensrl.models.precision import any_shape, copy_in_bf16, lower_frozen
from lensrl.models.sampler import SAMPLERS, Copied
from lensrl.models.shards import copy_whole, is_sharded, shard, whole
from lensrl.recipe import Lora, Recipe, Trained
from lensrl.recipe.layers import Outside
from lensrl.tasks import AgentTask, Task
from lensrl.train import ranks
from lensrl.train.checks import check_frozen, is_finite
from lensrl.train.config import frozen_in_bf16, grpo_config, samples_with_copy
from lensrl.train.curve import TrainingCurve
from lensrl.train.recorder import Collapsed, Diverged, Recorder
from lensrl.train.reference import BaseInPlace, stop_backward
from lensrl.train.resumable import ResumableTrainer
from lensrl.train.resume import Checkpoints
from lensrl.train.sampling import Completions, Episodes, Sampling
from lensrl.train.snapshots import Snapshots

Status = Literal["completed", "collapsed", "diverged"]
OnStep = Callable[[TrainingCurve], None]


@dataclass(frozen=True)
class Training:
    """The result of training. `reason` explains a status other than `completed`, and is empty otherwise.

    `resumed` are the steps from which the run has gone on after an interruption.
    """

    model: PreTrainedModel
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
    the recipe's learning rate. `lora` trains adapters of the layers; the returned model has them merged.
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
    model = base.fresh()
    train_only(model, base.blocks, chosen, component, outside)
    if lora is not None and chosen:
        add_lora(model, base.blocks, chosen, lora, seed=seed)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    limit = recipe.rl.gradient_limit(trained, sum(weights.numel() for weights in base.weights.values()))
    if frozen_in_bf16(base, recipe, device):
        lower_frozen(model)
    copied = copy_in_bf16(base.model, device) if samples_with_copy(recipe, device) else None
    if recipe.engine.shard:
        shard(model, base.blocks, device)
    else:
        model.to(device)  # pyright: ignore[reportArgumentType]
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
    with waiting, tempfile.TemporaryDirectory(prefix="lensrl-") as scratch, _quiet(), any_shape():
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
        trainer.add_callback(_StepCallback(recorder, on_step, snapshots, updates))
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

    # Checks, because a study compares runs only if each trained for its whole budget and moved nothing else.
    if is_sharded(model):
        shards, model = model, base.fresh()
        copy_whole(shards, model)
        del trainer, sampling, sampler, shards  # a device has no room for both
        gc.collect()
        model.to(device)  # pyright: ignore[reportArgumentType]
    elif lora is not None:
        model = base.fresh(base.weights | trained_weights(model, base.weights), device=device)
    if status == "completed" and len(recorder.curve) != steps:
        raise RuntimeError(f"training ended after {len(recorder.curve)} of {steps} steps")
    check_frozen(model, base, chosen, component, outside)
    if status == "completed" and not is_finite(model, base, task.items("train")[:8]):
        status, reason = "diverged", f"the weights or logits are not finite after step {len(recorder.curve)}"
    return Training(model, status, reason, recorder.curve, () if found is None else found.resumed)


class Trainer(ResumableTrainer):
    """A GRPOTrainer with prompts, rewards and advantages from `sampling`, and gradients shown to a recorder.

    The recorder sees the gradients before they are clipped, and by how much the log-probabilities of the sampler and of
    the trainer differ. The reference of the KL term is the base in the trained model (`lensrl.train.reference`). The
    parameters in `boosted` learn at `factor` times the learning rate; the other settings of their group stay the same.
    """

    def __init__(
        self,
        *,
        sampling: Sampling,
        recorder: Recorder,
        boosted: Sequence[torch.nn.Parameter] = (),
        factor: float = 1.0,
        model: PreTrainedModel,
        args: GRPOConfig,
        **arguments: Any,
    ) -> None:
        beta, args.beta = args.beta, 0.0  # else TRL would load a second model as the reference
        super().__init__(
            model=model,
            args=args,
            reward_funcs=sampling.reward,  # pyright: ignore[reportArgumentType]
            train_dataset=sampling.prompts(),
            rollout_func=sampling.rollout_func,
            **arguments,
        )
        self.beta = args.beta = beta
        self.ref_model = BaseInPlace(model) if beta else None  # pyright: ignore[reportAttributeAccessIssue]
        if is_sharded(model):
            # accelerate knows FSDP of its own alone, none on a CPU, and refuses to wrap shards in
            # DistributedDataParallel. As for evaluation, it wraps nothing.
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self._logprobs: torch.Tensor | None = None  # the trainer's, of the latest micro-batch
        self._sampling = sampling
        self._recorder = recorder
        self._boosted_ids = {id(parameter) for parameter in boosted}
        self._factor = factor

    def _move_model_to_device(self, model: torch.nn.Module, device: torch.device) -> None:
        if not is_sharded(model):  # shards are on their devices, and torch cannot swap their storage
            super()._move_model_to_device(model, device)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Split every parameter group into its parameters at the learning rate and its boosted ones."""
        optimizer = super().create_optimizer(model)
        rates = {False: self.args.learning_rate, True: self.args.learning_rate * self._factor}
        optimizer.param_groups[:] = [
            group | {"params": parameters, "lr": rate}
            for group in optimizer.param_groups
            for boosted, rate in rates.items()
            if (parameters := [p for p in group["params"] if (id(p) in self._boosted_ids) is boosted])
        ]
        return optimizer

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Tokenise prompts as in scoring. TRL would put a second start of sequence before a chat template's own."""
        return [self._sampling.tokens(prompt) for prompt in prompts], None, {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Replace TRL's advantages. TRL has no hook for them, and accepts the shapes (row,) and (row, token)."""
        output = super()._generate_and_score_completions(inputs)
        # Rows are still in the order of sampling. TRL shuffles them next, each with its advantages, and then cuts the
        # step into micro-batches.
        advantages = self._sampling.advantages(output["completion_ids"].shape[1])
        if advantages is not None:
            output["advantages"] = advantages.to(output["advantages"])
        return output

    def _get_per_token_logps_and_entropies(self, model: Any, *given: Any, **named: Any) -> Any:
        if isinstance(model, BaseInPlace):
            with model.put_back():
                return super()._get_per_token_logps_and_entropies(self.model, *given, **named)
        found = super()._get_per_token_logps_and_entropies(model, *given, **named)
        self._logprobs = found[0].detach()
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        sampled = inputs.get("sampling_per_token_logps")
        if sampled is not None and self._logprobs is not None:
            # Where a step makes several updates, TRL keeps the log-probabilities from before the first of them.
            before = inputs.get("old_per_token_logps", self._logprobs)
            mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
            self._recorder.record_mismatch((sampled - before).abs(), mask)
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor | None:
        self._recorder.record_gradients(self.accelerator.unwrap_model(model))
        norm = super()._clip_grad_norm(model)
        return None if norm is None else whole(norm)


class _StepCallback(TrainerCallback):
    """Tells the recorder, `on_step` and the snapshots where a step begins and ends. A step of TRL is an update."""

    def __init__(
        self, recorder: Recorder, on_step: OnStep | None, snapshots: Snapshots | None, updates_per_rollout: int
    ) -> None:
        self._updates = updates_per_rollout
        self._recorder = recorder
        self._on_step = on_step
        self._snapshots = snapshots

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._updates == 0:
            self._recorder.step_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        step, updates = divmod(state.global_step, self._updates)
        if self._snapshots is not None and updates == 0:
            self._snapshots.keep(step, model)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:  # the summary at the end of training has none
            whole = self._recorder.update_ends(
                float(logs["loss"]), clipped_share=float(logs["clip_ratio/region_mean"]),
                entropy=logs.get("entropy"), kl=logs.get("kl"),
            )  # fmt: skip
            if whole and self._on_step is not None:
                self._on_step(self._recorder.curve)


def count_positions(model: PreTrainedModel) -> None:
    """Make a model count positions from the first real token of each row, where a call gives a mask and no positions.

    TRL pads prompts on the left, and gives no positions when it computes log-probabilities. Rotary models do not
    notice. A model with learned positions (GPT-2) would be trained at other positions than it was sampled at.

    A forward hook adds the positions. It leaves alone calls with positions or with cached keys and values, and models
    without `position_ids`.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return

    def add_positions(
        _: torch.nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = given.get("attention_mask")
        if mask is not None and given.get("position_ids") is None and given.get("past_key_values") is None:
            given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return arguments, given

    model.register_forward_pre_hook(add_positions, with_kwargs=True)


@contextmanager
def _quiet() -> Iterator[None]:
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

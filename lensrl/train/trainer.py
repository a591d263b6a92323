"""RL with TRL's GRPOTrainer on all parameters or on chosen layers.

GRPO as published (Shao et al. 2024, arXiv 2402.03300, eq. 3): for a group of G completions of one prompt with rewards
r_i, the advantage of every token of completion i is

    A_i = (r_i - mean(r)) / (std(r) + 1e-4)

and the objective is the clipped importance ratio times A_i, averaged over a completion's tokens and then over
completions: (1/B) sum_i (1/|o_i|) sum_t.

Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) removes two divisions that favour some completions over others:
by the std, which favours prompts whose rewards hardly differ, and by the completion's length, which makes a long wrong
answer cost less per token than a short one:

    A_i = r_i - mean(r)                       and  (1/(B L)) sum_i sum_t

where L is a constant. TRL takes `max_completion_length`, as the paper does, not the longest completion of the batch: a
recipe's `max_completion_tokens` scales the loss. Adam takes a scale out again, but `max_grad_norm` does not.

GiGPO (Feng et al. 2025, arXiv 2505.10978) trains agents: every turn has an advantage of its own, of its episode among
the group's plus of the turn among turns taken in the same state (`lensrl.train.advantages.gigpo_advantages`), on every
token that the model wrote in it. The loss is the mean over all such tokens of a step, the default of verl, which the
authors' code builds on. There each turn is a row of its own; here an episode is one row, with its history as it was.

TRL's own defaults are another algorithm (DAPO), so every setting that matters is given here. Both halves are needed:
`loss_type="dr_grpo"` alone keeps dividing by the std.
"""

from __future__ import annotations

import inspect
import logging
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets.utils import logging as datasets_logging
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from lensrl.models.base import Base
from lensrl.models.blocks import train_only
from lensrl.recipe import Recipe, Trained
from lensrl.tasks import AgentTask, Task
from lensrl.train.checks import check_frozen, finite
from lensrl.train.curve import TrainingCurve
from lensrl.train.recorder import Collapsed, Diverged, Recorder
from lensrl.train.sampling import Completions, Episodes, Sampling
from lensrl.train.snapshots import Snapshots

Status = Literal["completed", "collapsed", "diverged"]
# algorithm -> TRL's (loss_type, scale_rewards): how token losses are averaged, and what divides the advantages
LOSSES: dict[str, tuple[str, Literal["group", "none"]]] = {
    "grpo": ("grpo", "group"),
    "dr_grpo": ("dr_grpo", "none"),
    "gigpo": ("dapo", "none"),  # TRL's name for the mean over tokens; the advantages are replaced
}
OnStep = Callable[[TrainingCurve], None]


@dataclass(frozen=True)
class Training:
    """A trained model with how it went. `reason` says why a run that is not `completed` ended."""

    model: PreTrainedModel
    status: Status
    reason: str
    curve: TrainingCurve


def train(
    base: Base,
    task: Task | AgentTask,
    recipe: Recipe,
    *,
    layers: Iterable[int] | None,
    component: Trained = "block",
    boost: Collection[int] = (),
    factor: float = 1.0,
    seed: int,
    device: str = "cpu",
    on_step: OnStep | None = None,
    snapshots: Snapshots | None = None,
) -> Training:
    """Train a fresh copy of the base: all of it (`layers=None`) or the given layers, everything else frozen.

    `component` trains the attention or the MLP of the layers alone; the layers in `boost` learn at `factor` times the
    recipe's learning rate.

    Runs that share `recipe` and `seed` see the same prompts in the same order. Raises RuntimeError when a parameter
    that should be frozen has moved by a single bit, and when training ended before its last step for no reason.
    """
    chosen = None if layers is None else sorted(layers)
    model = base.fresh(device=device)
    train_only(model, base.blocks, chosen, component)
    count_positions(model)
    recorder = Recorder(base.blocks, group_size=recipe.rl.completions_per_prompt)
    of_task = Episodes if isinstance(task, AgentTask) else Completions
    sampling = of_task(task, recipe, model, base.tokenizer, recorder)  # pyright: ignore[reportArgumentType]
    status, reason = "completed", ""
    with tempfile.TemporaryDirectory(prefix="lensrl-") as scratch, _quiet():
        trainer = Trainer(
            model=model,
            args=grpo_config(recipe, seed=seed, device=device, output_dir=scratch),
            processing_class=base.tokenizer,
            sampling=sampling,
            recorder=recorder,
            boosted=[p for name, p in model.named_parameters() if base.blocks.layer(name) in boost],
            factor=factor,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_Steps(recorder, on_step, snapshots))
        try:
            trainer.train()
        except Collapsed as error:
            status, reason = "collapsed", str(error)
        except Diverged as error:
            status, reason = "diverged", str(error)
    if status == "completed" and len(recorder.curve) != recipe.rl.steps:
        raise RuntimeError(f"training ended after {len(recorder.curve)} of {recipe.rl.steps} steps")
    check_frozen(model, base, chosen, component)
    if status == "completed" and not finite(model, base, task.items("train")[:8]):
        status, reason = "diverged", f"the weights or logits are not finite after step {len(recorder.curve)}"
    return Training(model, status, reason, recorder.curve)


def grpo_config(recipe: Recipe, *, seed: int, device: str, output_dir: str) -> GRPOConfig:
    """TRL's settings for a recipe: its algorithm as published, on-policy, constant learning rate, nothing saved."""
    rl = recipe.rl
    completions = rl.prompts_per_step * rl.completions_per_prompt
    micro_batch = rl.micro_batch or completions
    loss_type, scale_rewards = LOSSES[rl.algorithm]
    return GRPOConfig(
        output_dir=output_dir,
        loss_type=loss_type,
        scale_rewards=scale_rewards,
        importance_sampling_level="token",
        beta=rl.kl_beta,
        use_bias_correction_kl=False,
        epsilon=rl.clip,
        num_iterations=1,
        max_steps=rl.steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=completions // micro_batch,
        num_generations=rl.completions_per_prompt,
        max_completion_length=rl.max_completion_tokens,
        mask_truncated_completions=False,
        temperature=rl.temperature,
        top_p=1.0,
        top_k=0,
        # Broken weights must end in a gradient that the recorder sees, not in a sampler that fails (on CUDA, for good).
        generation_kwargs={"remove_invalid_values": True},
        learning_rate=rl.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=rl.weight_decay,
        max_grad_norm=rl.max_grad_norm,
        optim="adamw_torch",
        activation_checkpointing=rl.gradient_checkpointing,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        seed=seed,
        data_seed=seed,
        shuffle_dataset=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=device == "cuda",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a NaN must be seen, not averaged away
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        disable_dropout=True,  # a random forward pass would not be the policy that was sampled
        log_level="error",
    )


class Trainer(GRPOTrainer):
    """GRPOTrainer that takes what it samples from `sampling`, and shows the gradients to a recorder before clipping.

    `boosted` parameters learn at `factor` times the learning rate; everything else of their group stays as it is.
    """

    def __init__(
        self,
        *,
        sampling: Sampling,
        recorder: Recorder,
        boosted: Sequence[torch.nn.Parameter] = (),
        factor: float = 1.0,
        **arguments: Any,
    ) -> None:
        super().__init__(
            reward_funcs=sampling.reward,  # pyright: ignore[reportArgumentType]
            train_dataset=sampling.prompts(),
            rollout_func=sampling.rollout_func,
            **arguments,
        )
        if self.ref_model is not None:  # of the KL term: TRL loads it anew
            count_positions(self.accelerator.unwrap_model(self.ref_model))
        self._sampling = sampling
        self._recorder = recorder
        self._boosted = {id(parameter) for parameter in boosted}
        self._factor = factor

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        rates = {False: self.args.learning_rate, True: self.args.learning_rate * self._factor}
        optimizer.param_groups[:] = [
            group | {"params": parameters, "lr": rate}
            for group in optimizer.param_groups
            for boosted, rate in rates.items()
            if (parameters := [p for p in group["params"] if (id(p) in self._boosted) is boosted])
        ]
        return optimizer

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        # Here rows are still in the order in which they were sampled; TRL shuffles them afterwards.
        advantages = self._sampling.advantages(output["completion_ids"].shape[1])
        if advantages is not None:
            output["advantages"] = advantages.to(output["advantages"])
        return output

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor | None:
        self._recorder.record_gradients(self.accelerator.unwrap_model(model))
        return super()._clip_grad_norm(model)


class _Steps(TrainerCallback):
    """Marks the beginning and end of each step for the recorder and for whoever watches."""

    def __init__(self, recorder: Recorder, on_step: OnStep | None, snapshots: Snapshots | None) -> None:
        self._recorder = recorder
        self._on_step = on_step
        self._snapshots = snapshots

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._recorder.step_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._snapshots is not None:
            self._snapshots.after(state.global_step, model)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:  # the summary at the end of training has none
            self._recorder.step_ends(float(logs["loss"]))
            if self._on_step is not None:
                self._on_step(self._recorder.curve)


def count_positions(model: PreTrainedModel) -> None:
    """Count positions from a row's first token when a forward pass is given padded rows and no positions.

    TRL pads prompts on the left and gives no positions for its log-probabilities. Rotary models do not mind; a model
    with learned positions (GPT-2) would be trained on the log-probabilities of other positions than it sampled from.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return

    def fill(
        _: torch.nn.Module, arguments: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = given.get("attention_mask")
        if mask is not None and given.get("position_ids") is None and given.get("past_key_values") is None:
            given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return arguments, given

    model.register_forward_pre_hook(fill, with_kwargs=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what TRL and its libraries say about settings that are given on purpose."""
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

"""TRL's GRPOTrainer with prompts, rewards and advantages of our own, and gradients shown to a recorder.

`lensrl.train.training` makes a run with it. TRL's settings are those of `lensrl.train.config`, and advantages those of
`lensrl.train.advantages`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig

from lensrl.models.shards import is_sharded, whole
from lensrl.train.curve import TrainingCurve
from lensrl.train.recorder import Recorder
from lensrl.train.reference import BaseInPlace
from lensrl.train.resumable import ResumableTrainer
from lensrl.train.sampling import Sampling
from lensrl.train.snapshots import Snapshots

OnStep = Callable[[TrainingCurve], None]


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


class StepCallback(TrainerCallback):
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

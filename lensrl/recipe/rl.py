"""The settings of training: table `[rl]` of a recipe, and the tables of single algorithms."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from lensrl.recipe.table import Share, Table


class Gigpo(Table):
    """The settings of `algorithm = "gigpo"`: the arguments of `lensrl.train.advantages.gigpo_advantages`."""

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95  # discount of the rewards that follow a step
    step_weight: Annotated[float, Field(ge=0)] = 1.0  # of the step's advantage beside the episode's; 0: episodes alone
    normalise: Literal["mean", "mean_std"] = "mean"
    baseline: Literal["trajectories", "steps"] = "trajectories"


class Rl(Table):
    """Reinforcement learning with TRL. Every run of a study gets the same budget and the same data order.

    One step samples `prompts_per_step` x `completions_per_prompt` completions: a rollout. It makes
    `updates_per_rollout` updates with them, each with an equal part of the completions (a mini-batch), drawn at random.
    With one update, the default, the clipped objective is on-policy and the clip never acts. `steps`, `warmup_steps`,
    `store.snapshots` and the rows of a training curve count steps. TRL counts updates: its `max_steps` is `steps` x
    `updates_per_rollout`, and its `steps_per_generation` is the number of micro-batches in a rollout.

    The learning rate is constant by default: with a schedule, C_l depends on its shape. `lr_scheduler_type` has TRL's
    names, and changes the rate from update to update.

    `epochs` takes the place of `steps`. An epoch holds each training item once, without those that do not fill a step.

    `top_p` and `top_k` cut the distribution that training samples from. TRL does not correct for this: the
    log-probabilities of its loss are those of the whole distribution. So are those of `sampler_mismatch`, except with
    vLLM, which gives them after the cuts: the mismatch then also counts the mass that was cut.

    `mask_truncated` leaves completions that met `max_completion_tokens` out of the loss (TRL's
    `mask_truncated_completions`). Their rewards still count in the mean of their group.

    `algorithm` is one of

    - `"grpo"`: arXiv 2402.03300.
    - `"dr_grpo"`: arXiv 2503.20783. GRPO without the division by the group's std and by a completion's length.
    - `"rloo"`: arXiv 2402.14740. REINFORCE on whole completions, with the mean of the group's others as the baseline.
    - `"gigpo"`: arXiv 2505.10978, for tasks in turns only.
    - `"dapo"`: the loss of arXiv 2503.14476, a mean over all tokens of a step. Two other parts are settings:
      `clip_high` (0.28 in the paper) and `mask_truncated`. Dynamic sampling and the length penalty are not there.
    - `"gspo"`: arXiv 2507.18071. One ratio per completion. The paper clips at 3e-4 and 4e-4 (`clip`, `clip_high`).
    - `"sft"`: no RL but its control, supervised fine-tuning on the references at the same budget. The completions of a
      step are references, and each has the advantage 1.

    `reward = "random"` is another control: a fair coin takes the place of each completion's reward. If C_l has the same
    profile then, it is one of any training, and not of RL on this task.

    `lensrl.train.algorithms` gives their objectives. GRPO divides the loss of a completion by its length, Dr. GRPO by
    `max_completion_tokens`, and RLOO by nothing. This matters to `max_grad_norm`. With rewards in [0, 1], Dr. GRPO has
    smaller gradients than GRPO, so fewer are clipped. RLOO's gradients grow with the completions, so more are clipped.

    `max_grad_norm = "per-parameter-count"` limits the gradient of a run by the root of its trained parameters:

        m = sqrt(n / N),    n trained parameters of N in the model

    So the same mean square of a gradient's entries is allowed in every run, and full RL has the limit 1. `"none"` never
    clips. One number for all runs clips full RL far more often than a layer: `runs/control-clipping.toml` compares.

    `frozen_dtype` is the type in which frozen weights are stored while RL trains a part of the model. `"bfloat16"`
    takes 2 bytes a weight instead of 4, and computes in bf16 on every device, full RL included. It needs a base whose
    matrices are bf16 numbers, so that nothing is rounded. None means bfloat16 on a GPU with such a base, else float32.

    `sampler_dtype` is the type of the weights that completions of training are sampled with. `"float32"` samples with
    the trained model itself. `"bfloat16"` samples with a copy of it: 2 bytes more for each weight that is not frozen in
    bfloat16, and 2 bytes to read for it at each token, in place of 4. Before each step the weights that train are
    copied again. None means bfloat16 on a GPU, else float32. The curve's column `sampler_mismatch` says how far the
    copy's log-probabilities are from the trainer's. Scoring does not use the copy.

    `optim` has TRL's names. `"adamw_8bit"` keeps Adam's two moments in 8 bits each: 2 bytes for each trained weight and
    not 8. Embeddings, and parameters of fewer than 4,096 entries, keep moments in fp32. `"paged_adamw_8bit"` may also
    move them to the memory of the host. Both are bitsandbytes' (`pip install "lensrl[8bit]"`).

    `checkpoint_every` says how often the state of training is kept on disk, beside the study's files, until the run is
    complete. A run that was stopped or killed goes on from there (`lensrl.train.resume`). The state takes 12 bytes for
    each trained weight, and twice as much while it is replaced. No result depends on this setting, so it may differ
    between two runs of a study.

    A table with the name of an algorithm (`rl.gigpo`) holds settings of this algorithm alone.
    """

    algorithm: Literal["grpo", "dr_grpo", "gigpo", "rloo", "dapo", "gspo", "sft"] = "grpo"
    reward: Literal["task", "random"] = "task"  # random: of each completion, 0 or 1 by a fair coin
    gigpo: Gigpo = Gigpo()
    steps: PositiveInt | None = 60  # rollouts; none where epochs are given
    epochs: PositiveInt | None = None  # passes over the training items, in place of steps
    prompts_per_step: PositiveInt = 8
    completions_per_prompt: Annotated[int, Field(ge=2)] = 8  # a group of one has no advantage
    max_completion_tokens: PositiveInt = 512  # of an answer; in a task in turns, of each turn
    updates_per_rollout: PositiveInt = 1  # mini-batches that the completions of a step are divided into
    learning_rate: PositiveFloat = 1e-6
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine", "inverse_sqrt"] = "constant"
    warmup_steps: Annotated[float, Field(ge=0)] = 0.0  # steps of linear warm-up from 0; below 1: share of all updates
    temperature: PositiveFloat = 1.0  # 1: the policy that is sampled is the policy that is trained
    top_p: Share = 1.0  # nucleus sampling in training: probability mass to sample from; 1: no cut
    top_k: Annotated[int, Field(ge=0)] = 0  # most probable tokens to sample from in training; 0: no cut
    mask_truncated: bool = False  # true: completions without an end are left out of the loss
    clip: PositiveFloat = 0.2  # epsilon of the clipped objective
    clip_high: PositiveFloat | None = None  # epsilon above 1, where it is another than below 1; None: clip
    kl_beta: Annotated[float, Field(ge=0)] = 0.0  # weight of the KL term against the base
    max_grad_norm: PositiveFloat | Literal["per-parameter-count", "none"] = 1.0  # of clipping; words: see above
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_torch"  # 8 bits: Adam's moments, see above
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # off: decay would move weights that the reward does not
    micro_batch: PositiveInt | None = None  # completions per backward pass; None: all of an update at once
    rollout_batch: PositiveInt | None = None  # completions (or episodes) sampled at once; None: all of a step at once
    gradient_checkpointing: bool = False
    checkpoint_every: PositiveInt | None = None  # steps between two states kept to go on from; None: 15 minutes
    frozen_dtype: Literal["float32", "bfloat16"] | None = None  # of frozen weights; None: by device and base, see above
    sampler_dtype: Literal["float32", "bfloat16"] | None = None  # of weights that sample; None: by device, see above

    @classmethod
    def algorithm_tables(cls) -> dict[str, type[Table]]:
        """Return the table of each algorithm that has settings of its own, by the algorithm's name."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Table)}

    @property
    def algorithm_settings(self) -> dict[str, Any]:
        """Return the values of the chosen algorithm's own table; empty where it has no table."""
        return getattr(self, self.algorithm).model_dump() if self.algorithm in self.algorithm_tables() else {}

    @model_validator(mode="after")
    def _tables_are_used(self) -> Rl:
        for name, kind in self.algorithm_tables().items():
            if name != self.algorithm and getattr(self, name) != kind():
                raise ValueError(f"the table {name} is for algorithm = {name!r}, and this is {self.algorithm!r}")
        return self

    def steps_on(self, items: int) -> int:
        """Return the steps of a run on this many training items: `steps`, or the full steps of `epochs`."""
        return self.steps or (self.epochs or 0) * (items // self.prompts_per_step)

    def gradient_limit(self, trained: float, of: float) -> float:
        """Return the norm above which a run that trains `trained` of `of` parameters scales its gradient down."""
        if self.max_grad_norm == "none":
            return math.inf
        return math.sqrt(trained / of) if self.max_grad_norm == "per-parameter-count" else self.max_grad_norm

    @property
    def budget(self) -> str:
        """The length of training in words: `60 steps`, `4 epochs`."""
        return f"{self.steps} steps" if self.steps else f"{self.epochs} epoch{'s' * (self.epochs != 1)}"

    @property
    def completions_per_update(self) -> int:
        """The completions of a mini-batch."""
        return self.prompts_per_step * self.completions_per_prompt // self.updates_per_rollout

    @model_validator(mode="before")
    @classmethod
    def _epochs_in_place_of_steps(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("epochs") is not None:
            if data.get("steps") is not None:
                raise ValueError(f"steps ({data['steps']}) and epochs ({data['epochs']}) both say how long; give one")
            return data | {"steps": None}
        return data

    @model_validator(mode="after")
    def _has_a_length(self) -> Rl:
        if self.steps is None and self.epochs is None:
            raise ValueError("give steps or epochs")
        return self

    @model_validator(mode="after")
    def _learns_from_rewards(self) -> Rl:
        if self.algorithm == "sft" and self.reward != "task":
            raise ValueError(f"reward = {self.reward!r} is for RL, and algorithm = 'sft' learns from the references")
        return self

    @model_validator(mode="after")
    def _warms_up(self) -> Rl:
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            raise ValueError("warmup_steps needs a schedule: lr_scheduler_type = 'constant_with_warmup', for example")
        if self.warmup_steps > 1 and self.warmup_steps != round(self.warmup_steps):
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be a number of steps, or a share below 1")
        return self

    @model_validator(mode="after")
    def _batches_fill_a_step(self) -> Rl:
        completions = self.prompts_per_step * self.completions_per_prompt
        if completions % self.updates_per_rollout:
            raise ValueError(
                f"updates_per_rollout ({self.updates_per_rollout}) must divide the {completions} completions of a step"
            )
        of_update = self.completions_per_update
        if self.micro_batch is not None and of_update % self.micro_batch:
            of = "a step" if self.updates_per_rollout == 1 else "an update"
            raise ValueError(f"micro_batch ({self.micro_batch}) must divide the {of_update} completions of {of}")
        return self

"""The RL algorithms that a recipe can name, one row each.

A step samples B completions: a group of completions for each of several prompts. Completion i has |o_i| tokens, and its
token t has the advantage A_it (`lensrl.train.advantages` holds the equations). TRL maximises an average of

    s_it = min(rho_it A_it, clip(rho_it, 1 - clip, 1 + clip) A_it) - kl_beta KL_it

where rho_it is the new probability of the token over its old one, and KL_it = q - log q - 1 with q the reference's
probability over the new one. The algorithms differ in A_it and in the average:

    GRPO      1/B  sum_i 1/|o_i| sum_t s_it      Shao et al. 2024, arXiv 2402.03300, eqs. 3 and 4
    Dr. GRPO  1/(B L)      sum_i sum_t s_it      Liu et al. 2025, arXiv 2503.20783; L = rl.max_completion_tokens
    GiGPO     1/sum_i|o_i| sum_i sum_t s_it      Feng et al. 2025, arXiv 2505.10978
    RLOO      1/B          sum_i sum_t s_it      Ahmadian et al. 2024, arXiv 2402.14740
    DAPO      1/sum_i|o_i| sum_i sum_t s_it      Yu et al. 2025, arXiv 2503.14476, eq. 8
    GSPO      1/B  sum_i 1/|o_i| sum_t s_it      Zheng et al. 2025, arXiv 2507.18071, eqs. 5 to 7, with the ratio of
                                                 the completion in place of rho_it: (prod_t rho_it)^(1/|o_i|)
    SFT       1/B  sum_i 1/|o_i| sum_t s_it      no RL: o_i is the reference of its prompt, and A_it = 1

With one update per step, the default, rho_it is 1: the clip never acts, and the gradient of s_it (without the KL) is
A_it grad log p(token). With `rl.updates_per_rollout` above 1, the completions of a step are divided into mini-batches,
and B and the sums are over a mini-batch. An exception is 1/sum_i|o_i|: TRL divides by the tokens of the whole step over
the number of updates, which is the mean over mini-batches of their tokens. `rl.clip_high` is the clip above 1.

*Dr. GRPO* removes the division by the length, which makes a long wrong answer cost less per token than a short one. L
is a constant, as in the paper, and not the longest completion of the batch. So `max_completion_tokens` scales the loss:
Adam removes a scale, `max_grad_norm` does not.

*GiGPO* trains agents. A turn has one advantage, on every token that the model wrote in it. The average over all such
tokens of a step is the default of verl, on which the authors' code builds. There each turn is a row; here an episode is
one row, with its history as it was played.

*RLOO* is REINFORCE on the whole completion: the gradient is the mean over completions of A_i grad log p(o_i), because a
completion's log-probability is the sum over its tokens. There is no division by a length. TRL names this average
`luspo`, after a later paper. Differences from the paper, and from TRL's own RLOOTrainer:

- Here the clip is per token, in RLOOTrainer per completion, and the paper has none. At rho = 1 the gradients agree.
- With `kl_beta` above 0, KL_it is part of the loss, as in GRPO. The paper and RLOOTrainer subtract it from the reward.
- In a task in turns, a completion is an episode, and its log-probability sums over the tokens that the model wrote.

*DAPO* gives every token of a step the same weight, so a long completion counts more than a short one. Advantages are
GRPO's. *GSPO* clips whole completions. On-policy its gradient is GRPO's.

*SFT* is the control of all others. On-policy, its gradient is that of the mean log-probability of the references. A
reference counts once for each completion of its group, so a step has as many different answers as prompts.

For groups of n, RLOO's gradient is L n/(n - 1) times Dr. GRPO's. Adam removes this factor (beside its epsilon), so the
two differ where `max_grad_norm` clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from lensrl.errors import RecipeError
from lensrl.recipe import Recipe
from lensrl.tasks import AgentTask, Task
from lensrl.train.advantages import gigpo_advantages, rloo_advantages


@dataclass(frozen=True)
class Algorithm:
    """How one algorithm is trained.

    `loss_type` and `scale_rewards` are settings of TRL's GRPOConfig: the average over tokens, and the divisor of TRL's
    own advantages. Dr. GRPO needs both: `loss_type="dr_grpo"` alone still divides by the std.

    `advantages` replaces TRL's advantages; None keeps them. It is a pure function, and receives the algorithm's own
    table of `rl` as keywords. Without `in_turns` it is `advantages(rewards, group)`, one value per completion. With
    `in_turns` it is `advantages(rewards, trajectory, group, anchor)`, one value per turn, and the task must be one in
    turns. An algorithm without `in_turns` trains such a task on the rewards of whole episodes.

    `ratio` is TRL's `importance_sampling_level`: a ratio per token, or one per completion (`sequence`).

    `on_references` trains on the references in the place of sampled completions.
    """

    loss_type: str
    scale_rewards: Literal["group", "none"]
    advantages: Callable[..., np.ndarray] | None = None
    in_turns: bool = False
    ratio: Literal["token", "sequence"] = "token"
    on_references: bool = False


def _ones(rewards: Float64[np.ndarray, "row"], group: Any) -> Float64[np.ndarray, "row"]:
    return np.ones(len(rewards))


def _gigpo_total(*turns: Any, **settings: Any) -> Float64[np.ndarray, "turn"]:
    return gigpo_advantages(*turns, **settings).total


ALGORITHMS = {  # the names are those of `rl.algorithm`
    "grpo": Algorithm("grpo", "group"),
    "dr_grpo": Algorithm("dr_grpo", "none"),
    "gigpo": Algorithm("dapo", "none", _gigpo_total, in_turns=True),  # TRL's name for the mean over a step's tokens
    "rloo": Algorithm("luspo", "none", rloo_advantages),  # TRL's name for the mean over completions of the token sums
    "dapo": Algorithm("dapo", "group"),
    "gspo": Algorithm("grpo", "group", ratio="sequence"),
    "sft": Algorithm("grpo", "none", _ones, on_references=True),
}


def check_algorithm(recipe: Recipe, task: Task | AgentTask) -> None:
    """Raise RecipeError when a setting of `rl` does not fit the task.

    These are an algorithm that needs a task in turns; and in a task in turns, `sft`, `reward = "random"` and
    `mask_truncated`: TRL takes a completion for truncated if it has no end of sequence, and an episode may end without.
    """
    name = recipe.rl.algorithm
    control = "algorithm = 'sft'" if ALGORITHMS[name].on_references else "reward = 'random'"
    if (ALGORITHMS[name].on_references or recipe.rl.reward == "random") and isinstance(task, AgentTask):
        raise RecipeError(
            f"rl.{control} is for tasks with one completion per prompt, and {recipe.task.name} is in turns"
        )
    if recipe.rl.mask_truncated and isinstance(task, AgentTask):
        raise RecipeError(
            f"rl.mask_truncated is for tasks with one completion per prompt, and {recipe.task.name} is in turns; leave "
            f"it out"
        )
    if ALGORITHMS[name].in_turns and not isinstance(task, AgentTask):
        others = ", ".join(other for other, algorithm in ALGORITHMS.items() if not algorithm.in_turns)
        raise RecipeError(
            f"rl.algorithm {name} compares the turns of an agent, and task {recipe.task.name} has none; "
            f"use {others}, or a task in turns (corridor, textworld)"
        )

"""Advantages of RL without a critic: a reward beside the rewards of the same group.

A group g holds completions (or episodes) of one prompt (or one start of an environment). With rewards r_i, and mean
and std over the group:

    GRPO      A_i = (r_i - mean(r)) / (std(r) + 1e-4)       Shao et al. 2024, arXiv 2402.03300, outcome supervision
    Dr. GRPO  A_i = r_i - mean(r)                           Liu et al. 2025, arXiv 2503.20783: dividing by the std gives
                                                            prompts that are almost always, or never, solved more weight

    GiGPO     Feng et al. 2025, arXiv 2505.10978, eqs. 3 to 8; for step t of trajectory i, taken in state s:

              A_it = A^E_i + w A^S_it
              A^E_i = R_i - mean over the group of R_j,     R_i = sum_t r_it
              A^S_it = R_it - mean over {(j, u): s_ju = s_it, j in the group of i} of R_ju,
                                                            R_it = sum_k gamma^k r_i,t+k

The std is the unbiased one (over n - 1), as TRL and the authors of GiGPO compute it. Something alone in its set has
nothing to be compared with and gets 0. Everything is fp64, and a set of equal values gives exactly 0.

What these functions do not do: give tokens their advantage, weight by length, clip. That is the loss (`trainer.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Real, Shaped

GRPO_EPSILON = 1e-4  # TRL's; the paper divides by the std alone
Labels = Sequence[Hashable] | Shaped[np.ndarray, "row"]  # which group, trajectory or state a row belongs to
Normalise = Literal["mean", "mean_std"]
Baseline = Literal["trajectories", "steps"]


class GigpoAdvantages(NamedTuple):
    """One value per environment step; `total` is `episode` + step_weight * `step`."""

    episode: Float64[np.ndarray, "row"]
    step: Float64[np.ndarray, "row"]
    total: Float64[np.ndarray, "row"]


def grpo_advantages(rewards: Real[np.ndarray, "row"], group: Labels) -> Float64[np.ndarray, "row"]:
    """(r_i - mean) / (std + 1e-4) within each group (arXiv 2402.03300); 0 for a group of one.

    TRL computes the same in fp32. Raises ValueError for a reward that is not finite, or when the lengths differ.
    """
    rewards = _rewards(rewards, group=group)
    return _beside_their_set(rewards, _codes(group), normalise="mean_std", epsilon=GRPO_EPSILON)


def dr_grpo_advantages(rewards: Real[np.ndarray, "row"], group: Labels) -> Float64[np.ndarray, "row"]:
    """r_i - mean within each group (arXiv 2503.20783); 0 for a group of one.

    Raises ValueError for a reward that is not finite, or when the lengths differ.
    """
    rewards = _rewards(rewards, group=group)
    return _beside_their_set(rewards, _codes(group), normalise="mean", epsilon=0.0)


def gigpo_advantages(
    rewards: Real[np.ndarray, "row"],
    trajectory: Labels,
    group: Labels,
    anchor: Labels,
    *,
    gamma: float = 0.95,
    step_weight: float = 1.0,
    normalise: Normalise = "mean",
    baseline: Baseline = "trajectories",
    epsilon: float = 1e-6,
) -> GigpoAdvantages:
    """Advantages of environment steps: of the episode among its group, plus of the step among steps from its state.

    A row is a step; the rows of a trajectory are in time order and may stand between rows of others. `anchor` is the
    state in which the step was taken, anything hashable; states are the same when they are equal and of one group.
    A trajectory may meet a state more than once: each visit counts.

    The episode's mean (and std) are over the group's `"trajectories"`, as in the paper, or over its `"steps"`, as is
    the default of the authors' code: there a trajectory counts once per step, so long ones pull the mean their way.
    `"mean_std"` divides each part by (std + epsilon), the std over the same set as the mean; it is the paper's other
    choice of its F_norm. A group of one trajectory and a state seen once get 0; the authors' code leaves the episode
    of a single row as it is, uncompared.

    Raises ValueError for rewards that are not finite, lengths that differ, a trajectory in two groups, a gamma outside
    [0, 1], an epsilon that is not positive, and unknown options.
    """
    if normalise not in ("mean", "mean_std"):
        raise ValueError(f"normalise is {normalise!r}; it can be 'mean' or 'mean_std'")
    if baseline not in ("trajectories", "steps"):
        raise ValueError(f"baseline is {baseline!r}; it can be 'trajectories' or 'steps'")
    if not epsilon > 0:
        raise ValueError(f"epsilon is {epsilon}; it must be positive, or equal returns would be 0 / 0")
    rewards = _rewards(rewards, trajectory=trajectory, group=group, anchor=anchor)
    episodes, groups = _codes(trajectory), _codes(group)
    group_of_episode = _group_of_each(episodes, groups, trajectory, group)

    returns = np.zeros(len(group_of_episode))
    np.add.at(returns, episodes, rewards)
    if baseline == "trajectories":
        episode = _beside_their_set(returns, group_of_episode, normalise=normalise, epsilon=epsilon)[episodes]
    else:
        episode = _beside_their_set(returns[episodes], groups, normalise=normalise, epsilon=epsilon)

    states = _codes(list(zip(groups.tolist(), anchor, strict=True)))
    to_go = discounted_returns(rewards, trajectory, gamma=gamma)
    step = _beside_their_set(to_go, states, normalise=normalise, epsilon=epsilon)
    return GigpoAdvantages(episode, step, episode + step_weight * step)


def discounted_returns(
    rewards: Real[np.ndarray, "row"], trajectory: Labels, *, gamma: float
) -> Float64[np.ndarray, "row"]:
    """R_t = sum_k gamma^k r_{t+k} over the rest of the row's trajectory (arXiv 2505.10978).

    Raises ValueError for rewards that are not finite, lengths that differ, and a gamma outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; a discount is between 0 and 1")
    rewards = _rewards(rewards, trajectory=trajectory)
    episodes = _codes(trajectory)
    returns = np.empty(len(rewards))
    following = np.zeros(len(rewards))  # per trajectory, what its later rows return
    for row in range(len(rewards) - 1, -1, -1):
        returns[row] = following[episodes[row]] = rewards[row] + gamma * following[episodes[row]]
    return returns


def _beside_their_set(
    values: Float64[np.ndarray, "row"], sets: Int[np.ndarray, "row"], *, normalise: Normalise, epsilon: float
) -> Float64[np.ndarray, "row"]:
    """Each value minus the mean of its set, over (unbiased std + epsilon) for `mean_std`."""
    _, first, sizes = np.unique(sets, return_index=True, return_counts=True)
    shifted = values - values[first][sets]  # from the set's first value: equal values then give 0 without rounding
    deviation = shifted - (np.bincount(sets, shifted) / sizes)[sets]
    if normalise == "mean":
        return deviation
    variance = np.bincount(sets, deviation**2) / np.maximum(sizes - 1, 1)
    return deviation / (np.sqrt(variance) + epsilon)[sets]


def _codes(labels: Labels) -> Int[np.ndarray, "row"]:
    """0, 1, 2, ... for the labels, in order of first appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], np.intp)


def _group_of_each(
    episodes: Int[np.ndarray, "row"], groups: Int[np.ndarray, "row"], trajectory: Labels, group: Labels
) -> Int[np.ndarray, "episode"]:
    _, first = np.unique(episodes, return_index=True)
    group_of_episode = groups[first]
    strays = np.flatnonzero(group_of_episode[episodes] != groups)
    if len(strays):
        row = int(strays[0])
        start = int(first[episodes[row]])
        raise ValueError(
            f"trajectory {trajectory[row]!r} is in group {group[start]!r} at row {start} and in group "
            f"{group[row]!r} at row {row}; a trajectory belongs to one group: number trajectories across groups"
        )
    return group_of_episode


def _rewards(rewards: Real[np.ndarray, "row"], **labels: Labels) -> Float64[np.ndarray, "row"]:
    values = np.asarray(rewards, np.float64)
    for name, of_rows in labels.items():
        if values.shape != (len(of_rows),):
            raise ValueError(f"rewards has shape {values.shape} and {name} {len(of_rows)} rows; expected one per row")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"the reward of row {int(bad[0])} is {values[bad[0]]}; rewards must be finite")
    return values

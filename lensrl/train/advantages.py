"""Advantages of RL without a critic: a reward compared with the rewards of the same group.

A group holds the n completions of one prompt, or the n episodes from one start of an environment. For rewards r_i and
their mean and standard deviation (std) over the group:

    GRPO      A_i = (r_i - mean(r)) / (std(r) + 1e-4)       Shao et al. 2024, arXiv 2402.03300, outcome supervision
    Dr. GRPO  A_i = r_i - mean(r)                           Liu et al. 2025, arXiv 2503.20783
    RLOO      A_i = r_i - 1/(n - 1) sum_{j != i} r_j        Ahmadian et al. 2024, arXiv 2402.14740
                  = n/(n - 1) (r_i - mean(r))

    GiGPO     Feng et al. 2025, arXiv 2505.10978, eqs. 3 to 8. For step t of trajectory i, taken in state s:

              A_it = A^E_i + w A^S_it
              A^E_i = R_i - mean over the group of R_j,     R_i = sum_t r_it
              A^S_it = R_it - mean over {(j, u): s_ju = s_it, j in the group of i} of R_ju,
                                                            R_it = sum_k gamma^k r_i,t+k

Dr. GRPO does not divide by the std: that division gives more weight to prompts that are almost always, or almost never,
solved. RLOO's baseline does not contain r_i, so it does not bias the gradient.

The std is unbiased (over n - 1), as in TRL and in the code of GiGPO's authors. A row that is alone in its group has
nothing to be compared with and gets 0. All numbers are fp64. Equal values in a group give exactly 0.

These functions do not spread advantages over tokens, weight by length or clip. Sampling spreads them
(`lensrl.train.sampling`); the loss does the rest (`lensrl.train.algorithms`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Real, Shaped

GRPO_EPSILON = 1e-4  # TRL's; the paper divides by the std alone
Labels = Sequence[Hashable] | Shaped[np.ndarray, "row"]  # the group, trajectory or state of each row
Normalise = Literal["mean", "mean_std"]
Baseline = Literal["trajectories", "steps"]


class GigpoAdvantages(NamedTuple):
    """One value per environment step; `total` is `episode` + step_weight * `step`."""

    episode: Float64[np.ndarray, "row"]
    step: Float64[np.ndarray, "row"]
    total: Float64[np.ndarray, "row"]


def grpo_advantages(rewards: Real[np.ndarray, "row"], group: Labels) -> Float64[np.ndarray, "row"]:
    """Return (r_i - mean) / (std + 1e-4) within each group (arXiv 2402.03300); 0 for a group of one.

    TRL computes the same in fp32. Raises ValueError for a reward that is not finite, or when the lengths differ.
    """
    rewards = _checked_rewards(rewards, group=group)
    return _centre(rewards, _codes(group), normalise="mean_std", epsilon=GRPO_EPSILON)


def dr_grpo_advantages(rewards: Real[np.ndarray, "row"], group: Labels) -> Float64[np.ndarray, "row"]:
    """Return r_i - mean within each group (arXiv 2503.20783); 0 for a group of one.

    Raises ValueError for a reward that is not finite, or when the lengths differ.
    """
    rewards = _checked_rewards(rewards, group=group)
    return _centre(rewards, _codes(group), normalise="mean", epsilon=0.0)


def rloo_advantages(rewards: Real[np.ndarray, "row"], group: Labels) -> Float64[np.ndarray, "row"]:
    """Return r_i - mean of the other rewards of its group (arXiv 2402.14740); 0 for a group of one.

    For a group of n this is n/(n - 1) times Dr. GRPO's advantage, and it is computed so.

    Raises ValueError for a reward that is not finite, or when the lengths differ.
    """
    rewards = _checked_rewards(rewards, group=group)
    groups = _codes(group)
    size = np.bincount(groups)[groups]  # of each row's group
    return _centre(rewards, groups, normalise="mean", epsilon=0.0) * size / np.maximum(size - 1, 1)


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
    """Return the advantages of environment steps (arXiv 2505.10978, eqs. 3 to 8).

    `episode` compares a trajectory's return with the returns of its group. `step` compares the discounted return from
    a step with the returns from the same state.

    Each row is a step. The rows of a trajectory are in time order; rows of other trajectories may stand between them.
    `anchor` is the state in which the step was taken. States are the same when they are equal and belong to the same
    group. A trajectory may visit a state more than once: each visit counts.

    With baseline `"trajectories"` the episode's mean (and std) are over the trajectories of the group, as in the paper.
    With `"steps"` they are over the steps of the group, the default of the authors' code: a trajectory then counts once
    per step, so long trajectories pull the mean towards their return.

    `"mean_std"` divides each part by (std + epsilon), with the std over the same set as the mean. It is the paper's
    other choice of F_norm.

    A group of one trajectory gets the episode advantage 0, and a state seen once the step advantage 0. The authors'
    code keeps the return of a single row as its episode advantage, uncompared.

    Raises ValueError for rewards that are not finite, lengths that differ, a trajectory in two groups, a gamma outside
    [0, 1], an epsilon that is not positive, and unknown options.
    """
    if normalise not in ("mean", "mean_std"):
        raise ValueError(f"normalise is {normalise!r}; it can be 'mean' or 'mean_std'")
    if baseline not in ("trajectories", "steps"):
        raise ValueError(f"baseline is {baseline!r}; it can be 'trajectories' or 'steps'")
    if not epsilon > 0:
        raise ValueError(f"epsilon is {epsilon}; it must be positive, or equal returns would be 0 / 0")
    rewards = _checked_rewards(rewards, trajectory=trajectory, group=group, anchor=anchor)
    episodes, groups = _codes(trajectory), _codes(group)
    group_of_episode = _group_of_each_episode(episodes, groups, trajectory=trajectory, group=group)

    # A^E: the undiscounted return of the whole trajectory, compared within its group.
    returns = np.zeros(len(group_of_episode))
    np.add.at(returns, episodes, rewards)
    if baseline == "trajectories":
        episode = _centre(returns, group_of_episode, normalise=normalise, epsilon=epsilon)[episodes]
    else:
        episode = _centre(returns[episodes], groups, normalise=normalise, epsilon=epsilon)

    # A^S: the discounted return from the step, compared within (group, state): another group's state is another state.
    states = _codes(list(zip(groups.tolist(), anchor, strict=True)))
    to_go = discounted_returns(rewards, trajectory, gamma=gamma)
    step = _centre(to_go, states, normalise=normalise, epsilon=epsilon)
    return GigpoAdvantages(episode, step, episode + step_weight * step)


def discounted_returns(
    rewards: Real[np.ndarray, "row"], trajectory: Labels, *, gamma: float
) -> Float64[np.ndarray, "row"]:
    """Return R_t = sum_k gamma^k r_{t+k} over the rest of the row's trajectory (arXiv 2505.10978).

    Raises ValueError for rewards that are not finite, lengths that differ, and a gamma outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; a discount is between 0 and 1")
    rewards = _checked_rewards(rewards, trajectory=trajectory)
    episodes = _codes(trajectory)
    returns = np.empty(len(rewards))
    following = np.zeros(len(rewards))  # per trajectory: the return from its next row
    for row in range(len(rewards) - 1, -1, -1):
        returns[row] = following[episodes[row]] = rewards[row] + gamma * following[episodes[row]]
    return returns


def _centre(
    values: Float64[np.ndarray, "row"], sets: Int[np.ndarray, "row"], *, normalise: Normalise, epsilon: float
) -> Float64[np.ndarray, "row"]:
    """Subtract from each value the mean of its set; for `mean_std`, divide by (unbiased std + epsilon)."""
    _, first, sizes = np.unique(sets, return_index=True, return_counts=True)
    shifted = values - values[first][sets]  # from the set's first value: equal values then give 0 without rounding
    deviation = shifted - (np.bincount(sets, shifted) / sizes)[sets]
    if normalise == "mean":
        return deviation
    variance = np.bincount(sets, deviation**2) / np.maximum(sizes - 1, 1)
    return deviation / (np.sqrt(variance) + epsilon)[sets]


def _codes(labels: Labels) -> Int[np.ndarray, "row"]:
    """Number the labels 0, 1, 2, ... in order of first appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], np.intp)


def _group_of_each_episode(
    episodes: Int[np.ndarray, "row"], groups: Int[np.ndarray, "row"], *, trajectory: Labels, group: Labels
) -> Int[np.ndarray, "episode"]:
    """Return the group of each trajectory, from the codes of the rows. The labels serve the error message.

    Raises ValueError for a trajectory in two groups.
    """
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


def _checked_rewards(rewards: Real[np.ndarray, "row"], **labels: Labels) -> Float64[np.ndarray, "row"]:
    """Return the rewards in fp64. Raises ValueError when one is not finite, or labels do not have one entry per row."""
    values = np.asarray(rewards, np.float64)
    for name, of_rows in labels.items():
        if values.shape != (len(of_rows),):
            raise ValueError(f"rewards has shape {values.shape} and {name} {len(of_rows)} rows; expected one per row")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"the reward of row {int(bad[0])} is {values[bad[0]]}; rewards must be finite")
    return values

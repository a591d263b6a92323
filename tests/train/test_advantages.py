"""Advantages against loops written from the papers' equations, numbers worked out by hand, and their laws."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensrl.train.advantages import (
    Baseline,
    Normalise,
    discounted_returns,
    dr_grpo_advantages,
    gigpo_advantages,
    grpo_advantages,
    rloo_advantages,
)

OF_COMPLETIONS = (grpo_advantages, dr_grpo_advantages, rloo_advantages)
rewards_st = st.floats(-4, 4, width=32)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Rewards and their groups, in any order, groups of any size."""
    rows = draw(st.lists(st.tuples(rewards_st, st.integers(0, 3)), min_size=1, max_size=16))
    return np.array([reward for reward, _ in rows], np.float64), [group for _, group in rows]


@st.composite
def episodes(draw: st.DrawFn) -> dict[str, Any]:
    """Steps of up to six trajectories in up to three groups, interleaved, over three states."""
    home = draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    steps = draw(st.lists(
        st.tuples(st.integers(0, len(home) - 1), rewards_st, st.sampled_from(["start", "door", "key"])),
        min_size=1, max_size=24,
    ))  # fmt: skip
    return {
        "rewards": np.array([reward for _, reward, _ in steps], np.float64),
        "trajectory": [f"t{trajectory}" for trajectory, _, _ in steps],
        "group": [home[trajectory] for trajectory, _, _ in steps],
        "anchor": [anchor for _, _, anchor in steps],
    }


def beside(value: float, others: Sequence[float], *, divide: bool, epsilon: float) -> float:
    """A value beside the values of its set (itself among them), with the standard library's statistics."""
    if len(others) == 1:
        return 0.0
    deviation = value - statistics.fmean(others)
    return deviation / (statistics.stdev(others) + epsilon) if divide else deviation


def gigpo_by_loops(
    steps: dict[str, Any], *, gamma: float, step_weight: float, normalise: str, baseline: str, epsilon: float
) -> tuple[list[float], list[float], list[float]]:
    """arXiv 2505.10978, one step at a time."""
    rewards, trajectory, group, anchor = (list(steps[key]) for key in ("rewards", "trajectory", "group", "anchor"))
    rows = range(len(rewards))
    whole = [sum(rewards[k] for k in rows if trajectory[k] == trajectory[t]) for t in rows]
    to_go = []
    for t in rows:
        rest = [rewards[k] for k in rows if k >= t and trajectory[k] == trajectory[t]]
        to_go.append(sum(gamma**k * reward for k, reward in enumerate(rest)))
    episode, step = [], []
    for t in rows:
        if baseline == "trajectories":
            others = list({trajectory[k]: whole[k] for k in rows if group[k] == group[t]}.values())
        else:
            others = [whole[k] for k in rows if group[k] == group[t]]
        episode.append(beside(whole[t], others, divide=normalise == "mean_std", epsilon=epsilon))
        same = [to_go[k] for k in rows if group[k] == group[t] and anchor[k] == anchor[t]]
        step.append(beside(to_go[t], same, divide=normalise == "mean_std", epsilon=epsilon))
    return episode, step, [e + step_weight * s for e, s in zip(episode, step, strict=True)]


def test_grpo_by_hand() -> None:
    """Rewards 1, 0, 0, 0: mean 1/4, unbiased std 1/2."""
    advantages = grpo_advantages(np.array([1, 0, 0, 0, 7.0]), ["a"] * 4 + ["b"])
    assert advantages == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3, 0], rel=1e-15)


def test_dr_grpo_by_hand() -> None:
    assert dr_grpo_advantages(np.array([1, 0, 5, 0, 0]), [0, 0, 1, 0, 0]).tolist() == [0.75, -0.25, 0, -0.25, -0.25]


def test_rloo_by_hand() -> None:
    """Rewards 1, 0, 0, 0: beside a mean of 0 for the first, of 1/3 for the others."""
    advantages = rloo_advantages(np.array([1, 0, 5, 0, 0]), [0, 0, 1, 0, 0])
    assert advantages == pytest.approx([1, -1 / 3, 0, -1 / 3, -1 / 3], rel=1e-15)


@given(grouped())
def test_rloo_agrees_with_loops(rows: tuple[np.ndarray, list[int]]) -> None:
    """arXiv 2402.14740: the baseline is the mean of the others, taken one row at a time."""
    rewards, group = rows
    expected = []
    for i, own in enumerate(rewards):
        others = [other for j, other in enumerate(rewards) if j != i and group[j] == group[i]]
        expected.append(own - statistics.fmean(others) if others else 0.0)
    assert rloo_advantages(rewards, group) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(grouped())
def test_rloo_is_dr_grpo_times_n_over_n_minus_1(rows: tuple[np.ndarray, list[int]]) -> None:
    rewards, group = rows
    size = np.array([group.count(label) for label in group])
    scaled = dr_grpo_advantages(rewards, group) * np.where(size > 1, size, 0) / np.maximum(size - 1, 1)
    assert rloo_advantages(rewards, group) == pytest.approx(scaled, rel=1e-12, abs=1e-12)


@given(grouped(), st.integers(0, 15), st.floats(-50, 50))
def test_the_baseline_of_rloo_does_not_contain_the_own_reward(
    rows: tuple[np.ndarray, list[int]], row: int, bonus: float
) -> None:
    """More reward for one completion is as much more advantage for it, and the others of its group pay for it."""
    rewards, group = rows
    row %= len(group)
    more = rewards.copy()
    more[row] += bonus
    size = group.count(group[row])
    change = rloo_advantages(more, group) - rloo_advantages(rewards, group)
    paid = np.where(np.array(group) == group[row], -bonus / max(size - 1, 1), 0.0)
    paid[row] = bonus if size > 1 else 0.0
    assert change == pytest.approx(paid, abs=1e-9)


@given(grouped())
def test_grpo_and_dr_grpo_agree_with_loops(rows: tuple[np.ndarray, list[int]]) -> None:
    rewards, group = rows
    for advantages, divide in ((grpo_advantages, True), (dr_grpo_advantages, False)):
        expected = [
            beside(r, [o for o, h in zip(rewards, group, strict=True) if h == g], divide=divide, epsilon=1e-4)
            for r, g in zip(rewards, group, strict=True)
        ]
        assert advantages(rewards, group) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(st.lists(rewards_st, min_size=4, max_size=4), min_size=1, max_size=5))
def test_grpo_agrees_with_torch(groups: list[list[float]]) -> None:
    rewards = torch.tensor(groups, dtype=torch.float64)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    ours = grpo_advantages(rewards.flatten().numpy(), np.repeat(np.arange(len(groups)), 4))
    np.testing.assert_allclose(ours, expected.flatten().numpy(), atol=1e-9)


@given(grouped())
def test_advantages_of_a_group_sum_to_zero_and_equal_rewards_have_none(rows: tuple[np.ndarray, list[int]]) -> None:
    rewards, group = rows
    for advantages in (rule(rewards, group) for rule in OF_COMPLETIONS):
        assert np.bincount(group, advantages) == pytest.approx(np.zeros(max(group) + 1), abs=1e-9)
    for of_equal in OF_COMPLETIONS:
        assert not of_equal(np.full(len(rewards), 0.1), group).any()  # 0.1 + 0.1 + 0.1 is not 0.3: exact all the same


@given(grouped(), st.randoms(use_true_random=False), st.floats(-100, 100))
def test_order_labels_and_a_common_shift_do_not_matter(
    rows: tuple[np.ndarray, list[int]], random: Any, shift: float
) -> None:
    rewards, group = rows
    order = random.sample(range(len(group)), len(group))
    names = {0: "z", 1: ("a", 1), 2: None, 3: 2.5}
    for advantages in OF_COMPLETIONS:
        ours = advantages(rewards, group)
        shuffled = advantages(rewards[order], [names[group[row]] for row in order])
        assert shuffled == pytest.approx(ours[order], rel=1e-9, abs=1e-9)
        assert advantages(rewards + shift, group) == pytest.approx(ours, rel=1e-6, abs=1e-6)


# Two tries at one maze. The first walks start, door, goal (reward 1); the second stays at the start and fails.
MAZE: dict[str, Any] = {
    "rewards": np.array([0.0, 1.0, 0.0, 0.0, 0.0]),
    "trajectory": [1, 1, 2, 2, 2],
    "group": ["maze"] * 5,
    "anchor": ["start", "door", "start", "start", "start"],
}


def test_gigpo_by_hand() -> None:
    """At the start, going on returns 0.95 and staying 0, three times; the door is seen once."""
    episode, step, total = gigpo_advantages(**MAZE, step_weight=2.0)
    assert episode == pytest.approx([0.5, 0.5, -0.5, -0.5, -0.5])
    mean = 0.95 / 4
    assert step == pytest.approx([0.95 - mean, 0, -mean, -mean, -mean])
    assert total == pytest.approx([0.5 + 2 * (0.95 - mean), 0.5, *[-0.5 - 2 * mean] * 3])


def test_over_steps_the_longer_trajectory_pulls_the_mean_its_way() -> None:
    """Episode returns 1, 1, 0, 0, 0: mean 2/5, unbiased variance (2 * 0.36 + 3 * 0.16) / 4 = 0.3."""
    assert gigpo_advantages(**MAZE, baseline="steps").episode == pytest.approx([0.6, 0.6, -0.4, -0.4, -0.4])
    scaled = gigpo_advantages(**MAZE, baseline="steps", normalise="mean_std", epsilon=1e-9)
    assert scaled.episode == pytest.approx(np.array([0.6, 0.6, -0.4, -0.4, -0.4]) / np.sqrt(0.3))


def test_the_same_state_in_another_group_is_another_state() -> None:
    steps = {
        "rewards": np.array([1.0, 0, 5, 5]), "trajectory": [0, 1, 2, 3], "group": [0, 0, 1, 1], "anchor": ["s"] * 4,
    }  # fmt: skip
    assert gigpo_advantages(**steps).step.tolist() == [0.5, -0.5, 0, 0]


@pytest.mark.parametrize("baseline", get_args(Baseline))
def test_a_group_of_one_trajectory_has_no_episode_advantage_but_its_revisits_are_compared(baseline: Any) -> None:
    episode, step, _ = gigpo_advantages(np.array([0, 0, 1.0]), [0] * 3, [0] * 3, list("aab"), baseline=baseline)
    assert not episode.any()
    assert step == pytest.approx([0.95 * (0.95 - 1) / 2, 0.95 * (1 - 0.95) / 2, 0])


def test_returns_are_discounted_within_the_trajectory_only() -> None:
    """Interleaved rows: x has 1, 2, 4 and y has 8."""
    returns = discounted_returns(np.array([1, 8, 2, 4]), ["x", "y", "x", "x"], gamma=0.5)
    assert returns.tolist() == [1 + 1 + 1, 8, 2 + 2, 4]


@given(
    episodes(), st.floats(0, 1), st.floats(-2, 2), st.sampled_from(get_args(Normalise)),
    st.sampled_from(get_args(Baseline)), st.sampled_from([1e-6, 0.1]),
)  # fmt: skip
def test_gigpo_agrees_with_loops(
    steps: dict[str, Any], gamma: float, step_weight: float, normalise: Any, baseline: Any, epsilon: float
) -> None:
    options: dict[str, Any] = {
        "gamma": gamma, "step_weight": step_weight, "normalise": normalise, "baseline": baseline, "epsilon": epsilon,
    }  # fmt: skip
    ours = gigpo_advantages(**steps, **options)
    # With mean_std, two roundings of returns that are equal on paper may differ by 1e-15 / 1e-6.
    for part, expected in zip(ours, gigpo_by_loops(steps, **options), strict=True):
        assert part == pytest.approx(expected, rel=1e-6, abs=1e-7)


@given(episodes(), st.sampled_from(get_args(Normalise)))
def test_gigpo_parts_sum_to_zero_over_the_sets_they_are_compared_in(steps: dict[str, Any], normalise: Any) -> None:
    trajectories = gigpo_advantages(**steps, normalise=normalise)
    over_steps = gigpo_advantages(**steps, normalise=normalise, baseline="steps")
    once = {label: row for row, label in enumerate(steps["trajectory"])}.values()
    for group in set(steps["group"]):
        rows = [row for row, label in enumerate(steps["group"]) if label == group]
        assert trajectories.episode[[row for row in once if row in rows]].sum() == pytest.approx(0, abs=1e-7)
        assert over_steps.episode[rows].sum() == pytest.approx(0, abs=1e-7)
        for anchor in set(steps["anchor"]):
            same = [row for row in rows if steps["anchor"][row] == anchor]
            assert trajectories.step[same].sum() == pytest.approx(0, abs=1e-7)


@given(episodes(), st.floats(-50, 50))
def test_a_reward_given_to_every_trajectory_at_its_end_changes_no_episode_advantage(
    steps: dict[str, Any], bonus: float
) -> None:
    last = list({label: row for row, label in enumerate(steps["trajectory"])}.values())
    rewards = steps["rewards"].copy()
    rewards[last] += bonus
    for baseline in get_args(Baseline):
        before = gigpo_advantages(**steps, baseline=baseline).episode
        after = gigpo_advantages(**(steps | {"rewards": rewards}), baseline=baseline).episode
        assert after == pytest.approx(before, abs=1e-9)
    # Undiscounted, every step's return moves by the bonus too, whatever the state.
    before = gigpo_advantages(**steps, gamma=1.0).total
    assert gigpo_advantages(**(steps | {"rewards": rewards}), gamma=1.0).total == pytest.approx(before, abs=1e-9)


@given(episodes())
def test_without_steps_of_their_own_gigpo_is_dr_grpo_and_grpo(steps: dict[str, Any]) -> None:
    """Episodes of one step without a step part: the rules for whole completions."""
    rewards, group = steps["rewards"], steps["group"]
    single = {"rewards": rewards, "trajectory": range(len(rewards)), "group": group, "anchor": group}
    for baseline in get_args(Baseline):
        plain = gigpo_advantages(**single, baseline=baseline).episode
        scaled = gigpo_advantages(**single, baseline=baseline, normalise="mean_std", epsilon=1e-4).episode
        assert plain == pytest.approx(dr_grpo_advantages(rewards, group), abs=1e-9)
        assert scaled == pytest.approx(grpo_advantages(rewards, group), abs=1e-9)


def test_no_rows_have_no_advantages() -> None:
    nothing = np.array([])
    for rule in OF_COMPLETIONS:
        assert rule(nothing, []).shape == (0,)
    assert gigpo_advantages(nothing, [], [], []).total.shape == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": ["maze"] * 4}, r"rewards has shape \(5,\) and group 4 rows; expected one per row"),
        ({"trajectory": [1]}, r"rewards has shape \(5,\) and trajectory 1 rows"),
        ({"anchor": ["s"] * 6}, r"rewards has shape \(5,\) and anchor 6 rows"),
        ({"rewards": np.array([0, 0, np.nan, 0, 0])}, "the reward of row 2 is nan; rewards must be finite"),
        ({"rewards": np.array([0, -np.inf, 0, 0, 0])}, "the reward of row 1 is -inf"),
        ({"group": list("aaaab")}, "trajectory 2 is in group 'a' at row 2 and in group 'b' at row 4"),
        ({"gamma": 1.01}, r"gamma is 1\.01"),
        ({"epsilon": 0.0}, r"epsilon is 0\.0; it must be positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gigpo_advantages(**(MAZE | changes))


@pytest.mark.parametrize("option", ["normalise", "baseline"])
def test_unknown_options_are_refused(option: str) -> None:
    plain: Any = inspect.unwrap(gigpo_advantages)  # without the check of types that only tests have
    with pytest.raises(ValueError, match=f"{option} is 'median'; it can be"):
        plain(**MAZE, **{option: "median"})


@pytest.mark.parametrize("advantages", OF_COMPLETIONS)
def test_completions_that_cannot_be_compared_are_refused(advantages: Any) -> None:
    with pytest.raises(ValueError, match=r"rewards has shape \(2,\) and group 1 rows"):
        advantages(np.array([1.0, 2.0]), [0])
    with pytest.raises(ValueError, match="the reward of row 1 is inf"):
        advantages(np.array([1.0, np.inf]), [0, 0])

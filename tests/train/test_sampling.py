"""GiGPO through TRL: what a training step plays, which advantage each token gets, and the loss made of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl

from lensrl.models.base import Base
from lensrl.recipe import CorridorTask, Recipe, Rl
from lensrl.tasks.corridor import Corridor
from lensrl.train.advantages import rloo_advantages
from lensrl.train.config import grpo_config
from lensrl.train.sampling import Episodes, spread_over_tokens
from lensrl.train.trainer import Trainer
from lensrl.train.training import train

GAMMA, WEIGHT = 0.8, 0.5
TASK = Corridor(CorridorTask(name="corridor"))


def broken(what: str) -> str:
    return f"trl {trl.__version__}: {what}. lensrl/train/sampling.py was written for trl 1.16 and relies on it."


def recipe(algorithm: str, **rl: Any) -> Recipe:
    settings = {
        "algorithm": algorithm, "steps": 1, "prompts_per_step": 3, "completions_per_prompt": 6,
        "max_completion_tokens": 8, "learning_rate": 1e-4,
    } | ({"gigpo": {"gamma": GAMMA, "step_weight": WEIGHT}} if algorithm == "gigpo" else {})  # fmt: skip
    return Recipe.model_validate({"model": "tiny:qwen3", "task": "corridor", "rl": settings | rl})


def spied(base: Base, monkeypatch: pytest.MonkeyPatch, settings: Recipe) -> tuple[dict[str, torch.Tensor], Any]:
    """What TRL's loss is given in the first step of training layer 7."""
    seen: dict[str, torch.Tensor] = {}
    original = Trainer._compute_loss

    def spy(self: Trainer, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        seen.update({key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)})
        return original(self, model, inputs)

    monkeypatch.setattr(Trainer, "_compute_loss", spy)
    training = train(base, TASK, settings, layers=[7], seed=0)
    assert training.status == "completed"
    assert "tool_mask" in seen, broken("the env_mask of a rollout no longer reaches the loss as tool_mask")
    for name in ("tool_mask", "completion_mask"):
        shape = tuple(seen[name].shape)
        assert shape == tuple(seen["completion_ids"].shape), broken(
            f"{name} has shape {shape}, not one entry per token"
        )
    return seen, training


def transcripts(base: Base, seen: dict[str, torch.Tensor]) -> list[list[tuple[str, str, float]]]:
    """(state, action, reward) of every turn of every row, from the tokens that the loss saw."""
    items = {item.prompt: item for item in TASK.items("train")}
    episodes = []
    for i in range(len(seen["prompt_ids"])):
        prompt = str(base.tokenizer.decode(seen["prompt_ids"][i][seen["prompt_mask"][i].bool()]))
        rest = str(base.tokenizer.decode(seen["completion_ids"][i][seen["completion_mask"][i].bool()]))
        game = TASK.reset(items[prompt])
        turns = []
        for line in (prompt + rest).replace("<eos>\n", "\n").removesuffix("\n").split("\n")[: TASK.max_turns]:
            state, _, action = line.partition(">")
            turns.append((state, action, game.step(action.replace("<eos>", "").strip()).reward))
        episodes.append(turns)
    return episodes


def by_hand(episodes: list[list[tuple[str, str, float]]]) -> list[list[float]]:
    """arXiv 2505.10978, eqs. 3 to 8, one turn at a time. A group is the rows with the same first state."""
    to_go = [
        [sum(GAMMA**k * later[2] for k, later in enumerate(turns[t:])) for t in range(len(turns))] for turns in episodes
    ]
    advantages = []
    for i, turns in enumerate(episodes):
        group = [j for j, other in enumerate(episodes) if other[0][0] == turns[0][0]]
        returns = {j: sum(turn[2] for turn in episodes[j]) for j in group}
        row = []
        for t, (state, _, _) in enumerate(turns):
            same = [to_go[j][u] for j in group for u, turn in enumerate(episodes[j]) if turn[0] == state]
            step = to_go[i][t] - sum(same) / len(same)
            row.append(returns[i] - sum(returns.values()) / len(group) + WEIGHT * step)
        advantages.append(row)
    return advantages


def test_every_token_of_a_turn_has_its_advantage_and_the_environment_none(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, training = spied(base, monkeypatch, recipe("gigpo"))
    episodes = transcripts(base, seen)
    expected = by_hand(episodes)
    assert len({turns[0][0] for turns in episodes}) == 3
    for i, turns in enumerate(episodes):
        written = (seen["tool_mask"][i] * seen["completion_mask"][i]).bool()
        ends = torch.diff(written.int(), append=torch.tensor([0])) == -1
        turn = torch.cumsum(ends, 0) - ends.int()  # of each token: how many turns ended before it
        assert int(turn[written].max()) + 1 == len(turns)
        found = seen["advantages"][i]
        assert (found[~written] == 0).all()
        for t, advantage in enumerate(expected[i]):
            of_turn = found[written & (turn == t)]
            assert of_turn.tolist() == pytest.approx([advantage] * len(of_turn), abs=1e-6)
            text = base.tokenizer.decode(seen["completion_ids"][i][written & (turn == t)])
            assert str(text).replace("<eos>", "").strip() == turns[t][1].replace("<eos>", "").strip()

    states = Counter((turns[0][0], state) for turns in episodes for state, _, _ in turns)
    total = sum(states.values())
    curve = training.curve
    assert curve.anchor_group_size == [pytest.approx(total / len(states))]
    assert curve.shared_anchor_share == [pytest.approx(sum(n for n in states.values() if n > 1) / total)]
    assert curve.turns == [pytest.approx(total / len(episodes))]
    assert curve.reward_mean == [pytest.approx(np.mean([sum(turn[2] for turn in turns) for turns in episodes]))]


@pytest.mark.parametrize("algorithm", ["gigpo", "grpo", "rloo"])
def test_the_gradient_is_that_of_a_hand_written_loss(
    base: Base, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """GiGPO: the mean over all tokens that the model wrote. GRPO: over a row's tokens, then over rows. RLOO: the sum
    over a row's tokens, then the mean over rows.
    """
    seen, training = spied(base, monkeypatch, recipe(algorithm))
    mask = seen["tool_mask"] * seen["completion_mask"]
    assert 0 < int(mask.sum()) < int(seen["completion_mask"].sum())
    model = base.fresh()
    ids = torch.cat([seen["prompt_ids"], seen["completion_ids"]], 1)
    attention = torch.cat([seen["prompt_mask"], seen["completion_mask"]], 1)
    start = seen["prompt_ids"].shape[1]
    logprobs = model(ids, attention_mask=attention).logits[:, start - 1 : -1].log_softmax(-1)
    chosen = logprobs.gather(-1, seen["completion_ids"][..., None]).squeeze(-1)
    if algorithm == "gigpo":
        loss = -(seen["advantages"] * chosen * mask).sum() / mask.sum()
    else:
        assert seen["advantages"].shape == (18,)
        lengths = mask.sum(1) if algorithm == "grpo" else 1
        loss = -(seen["advantages"] * (chosen * mask).sum(1) / lengths).mean()
    layer = [p for n, p in model.named_parameters() if base.blocks.layer(n) == 7]
    gradients = torch.autograd.grad(loss, layer)
    expected = float(sum(g.square().sum() for g in gradients)) ** 0.5
    assert training.curve.grad_norm[0] == pytest.approx(expected, rel=1e-3)


def test_micro_batches_give_the_same_update(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = spied(base, monkeypatch, recipe("gigpo"))[1]
    parts = spied(base, monkeypatch, recipe("gigpo", micro_batch=6))[1]
    assert parts.curve.grad_norm[0] == pytest.approx(whole.curve.grad_norm[0], rel=1e-4)


def test_gigpo_without_its_steps_is_the_episodes_advantage(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _ = spied(base, monkeypatch, recipe("gigpo", gigpo={"step_weight": 0.0}))
    episodes = transcripts(base, seen)
    for i, turns in enumerate(episodes):
        group = [sum(t[2] for t in other) for other in episodes if other[0][0] == turns[0][0]]
        values = seen["advantages"][i][(seen["tool_mask"][i] * seen["completion_mask"][i]).bool()]
        expected = sum(turn[2] for turn in turns) - sum(group) / len(group)
        assert values.tolist() == pytest.approx([expected] * len(values), abs=1e-6)


def test_an_episode_has_the_advantage_of_the_sum_of_its_rewards(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLOO in turns: its own advantages, one per row, after TRL's shuffle."""
    seen, _ = spied(base, monkeypatch, recipe("rloo"))
    episodes = transcripts(base, seen)
    returns = np.array([sum(reward for _, _, reward in turns) for turns in episodes])
    expected = rloo_advantages(returns, [turns[0][0] for turns in episodes])
    assert expected.any()
    assert seen["advantages"].tolist() == pytest.approx(expected, abs=1e-6)


def test_advantages_are_spread_over_the_tokens_of_their_turns() -> None:
    found = spread_over_tokens(np.array([1.0, 2.0, 3.0]), [[0, 0, -1, -1, 1], [0]], width=6)
    assert found.tolist() == [[1, 1, 0, 0, 2, 0], [3, 0, 0, 0, 0, 0]]


def test_trl_is_asked_for_the_mean_over_tokens(tmp_path: Path) -> None:
    config = grpo_config(recipe("gigpo"), seed=0, device="cpu", output_dir=str(tmp_path), max_grad_norm=1.0)
    assert (config.loss_type, config.scale_rewards) == ("dapo", "none")


def test_trl_hands_a_rollout_function_the_prompts_group_by_group(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract that `Episodes` stands on."""
    asked: list[list[str]] = []
    original = Episodes.rollout_func

    def spy(self: Episodes, ids: list[str], trainer: Any) -> dict[str, Any]:
        asked.append(ids)
        return original(self, ids, trainer)

    monkeypatch.setattr(Episodes, "rollout_func", spy)
    spied(base, monkeypatch, recipe("grpo", steps=2))
    groups = defaultdict(list)
    assert [len(ids) for ids in asked] == [18, 18]
    for ids in asked:
        for start in range(0, 18, 6):
            groups[start].append(set(ids[start : start + 6]))
    assert all(len(ids) == 1 for of_start in groups.values() for ids in of_start), broken(
        "a group is no longer the completions of one prompt"
    )


def test_rl_settings_of_gigpo_are_read() -> None:
    assert Rl.model_validate({"algorithm": "gigpo", "gigpo": {"normalise": "mean_std"}}).gigpo.normalise == "mean_std"

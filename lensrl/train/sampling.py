"""What a training step samples, and what TRL is told about it: completions of prompts, or episodes of an agent's task.

TRL samples completions itself and asks for their rewards. Episodes are played here and handed to TRL as long
completions in which the tokens of the environment are masked: TRL's `rollout_func` and its `env_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lensrl.models.generation import sampling_settings, stop_tokens, turn_ends
from lensrl.models.rollouts import Rollout, play
from lensrl.recipe import Recipe
from lensrl.tasks import AgentTask, Item, Task, batch
from lensrl.train.advantages import gigpo_advantages
from lensrl.train.recorder import Recorder


@runtime_checkable
class Sampling(Protocol):
    """What `lensrl.train.trainer.Trainer` needs to know about a task."""

    rollout_func: Any  # TRL's; None: TRL samples one completion per prompt itself

    def prompts(self) -> Dataset: ...

    def reward(self, completions: list[str], completion_ids: list[list[int]], id: list[str], **_: Any) -> list[float]:
        """TRL's reward function, called once per step with every row of it, group by group."""
        ...

    def advantages(self, width: int) -> torch.Tensor | None:
        """Advantages of the step's tokens, (row, width), where they are not those that TRL computes from rewards."""
        ...


class Completions:
    """One completion per prompt."""

    rollout_func = None

    def __init__(
        self, task: Task, recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recorder: Recorder
    ) -> None:
        self._task = task
        self._items = {item.id: item for item in task.items("train")}
        self._stop_tokens = set(stop_tokens(model, tokenizer))
        self._max_tokens = recipe.rl.max_completion_tokens
        self._recorder = recorder

    def prompts(self) -> Dataset:
        return Dataset.from_list([{"id": item.id, "prompt": item.prompt} for item in self._items.values()])

    def reward(self, completions: list[str], completion_ids: list[list[int]], id: list[str], **_: Any) -> list[float]:
        rewards = batch.rewards(self._task, [self._items[i] for i in id], completions)
        cut = [len(ids) >= self._max_tokens and ids[-1] not in self._stop_tokens for ids in completion_ids]
        self._recorder.record_completions(rewards, [len(ids) for ids in completion_ids], cut)
        return rewards

    def advantages(self, width: int) -> None:
        return None


class Episodes:
    """One episode per prompt, played turn by turn. The reward of an episode is the sum of its turns' rewards."""

    def __init__(
        self,
        task: AgentTask,
        recipe: Recipe,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recorder: Recorder,
    ) -> None:
        self._task = task
        self._recipe = recipe
        self._model = model
        self._tokenizer = tokenizer
        self._items: Mapping[str, Item] = {item.id: item for item in task.items("train")}
        self._recorder = recorder
        self._played: Sequence[Rollout] = ()
        self._turn = sampling_settings(
            turn_ends(model, tokenizer), tokenizer, max_tokens=recipe.rl.max_completion_tokens,
            temperature=recipe.rl.temperature,
        )  # fmt: skip
        self._turn.remove_invalid_values = True  # as in `grpo_config`

    def prompts(self) -> Dataset:
        return Dataset.from_list([{"id": i, "prompt": i} for i in self._items])  # two items may begin alike

    def rollout_func(self, ids: list[str], trainer: Any) -> dict[str, Any]:
        self._model.eval()  # keys and values are kept only where nothing is checkpointed
        self._played = play(self._model, self._tokenizer, self._task, [self._items[i] for i in ids], self._turn)
        self._model.train()
        return {
            "prompt_ids": [rollout.prompt for rollout in self._played],
            "completion_ids": [rollout.tokens for rollout in self._played],
            "env_mask": [[int(turn >= 0) for turn in rollout.turn] for rollout in self._played],
            "logprobs": None,  # the policy has not changed between sampling and the update
        }

    def reward(self, completions: list[str], completion_ids: list[list[int]], id: list[str], **_: Any) -> list[float]:
        played = self._played
        rewards = [sum(rollout.rewards) for rollout in played]
        self._recorder.record_completions(
            rewards, [rollout.length for rollout in played], [not rollout.done for rollout in played]
        )
        self._recorder.record_turns([len(rollout.rewards) for rollout in played])
        return rewards

    def advantages(self, width: int) -> torch.Tensor | None:
        rl = self._recipe.rl
        if rl.algorithm != "gigpo":
            return None
        rewards = np.array([reward for rollout in self._played for reward in rollout.rewards])
        trajectory = [i for i, rollout in enumerate(self._played) for _ in rollout.rewards]
        group = [i // rl.completions_per_prompt for i in trajectory]
        anchor = [anchor for rollout in self._played for anchor in rollout.anchors]
        of_steps = gigpo_advantages(rewards, trajectory, group, anchor, **rl.gigpo.model_dump()).total
        self._recorder.record_anchors(group, anchor)
        return spread(of_steps, [rollout.turn for rollout in self._played], width)


def spread(of_steps: np.ndarray, turns: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """The advantage of every turn on each of its tokens, (row, width); 0 on the environment's and on padding.

    `of_steps` holds the turns of all rows one after another; `turns` says of every token which turn of its row it
    belongs to, -1 for none.
    """
    advantages = torch.zeros(len(turns), width)
    start = 0
    for row, of_tokens in enumerate(turns):
        index = np.array(of_tokens)
        advantages[row, : len(index)] = torch.from_numpy(np.where(index >= 0, of_steps[start + index], 0.0))
        start += int(index.max()) + 1
    return advantages

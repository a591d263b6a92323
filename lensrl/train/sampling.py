"""Sampling of a training step: completions of prompts, or episodes of an agent's task.

Both are sampled here and given to TRL through its `rollout_func`, with the log-probability of each token as it was
sampled. TRL receives an episode as one long completion with the environment's tokens masked, through `env_mask`.
With `generation = "generate"`, TRL samples completions itself, as versions 0.1 and 0.2 of lensrl did.

Both kinds of sampling also compute the advantages of a step, for an algorithm that replaces TRL's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from lensrl.models.generation import sampling_settings, stop_tokens
from lensrl.models.histories import Written
from lensrl.models.noise import TRAINING, Row
from lensrl.models.prompts import Prompts
from lensrl.models.references import batches
from lensrl.models.rollouts import Rollout, play
from lensrl.models.sampler import Sampler
from lensrl.models.shards import gathered
from lensrl.recipe import Recipe, Rl
from lensrl.store.completions import as_text
from lensrl.tasks import AgentTask, Item, Task, batch
from lensrl.train import ranks
from lensrl.train.algorithms import ALGORITHMS
from lensrl.train.recorder import Recorder


@runtime_checkable
class Sampling(Protocol):
    """The part of training that depends on the kind of task: prompts, rewards and advantages."""

    rollout_func: Any  # TRL's; None: TRL samples one completion per prompt itself

    def prompts(self) -> Dataset:
        """Return TRL's training set: the columns `id` and `prompt`, one row per training item."""
        ...

    def tokens(self, prompt: str) -> list[int]:
        """Return the tokens of an entry of the column `prompt`."""
        ...

    def reward(self, completions: list[str], completion_ids: list[list[int]], id: list[str], **_: Any) -> list[float]:
        """Return the reward of every row of a step. TRL calls this once per step, with the rows group by group."""
        ...

    def advantages(self, width: int) -> torch.Tensor | None:
        """Return the advantages of the latest rewarded step, or None where TRL's own are meant.

        The shape is (row,), or (row, width) where tokens of a row differ; `width` is that of TRL's padded completions.
        """
        ...


class Completions:
    """Sampling of a task with one completion per prompt."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        model: PreTrainedModel,
        prompts: Prompts,
        recorder: Recorder,
        *,
        sampler: Sampler,
        seed: int,
    ) -> None:
        self._task = task
        self._rl = recipe.rl
        self._items = {item.id: item for item in task.items("train")}
        self._prompts = prompts
        self._stop_tokens = set(stop_tokens(model, prompts.tokenizer))
        self._recorder = recorder
        self._rewards: list[float] = []  # of the current step
        self._seed = seed
        self._model = model
        self._sampler = sampler
        self._settings = sampling_settings(
            stop_tokens(model, prompts.tokenizer), prompts.tokenizer, max_tokens=recipe.rl.max_completion_tokens,
            temperature=recipe.rl.temperature, top_p=recipe.rl.top_p, top_k=recipe.rl.top_k,
        )  # fmt: skip
        self._settings.remove_invalid_values = True  # as in `grpo_config`
        self._of_prompt = {prompts.text(item): item for item in self._items.values()}
        by_trl = recipe.generation == "generate" and recipe.rl.rollout_batch is None
        self.rollout_func = None if by_trl else self._rollout
        if ALGORITHMS[recipe.rl.algorithm].on_references:
            self.rollout_func = self._references

    def _rollout(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Complete the prompts of a step, `rl.rollout_batch` at a time."""
        ids = [self._prompts.tokens(prompt) for prompt in prompts]
        found: list[Written] = []
        with sampling_mode(self._model):
            self._sampler.refresh()
            keyed = [*zip(ids, step_rows(self._seed, trainer, len(ids)), strict=True)]
            for part in batches(keyed, self._rl.rollout_batch or len(ids)):
                found += self._sampler.generate([one for one, _ in part], self._settings, [row for _, row in part])
        return {
            "prompt_ids": ids,
            "completion_ids": [one.tokens for one in found],
            "logprobs": [one.logprobs for one in found] if found[0].logprobs else None,
        }

    def _references(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Return the references of the prompts, cut at the token limit, in the place of completions."""
        ids = [self._prompts.tokens(prompt) for prompt in prompts]
        forced = [self._prompts.forced(self._of_prompt[prompt])[0] for prompt in prompts]
        limit = self._rl.max_completion_tokens
        answers = [whole[len(prompt) :][:limit] for prompt, whole in zip(ids, forced, strict=True)]
        return {"prompt_ids": ids, "completion_ids": answers, "logprobs": None}

    def prompts(self) -> Dataset:
        return Dataset.from_list([{"id": i, "prompt": self._prompts.text(item)} for i, item in self._items.items()])

    def tokens(self, prompt: str) -> list[int]:
        return self._prompts.tokens(prompt)

    def reward(
        self, completions: list[str], completion_ids: list[list[int]], id: list[str], **given: Any
    ) -> list[float]:
        limit = self._rl.max_completion_tokens
        truncated = [len(ids) >= limit and ids[-1] not in self._stop_tokens for ids in completion_ids]
        said = [self._prompts.said(completion) for completion in completions]
        items, lengths = [self._items[i] for i in id], [len(ids) for ids in completion_ids]
        if self._rl.reward == "random":
            step = given["trainer_state"].global_step  # TRL's; a run that was resumed goes on with its own coins
            self._rewards = (
                np.random.default_rng([self._seed, step, ranks.rank()]).integers(0, 2, len(id)).astype(float).tolist()
            )
        else:
            self._rewards = batch.rewards(self._task, items, said)
        self._recorder.record_completions(self._rewards, lengths, truncated)
        self._recorder.record_texts(items, said, self._rewards, lengths, truncated)
        return self._rewards

    def advantages(self, width: int) -> torch.Tensor | None:
        return row_advantages(self._rewards, self._rl)


class Episodes:
    """Sampling of a task in turns: one episode per prompt. An episode's reward is the sum of its turns' rewards."""

    def __init__(
        self,
        task: AgentTask,
        recipe: Recipe,
        model: PreTrainedModel,
        prompts: Prompts,
        recorder: Recorder,
        *,
        sampler: Sampler,
        seed: int,
    ) -> None:
        self._task = task
        self._rl = recipe.rl
        self._seed = seed
        self._model = model
        self._prompts = prompts
        self._sampler = sampler
        self._items: Mapping[str, Item] = {item.id: item for item in task.items("train")}
        self._recorder = recorder
        self._rollouts: Sequence[Rollout] = ()  # of the current step
        self._turn_settings = sampling_settings(
            prompts.turn_ends(model), prompts.tokenizer, max_tokens=recipe.rl.max_completion_tokens,
            temperature=recipe.rl.temperature, top_p=recipe.rl.top_p, top_k=recipe.rl.top_k,
        )  # fmt: skip
        self._turn_settings.remove_invalid_values = True  # as in `grpo_config`

    def prompts(self) -> Dataset:
        # TRL hands the "prompt" to `rollout_func`: the id tells apart two items that begin alike.
        return Dataset.from_list([{"id": i, "prompt": i} for i in self._items])

    def tokens(self, prompt: str) -> list[int]:
        return self._prompts.ids(self._items[prompt])

    def rollout_func(self, ids: list[str], trainer: Any) -> dict[str, Any]:
        """Play one episode of every item, `rl.rollout_batch` at a time, and return them as TRL's completions."""
        rollouts: list[Rollout] = []
        with sampling_mode(self._model):
            self._sampler.refresh()
            keyed = [*zip(ids, step_rows(self._seed, trainer, len(ids)), strict=True)]
            for part in batches(keyed, self._rl.rollout_batch or len(ids)):
                items, rows = [self._items[one] for one, _ in part], [row for _, row in part]
                rollouts += play(self._sampler, self._prompts, self._task, items, self._turn_settings, rows)
        self._rollouts = rollouts
        return {
            "prompt_ids": [rollout.prompt for rollout in rollouts],
            "completion_ids": [rollout.tokens for rollout in rollouts],
            "env_mask": [[int(turn >= 0) for turn in rollout.turn] for rollout in rollouts],
            "logprobs": [rollout.logprobs for rollout in rollouts] if any(rollouts[0].logprobs) else None,
        }

    def reward(self, completions: list[str], completion_ids: list[list[int]], id: list[str], **_: Any) -> list[float]:
        rewards, played = self._episode_rewards(), self._rollouts
        lengths, truncated = [rollout.length for rollout in played], [not rollout.done for rollout in played]
        self._recorder.record_completions(rewards, lengths, truncated)
        texts = [as_text(rollout.texts) for rollout in played]
        self._recorder.record_texts([rollout.item for rollout in played], texts, rewards, lengths, truncated)
        self._recorder.record_turns([len(rollout.rewards) for rollout in self._rollouts])
        return rewards

    def advantages(self, width: int) -> torch.Tensor | None:
        algorithm = ALGORITHMS[self._rl.algorithm]
        if algorithm.advantages is None or not algorithm.in_turns:
            return row_advantages(self._episode_rewards(), self._rl)
        # One entry per turn, the turns of all episodes one after another.
        rewards = np.array([reward for rollout in self._rollouts for reward in rollout.rewards])
        trajectory = [i for i, rollout in enumerate(self._rollouts) for _ in rollout.rewards]
        group = [i // self._rl.completions_per_prompt for i in trajectory]
        anchor = [anchor for rollout in self._rollouts for anchor in rollout.anchors]
        self._recorder.record_anchors(group, anchor)
        of_turns = algorithm.advantages(rewards, trajectory, group, anchor, **self._rl.algorithm_settings)
        return spread_over_tokens(of_turns, [rollout.turn for rollout in self._rollouts], width)

    def _episode_rewards(self) -> list[float]:
        return [sum(rollout.rewards) for rollout in self._rollouts]


def step_rows(seed: int, trainer: Any, count: int) -> list[Row]:
    """Return the keys of the random numbers of a training step: the run's seed, the step, and the row.

    Rows are counted over all ranks, so a completion has the same numbers on one device and on several.
    """
    first = ranks.rank() * count
    return [(seed, TRAINING, int(trainer.state.global_step), row) for row in range(first, first + count)]


@contextmanager
def sampling_mode(model: PreTrainedModel) -> Iterator[None]:
    """Put a model out of training mode, and gather its shards.

    With gradient checkpointing, training mode keeps no keys and values.
    """
    model.eval()
    try:
        with gathered(model):
            yield
    finally:
        model.train()


def row_advantages(rewards: Sequence[float], rl: Rl) -> torch.Tensor | None:
    """Return one advantage per completion or episode, (row,), or None where TRL's own are meant.

    Rows stand group by group, `rl.completions_per_prompt` to a group.
    """
    algorithm = ALGORITHMS[rl.algorithm]
    if algorithm.advantages is None:
        return None
    group = np.arange(len(rewards)) // rl.completions_per_prompt
    return torch.from_numpy(algorithm.advantages(np.array(rewards), group, **rl.algorithm_settings))


def spread_over_tokens(turn_advantages: np.ndarray, turns: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """Give every token the advantage of its turn, (row, width); 0 for the environment's tokens and for padding.

    `turn_advantages` holds the turns of all rows one after another. `turns` has, for each row, the turn of each token,
    counted within the row; -1 for a token of the environment.
    """
    advantages = torch.zeros(len(turns), width)
    start = 0  # of the row's turns in `turn_advantages`
    for row, turn_of_token in enumerate(turns):
        turn = np.array(turn_of_token)
        advantages[row, : len(turn)] = torch.from_numpy(np.where(turn >= 0, turn_advantages[start + turn], 0.0))
        start += int(turn.max()) + 1
    return advantages

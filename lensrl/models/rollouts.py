"""Play episodes of a task in turns.

A turn of the model is sampled with all earlier tokens in its context, exactly as they were written. Nothing is
tokenised again, so the trained policy is the sampled policy. The history is concatenated. The authors of GiGPO proceed
differently: they rebuild a prompt from a summary of the last few turns for every turn, and train on each turn alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lensrl.errors import LensrlError
from lensrl.models.generation import end_tokens, left_padded, pad_id, sample, until_end
from lensrl.models.prompts import Prompts
from lensrl.tasks import AgentTask, Episode, Item


@dataclass
class Rollout:
    """A played episode: `tokens` follow `prompt`.

    `turn` holds the number of the turn in which the model wrote each token, and -1 for tokens of the environment.
    `rewards` and `anchors` have one entry per turn of the model. `done` is False if the episode used up its turns
    without an end. `score` is the score after the last turn.
    """

    item: Item
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    anchors: list[Hashable] = field(default_factory=list)
    done: bool = False
    score: float = 0.0

    @property
    def length(self) -> int:
        """The number of tokens that the model wrote."""
        return sum(turn >= 0 for turn in self.turn)


def play(
    model: PreTrainedModel,
    prompts: Prompts,
    task: AgentTask,
    items: Sequence[Item],
    settings: GenerationConfig,
) -> list[Rollout]:
    """Play one episode of every item, turn by turn, in all episodes at once.

    `settings` are the sampling settings of one turn. Raises LensrlError for a reward or a score that is not finite.
    """
    rollouts = [Rollout(item, prompts.ids(item)) for item in items]
    playing: list[tuple[Rollout, Episode]] = [(rollout, task.reset(rollout.item)) for rollout in rollouts]
    histories = Histories(model, prompts.tokenizer, [rollout.prompt for rollout in rollouts])
    for _ in range(task.max_turns):
        turns = histories.continued(settings)
        seen = [
            _take_turn(rollout, episode, tokens, prompts)
            for (rollout, episode), tokens in zip(playing, turns, strict=True)
        ]
        going = [row for row, (rollout, _) in enumerate(playing) if not rollout.done]
        if not going:
            break
        playing = [playing[row] for row in going]
        histories.keep(going)
        histories.extend([seen[row] for row in going])
    return rollouts


def _take_turn(rollout: Rollout, episode: Episode, tokens: list[int], prompts: Prompts) -> list[int]:
    """Act on the model's text, and return the tokens of the environment's answer."""
    text = str(prompts.tokenizer.decode(tokens, skip_special_tokens=True))
    rollout.tokens += tokens
    rollout.turn += [len(rollout.rewards)] * len(tokens)
    rollout.anchors.append(episode.anchor)
    answer = episode.step(prompts.action(text))
    rollout.rewards.append(float(answer.reward))
    rollout.done, rollout.score = answer.done, float(episode.score)
    if not math.isfinite(rollout.rewards[-1] + rollout.score):
        raise LensrlError(
            f"item {rollout.item.id}: turn {len(rollout.rewards)} ({text!r}) gave the reward {answer.reward} and the "
            f"score {episode.score}; the task must give finite numbers"
        )
    if answer.done:
        return []
    seen = prompts.seen(rollout.item, tokens, answer.text)
    rollout.tokens += seen
    rollout.turn += [-1] * len(seen)
    return seen


class Histories:
    """Texts that grow turn by turn, with the keys and values of all tokens that were read.

    All rows are as wide as the longest row at every turn. The mask excludes the gaps from attention and from positions.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]]
    ) -> None:
        self._model = model
        self._pad = pad_id(tokenizer)
        self._cache: Cache | None = None
        self._ids, self._mask = left_padded(prompts, self._pad)

    @torch.no_grad()
    def continued(self, settings: GenerationConfig) -> list[list[int]]:
        """Sample the model's next turn in every row, append it, and return its tokens."""
        width = self._ids.shape[1]
        output, self._cache = sample(self._model, self._ids, self._mask, settings, self._cache)
        ends = end_tokens(settings)  # hundreds, if many tokens of a vocabulary contain a line break
        turns = [until_end(ends, tokens)[0] for tokens in output[:, width:].tolist()]
        lengths = torch.tensor([len(tokens) for tokens in turns])
        self._ids = output
        self._mask = torch.cat([self._mask, (torch.arange(output.shape[1] - width) < lengths[:, None]).long()], 1)
        return turns

    def extend(self, rows: Sequence[Sequence[int]]) -> None:
        """Append the environment's answer to every row."""
        ids, mask = left_padded(rows, self._pad)
        self._ids, self._mask = torch.cat([self._ids, ids], 1), torch.cat([self._mask, mask], 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        self._ids, self._mask = self._ids[rows], self._mask[rows]
        if self._cache is not None:
            self._cache.batch_select_indices(torch.tensor(rows, device=self._model.device))

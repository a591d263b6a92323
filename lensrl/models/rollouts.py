"""Play episodes of a task in turns.

A turn of the model is sampled with all earlier tokens in its context, exactly as they were written. Nothing is
tokenised again, so the trained policy is the sampled policy. The history is concatenated. The authors of GiGPO proceed
differently: they rebuild a prompt from a summary of the last few turns for every turn, and train on each turn alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from transformers import GenerationConfig

from lensrl.errors import LensrlError
from lensrl.models.histories import Written
from lensrl.models.noise import Row
from lensrl.models.prompts import Prompts
from lensrl.models.sampler import Sampler
from lensrl.tasks import AgentTask, Episode, Item


@dataclass
class Rollout:
    """A played episode: `tokens` follow `prompt`.

    `turn` holds the number of the turn in which the model wrote each token, and -1 for tokens of the environment.
    `logprobs` holds the log-probability of each token as it was sampled, and 0 for tokens of the environment.
    `texts` holds the model's texts and the environment's in alternation, the model's first.
    `rewards` and `anchors` have one entry per turn of the model. `done` is False if the episode used up its turns
    without an end. `score` is the score after the last turn.
    """

    item: Item
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    turn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    anchors: list[Hashable] = field(default_factory=list)
    done: bool = False
    score: float = 0.0

    @property
    def length(self) -> int:
        """The number of tokens that the model wrote."""
        return sum(turn >= 0 for turn in self.turn)


def play(
    sampler: Sampler,
    prompts: Prompts,
    task: AgentTask,
    items: Sequence[Item],
    settings: GenerationConfig,
    rows: Sequence[Row],
) -> list[Rollout]:
    """Play one episode of every item, turn by turn, in all episodes at once.

    `settings` are the sampling settings of one turn, and `rows` the keys of the episodes' random numbers. Raises
    LensrlError for a reward or a score that is not finite.
    """
    rollouts = [Rollout(item, prompts.ids(item)) for item in items]
    playing: list[tuple[Rollout, Episode]] = [(rollout, task.reset(rollout.item)) for rollout in rollouts]
    histories = sampler.start([rollout.prompt for rollout in rollouts], rows)
    for _ in range(task.max_turns):
        turns = histories.continued(settings)
        seen = [
            _take_turn(rollout, episode, written, prompts)
            for (rollout, episode), written in zip(playing, turns, strict=True)
        ]
        going = [row for row, (rollout, _) in enumerate(playing) if not rollout.done]
        if not going:
            break
        playing = [playing[row] for row in going]
        histories.keep(going)
        histories.extend([seen[row] for row in going])
    return rollouts


def _take_turn(rollout: Rollout, episode: Episode, written: Written, prompts: Prompts) -> list[int]:
    """Act on the model's text, and return the tokens of the environment's answer."""
    text = str(prompts.tokenizer.decode(written.tokens, skip_special_tokens=True))
    rollout.tokens += written.tokens
    rollout.logprobs += written.logprobs
    rollout.turn += [len(rollout.rewards)] * len(written.tokens)
    rollout.anchors.append(episode.anchor)
    answer = episode.step(prompts.action(text))
    rollout.texts += [text] if answer.done and not answer.text else [text, answer.text]
    rollout.rewards.append(float(answer.reward))
    rollout.done, rollout.score = answer.done, float(episode.score)
    if not math.isfinite(rollout.rewards[-1] + rollout.score):
        raise LensrlError(
            f"item {rollout.item.id}: turn {len(rollout.rewards)} ({text!r}) gave the reward {answer.reward} and the "
            f"score {episode.score}; the task must give finite numbers"
        )
    if answer.done:
        return []
    seen = prompts.seen(rollout.item, written.tokens, answer.text)
    rollout.tokens += seen
    rollout.logprobs += [0.0] * len(seen)
    rollout.turn += [-1] * len(seen)
    return seen

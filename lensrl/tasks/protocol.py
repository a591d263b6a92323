"""What a task is: items with a prompt and a reference answer, and a reward for a completion.

Nothing here knows about models, tokenizers or trainers. A completion is the text that a model wrote after the
prompt, without the end-of-sequence token. In a task in turns (an agent's), the model writes a line, the environment
answers, and so on until the episode is over.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Item:
    """One problem of a benchmark.

    `id` is unique within its benchmark and the same in every run of a study, so that scores can be paired.
    `reference` is a correct completion, as the model is expected to write it after `prompt`. In a task in turns it is
    a whole episode that succeeds, as a tuple: what the model writes and what the environment answers, in alternation,
    the model first and last. `judged_by` is what completions are judged by where that is not the reference (unit
    tests, say): runs are compared only where it was the same.
    """

    id: str
    prompt: str
    reference: str | tuple[str, ...]
    benchmark: str
    judged_by: str = ""

    @property
    def written(self) -> tuple[str, ...]:
        """The reference in pieces: the model's at even places, the environment's at odd ones."""
        return (self.reference,) if isinstance(self.reference, str) else self.reference


@runtime_checkable
class Task(Protocol):
    """A source of items and the judge of completions.

    `reward` and `score` both lie in [0, 1] for the tasks shipped here; RL maximises the first, a study reports the
    second. They differ where training wants a shaped signal that a report must not contain.
    """

    def items(self, split: Split) -> list[Item]:
        """Every item of a split, in an order that never changes."""
        ...

    def reward(self, item: Item, completion: str) -> float:
        """What RL maximises."""
        ...

    def score(self, item: Item, completion: str) -> float:
        """What a study reports."""
        ...


@dataclass(frozen=True)
class Turn:
    """What an environment answers to an action: text for the model to read, a reward, and whether that was the end."""

    text: str
    reward: float
    done: bool


class Episode(Protocol):
    """One game being played. It begins where the item's prompt ends."""

    @property
    def anchor(self) -> Hashable:
        """The state that the next action is taken in: equal for equal states of one item (GiGPO compares those)."""
        ...

    @property
    def score(self) -> float:
        """What a study reports, after the last turn: 1 for a solved item, 0 otherwise."""
        ...

    def step(self, action: str) -> Turn:
        """Act. An action that cannot be made costs a penalty and does not end the episode."""
        ...


@runtime_checkable
class AgentTask(Protocol):
    """A task in turns. The prompt of an item is what the model reads before its first action.

    A turn of the model ends with a line break or an end of sequence; the action is its text without them.
    """

    max_turns: int

    def items(self, split: Split) -> list[Item]:
        """Every item of a split, in an order that never changes."""
        ...

    def reset(self, item: Item) -> Episode:
        """A new episode of an item, the same every time."""
        ...

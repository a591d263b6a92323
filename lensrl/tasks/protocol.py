"""What a task is: items with a prompt and a reference answer, and a reward for a completion.

Nothing here knows about models, tokenizers or trainers. A completion is the text that a model wrote after the
prompt, without the end-of-sequence token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Item:
    """One problem of a benchmark.

    `id` is unique within its benchmark and the same in every run of a study, so that scores can be paired.
    `reference` is a correct completion, as the model is expected to write it after `prompt`.
    """

    id: str
    prompt: str
    reference: str
    benchmark: str


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

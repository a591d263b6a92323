"""The contract of a task: items with prompts and references, and verdicts on completions.

A task answers two questions: which problems is the model asked, and how good is a completion? It knows nothing about
models, tokenizers or trainers. There are two kinds:

- `Task`: the model writes one completion to a prompt. A completion is the text after the prompt, without the
  end-of-sequence token. In a chat, it begins with `prompt.assistant_prefix`: it is all that the assistant says.
- `AgentTask`, a task in turns: the model writes a line, the environment answers, and so on until the episode ends.

A task of your own is a class without arguments in a file beside the recipe, with the methods of one of the two kinds:

    from lensrl.tasks import Item

    class Reverse:
        def items(self, split):
            words = ["stone", "water"] if split == "train" else ["cloud", "field"]
            return [Item(id=w, prompt=f"{w} reversed: ", reference=w[::-1], benchmark="reverse") for w in words]

        def reward(self, item, completion):  # RL maximises this
            return self.score(item, completion)

        def score(self, item, completion):  # the study reports this
            return float(completion.strip() == item.reference)

The recipe names it: `[task]` with `name = "reverse.py:Reverse"`. No base class is needed: these classes are protocols.
`lensrl.tasks.own` checks such a task before anything is trained:

- `items` returns a list with at least one `Item`, and equal lists in two calls. Give random numbers a fixed seed;
- the texts of an item are not empty, and ids are unique within a split;
- every reward and score is a finite number.

A `Task` that judges many completions faster in one call may add the methods of `lensrl.tasks.batch.BatchTask`. A task
whose completions give short answers may add `answer` (`lensrl.tasks.batch.AnswerTask`): samples of an item then vote.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Item:
    """One problem of a benchmark.

    `id` is unique within its benchmark and the same in every run of a study, so that scores can be paired. In a task of
    your own it is unique within its split.

    `prompt` is the text that the model reads first. `benchmark` names the group of items over which scores are averaged
    first; the score of a run is the mean over benchmarks.

    `reference` is a correct completion, as the model should write it after `prompt`. In a task in turns it is a whole
    successful episode, as a tuple of texts: the model's and the environment's in alternation, the model first and last.

    `judged_by` is the text that decides about completions if it is not the reference (unit tests, for example). Runs
    are compared only if it was the same in both.
    """

    id: str
    prompt: str
    reference: str | tuple[str, ...]
    benchmark: str
    judged_by: str = ""

    @property
    def written(self) -> tuple[str, ...]:
        """The reference in pieces: the model's text at even places, the environment's at odd places."""
        return (self.reference,) if isinstance(self.reference, str) else self.reference


@runtime_checkable
class Task(Protocol):
    """A task with one completion per prompt: the source of items and the judge of completions.

    RL maximises `reward`, and a study reports `score`. They differ where training needs a shaped signal that a report
    must not contain. Both lie in [0, 1] for the tasks shipped here.
    """

    def items(self, split: Split) -> list[Item]:
        """Return every item of a split, in an order that never changes."""
        ...

    def reward(self, item: Item, completion: str) -> float:
        """Return the reward of a completion, which RL maximises."""
        ...

    def score(self, item: Item, completion: str) -> float:
        """Return the score of a completion, which a study reports."""
        ...


@dataclass(frozen=True)
class Turn:
    """The environment's answer to an action.

    `text` is what the model reads next, `reward` a number, and `done` says whether the episode has ended.
    """

    text: str
    reward: float
    done: bool


class Episode(Protocol):
    """One game in progress. It begins where the item's prompt ends."""

    @property
    def anchor(self) -> Hashable:
        """The state in which the next action is taken.

        Equal states of one item must have equal anchors: GiGPO compares steps with the same anchor.
        """
        ...

    @property
    def score(self) -> float:
        """The score that a study reports, after the last turn: 1 for a solved item, 0 otherwise."""
        ...

    def step(self, action: str) -> Turn:
        """Take an action. An impossible action costs a penalty and does not end the episode."""
        ...


@runtime_checkable
class AgentTask(Protocol):
    """A task in turns. The model reads the prompt of an item before its first action.

    A turn of the model ends with a line break or an end of sequence. The action is the text of the turn without them.
    In a chat, a turn is a message, and the action is its last line (`lensrl.models.prompts.Prompts.action`).
    `max_turns` is the most turns of the model in an episode.
    """

    max_turns: int

    def items(self, split: Split) -> list[Item]:
        """Return every item of a split, in an order that never changes."""
        ...

    def reset(self, item: Item) -> Episode:
        """Return a new episode of an item, the same every time."""
        ...

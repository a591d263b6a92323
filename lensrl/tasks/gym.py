"""Data sets of reasoning-gym: procedurally generated problems, judged by their own verifiers.

A data set is a function of its options, a seed and an index. The first `test_items` indices are held out. The next
`train_items` indices are for training, without questions that occur a second time. Two neighbouring seeds would not
separate the splits: in most data sets, item i of seed s equals item i - 1 of seed s + 1.

The answer of a completion is the content of its last `<answer>` tags, as reasoning-gym extracts it, or else the whole
completion without surrounding spaces. Reward and score are the verifier's, in [0, 1]. Many verifiers give a partial
score to an answer that contains the right one. A verifier that raises, or exceeds the limits of `lensrl.tasks.judge`,
gives 0. Some verifiers `eval` the answer. The limits hold for these too, but they are not a sandbox.
"""

from __future__ import annotations

import json
from functools import cache, cached_property
from typing import Any

from lensrl.errors import RecipeError, did_you_mean, reason
from lensrl.recipe import GymTask
from lensrl.tasks.judge import Judge
from lensrl.tasks.protocol import Item, Split

_verify = Judge("lensrl.tasks.gym:verify")  # one child for all tasks of this process


class Gym:
    """One data set of reasoning-gym. Raises RecipeError for an unknown name or unknown options."""

    def __init__(self, settings: GymTask) -> None:
        self.settings = settings
        self._options = json.dumps(settings.options, sort_keys=True)
        self._dataset = _open_dataset(settings)

    def items(self, split: Split) -> list[Item]:
        """Return the items of a split. Raises RecipeError if the data set has too few different questions."""
        indices = range(len(self._entries))
        held_out = self.settings.test_items
        if split == "test":
            return [self._item(index) for index in indices[:held_out]]
        asked = {self._entries[index]["question"] for index in indices[:held_out]}
        kept: list[Item] = []
        for index in indices[held_out:]:
            if self._entries[index]["question"] not in asked:
                asked.add(self._entries[index]["question"])
                kept.append(self._item(index))
        if not kept:
            raise RecipeError(
                f"reasoning-gym's {self.settings.dataset} has too few questions with these options: all "
                f"{self.settings.train_items} training items are among the {held_out} held out; lower task.test_items"
            )
        return kept

    def reward(self, item: Item, completion: str) -> float:
        """Return the score."""
        return self.score(item, completion)

    def score(self, item: Item, completion: str) -> float:
        """Return the verifier's score of the completion's answer, in [0, 1]."""
        from reasoning_gym.utils import extract_answer

        answer = extract_answer(completion)
        entry = self._entries[int(item.id.rpartition("-")[2])]
        score = _verify(self.settings.dataset, self._options, completion.strip() if answer is None else answer, entry)
        return min(max(float(score or 0), 0.0), 1.0)

    @cached_property
    def _entries(self) -> list[dict[str, Any]]:
        """All problems of both splits.

        Raises RecipeError if a problem cannot be made, differs between two calls, or has no reference answer.
        """
        name = self.settings.dataset
        entries: list[dict[str, Any]] = []
        for index in range(self.settings.test_items + self.settings.train_items):
            try:
                entries.append(self._dataset[index])
            except Exception as error:  # a generator may raise anything
                raise RecipeError(f"reasoning-gym's {name} cannot make item {index}: {reason(error)}") from None
            if not isinstance(entries[-1]["answer"], str):
                raise RecipeError(f"reasoning-gym's {name} has no reference answers, which a study needs to measure")
        again = _open_dataset(self.settings)
        if any(again[index]["question"] != entry["question"] for index, entry in enumerate(entries[:4])):
            raise RecipeError(f"reasoning-gym's {name} makes other problems each time, also with the same seed")
        return entries

    def _item(self, index: int) -> Item:
        entry, prompt = self._entries[index], self.settings.prompt
        answer = f"<answer>{entry['answer']}</answer>" if "<answer>" in prompt else entry["answer"]
        name = self.settings.dataset
        return Item(f"{name}-{index}", prompt.replace("{question}", entry["question"]), answer, name)


def verify(name: str, options: str, answer: str, entry: dict[str, Any]) -> float:
    """Return the verdict of a data set's verifier. It runs in the judge's child process. `options` are JSON."""
    return _verifier(name, options).score_answer(answer, entry)


@cache
def _verifier(name: str, options: str) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(name, size=1, seed=0, **json.loads(options))


def _open_dataset(settings: GymTask) -> Any:
    """Open the data set of a recipe. Raises RecipeError for a missing package, an unknown name or unknown options."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError:
        raise RecipeError('task gym needs reasoning-gym: pip install "lensrl[gym]" (or reasoning-gym itself)') from None
    if settings.dataset not in DATASETS:
        raise RecipeError(
            f"task.dataset: reasoning-gym has no {settings.dataset!r}{did_you_mean(settings.dataset, DATASETS)}"
        )
    known = set(DATASETS[settings.dataset][1].__dataclass_fields__) - {"seed", "size"}
    for option in settings.options:
        if option not in known:
            raise RecipeError(
                f"task.options: reasoning-gym's {settings.dataset} has no option {option!r}"
                f"{did_you_mean(option, sorted(known))}"
            )
    size = settings.test_items + settings.train_items
    try:
        return create_dataset(settings.dataset, size=size, seed=settings.seed, **settings.options)
    except Exception as error:  # each data set raises its own errors for wrong options
        raise RecipeError(f"task.options: reasoning-gym's {settings.dataset}: {reason(error)}") from None

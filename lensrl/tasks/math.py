"""Mathematics with checkable answers: local JSON Lines files, judged by math-verify.

GSM8K's solutions end in `#### 42`; the text before is reasoning, the text after is the answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from math_verify import parse, verify

from lensrl.errors import RecipeError
from lensrl.recipe import MathTask
from lensrl.tasks.protocol import Item, Split

QUESTION_KEYS = ("question", "problem")
ANSWER_KEYS = ("answer", "solution")  # what a completion is compared with
SOLUTION_KEYS = ("solution", "answer")  # what a model would write, as far as the file tells


def gold_answer(solution: str) -> str:
    """The final answer in a solution: what follows GSM8K's last `####`, or the whole text."""
    return solution.rpartition("####")[2].strip()


def same_answer(gold: str, completion: str) -> bool:
    """Whether a completion's final answer equals the gold one, by math-verify.

    A completion that answers in GSM8K's form is read after its `####`.
    """
    expected = parse(f"${gold}$") or parse(gold)
    return bool(verify(expected, parse(gold_answer(completion))))


class Math:
    """Problems from files, scored 1 for an answer that math-verify finds equal to the gold one and 0 otherwise."""

    def __init__(self, recipe: MathTask) -> None:
        self.recipe = recipe
        self._gold: dict[str, str] = {}  # item id -> final answer

    def items(self, split: Split) -> list[Item]:
        if split == "train":
            return self._read("train", self.recipe.train)
        return [item for name, path in self.recipe.test.items() for item in self._read(name, path)]

    def reward(self, item: Item, completion: str) -> float:
        return self.score(item, completion)

    def score(self, item: Item, completion: str) -> float:
        return float(same_answer(self._gold[item.id], completion))

    def _read(self, benchmark: str, path: Path) -> list[Item]:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON may hold U+2028 as it is
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else error
            raise RecipeError(f"task file {path} cannot be read: {cause}") from None
        items = [
            self._item(benchmark, path, number, line) for number, line in enumerate(lines, start=1) if line.strip()
        ]
        if not items:
            raise RecipeError(f"task file {path} is empty: it needs one JSON object per line")
        return items

    def _item(self, benchmark: str, path: Path, number: int, line: str) -> Item:
        try:
            row = json.loads(line)
            question, answer = _pick(row, QUESTION_KEYS), _pick(row, ANSWER_KEYS)
            solution = _pick(row, SOLUTION_KEYS)
        except (ValueError, TypeError) as error:
            raise RecipeError(f"task file {path}, line {number}: {error}") from None
        item = Item(f"{benchmark}-{number}", self.recipe.prompt.replace("{question}", question), solution, benchmark)
        self._gold[item.id] = gold_answer(answer)
        return item


def _pick(row: Any, keys: tuple[str, ...]) -> str:
    if not isinstance(row, dict):
        raise TypeError("not a JSON object")
    for key in keys:
        if row.get(key) is not None:
            return str(row[key])
    raise ValueError(f"none of the keys {', '.join(keys)}; it has {', '.join(row)}")

"""Mathematics with checkable answers: rows of questions and answers.

`lensrl.tasks.answers` decides when two answers are the same, and ANSWERS.md there lists examples. These rows are known:

- `question` or `problem`, with `answer` or `solution`. GSM8K's solutions end in `#### 42`: the text before is the
  reasoning, the text after is the answer;
- TRL's: `prompt`, a text or a chat, with `solution`;
- verl's: `prompt`, a chat, with `reward_model.ground_truth`. `extra_info.answer` is the reference if it is there.
  `data_source` is not used: the recipe names the benchmarks;
- OlympiadBench's: `final_answer`, a list of accepted forms. With `is_multiple_answer` all of them together are the
  answer. `error` is the largest absolute error. `context` precedes the question. The first `solution` is the reference,
  followed by the answer in a box. `unit` is not used: units do not count. A question with an image is refused.

`columns` in the recipe names the fields of any other row. A chat must be one message of the user; its text is asked as
any other question is.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from lensrl.errors import RecipeError
from lensrl.recipe import Columns, MathTask, Source
from lensrl.tasks.judge import Judge
from lensrl.tasks.marks import final_answer, gold_answer
from lensrl.tasks.protocol import Item, Split
from lensrl.tasks.rows import Row, pick_key, place, read_question, read_rows, read_text, row_field

QUESTION_KEYS = ("question", "problem", "prompt")
ANSWER_KEYS = ("answer", "final_answer", "reward_model.ground_truth", "solution")  # compared with completions
# Reference text, as a model would write it.
SOLUTION_KEYS = ("solution", "answer", "extra_info.answer", "final_answer", "reward_model.ground_truth")
_right_answer = Judge("lensrl.tasks.forms:right_answer")  # one child for all tasks of this process
_spelled_answer = Judge("lensrl.tasks.forms:spelled_answer")


@dataclass(frozen=True)
class Gold:
    """The accepted forms of an answer, and the largest absolute error of a number (None: as equal as numbers are)."""

    forms: tuple[str, ...]
    error: float | None = None

    @property
    def judged_by(self) -> str:
        """The answer itself, or a JSON object for an answer of several forms or with an error."""
        plain = len(self.forms) == 1 and self.error is None
        return self.forms[0] if plain else json.dumps({"forms": self.forms, "error": self.error})


class Math:
    """Problems from files or data sets, scored 1 for an answer equal to the gold answer and 0 otherwise."""

    def __init__(self, settings: MathTask) -> None:
        self.settings = settings
        self._golds: dict[str, Gold] = {}  # by what an item is judged by

    def items(self, split: Split) -> list[Item]:
        """Return every problem in the order of its source. Raises RecipeError for rows that cannot be read."""
        sources = {"train": self.settings.train} if split == "train" else self.settings.test
        return [item for name, source in sources.items() if source is not None for item in self._read(name, source)]

    def reward(self, item: Item, completion: str) -> float:
        """Return the score."""
        return self.score(item, completion)

    def score(self, item: Item, completion: str) -> float:
        """Return 1 if the completion's answer equals the gold answer, 0 otherwise.

        A judgement that exceeds the judge's limits gives 0.
        """
        gold = self._golds.get(item.judged_by, Gold((item.judged_by,)))
        return float(_right_answer(gold.forms, completion, gold.error) or 0)

    def answer(self, item: Item, completion: str) -> str | None:
        """Return the completion's answer in one spelling; None without one. 1/2 and 0.5 are two answers here."""
        found = _spelled_answer(completion)
        return found if isinstance(found, str) else None

    def _read(self, benchmark: str, source: Source) -> list[Item]:
        items: list[Item] = []
        for number, row in read_rows(source):
            where = place(source, number)
            question, solution, gold = read_problem(row, where, self.settings.columns)
            self._golds[gold.judged_by] = gold
            prompt = self.settings.prompt.replace("{question}", question)
            items.append(Item(f"{benchmark}-{number}", prompt, solution, benchmark, judged_by=gold.judged_by))
        return items


def read_problem(row: Row, where: str, columns: Columns) -> tuple[str, str, Gold]:
    """Return the question of a row, its reference solution, and its answer.

    Raises RecipeError, with `where` at its beginning, for a row that lacks one of them, or where one is no text.
    """
    question_key = pick_key(row, (columns.question,) if columns.question else QUESTION_KEYS, where)
    answer_key = pick_key(row, (columns.answer,) if columns.answer else ANSWER_KEYS, where)
    named = columns.solution or columns.answer
    solution_key = pick_key(row, (named,) if named else SOLUTION_KEYS, where)
    question = read_question(row_field(row, question_key), question_key, where)
    solution = row_field(row, solution_key)
    if answer_key == "final_answer" and isinstance(row[answer_key], list):
        if any(value is not None for name, value in row.items() if name.startswith("image")):
            raise RecipeError(f"{where}: the question has an image, and a language model reads none")
        if context := row.get("context"):
            question = f"{read_text(context, 'context', where, column='question')}\n{question}"
        gold = _olympiad_gold(row, where)
        if not all(gold.forms):
            raise RecipeError(f"{where}: the answer is empty")
        if isinstance(solution, list) and solution:
            solution_key, solution = f"{solution_key}.0", solution[0]
        solution = read_text(solution, solution_key, where, column="solution")
        if solution_key != "final_answer.0" and final_answer(solution) is None:
            solution = f"{solution.rstrip()}\n\\boxed{{{gold.forms[0].replace('$', '')}}}"
    elif answer_key == "solution" and "final_answer" in row and isinstance(solution, list):
        raise RecipeError(f"{where}: final_answer is null: a proof cannot be judged")
    else:
        answer = read_text(row_field(row, answer_key), answer_key, where, column="answer")
        gold = Gold((gold_answer(answer),))
        if not all(gold.forms):
            raise RecipeError(f"{where}: the answer is empty")
        solution = read_text(solution, solution_key, where, column="solution")
    return question, solution, gold


def _olympiad_gold(row: Row, where: str) -> Gold:
    """Read `final_answer`, `is_multiple_answer` and `error` of a row. The largest of several errors counts."""
    named = [(value, f"final_answer.{number}") for number, value in enumerate(row["final_answer"] or [""])]
    answers = [read_text(value, key, where, column="answer") for value, key in named]
    forms = tuple(re.sub(r"^\$([^$]*)\$$", r"\1", gold_answer(answer)).strip() for answer in answers)
    several = row.get("is_multiple_answer")
    if several not in (None, True, False):
        raise RecipeError(f"{where}: is_multiple_answer must be true or false; it is {several!r}")
    if several and len(forms) > 1:
        forms = (", ".join(forms),)  # all of them, in any order
    given = str(row.get("error") or "")
    try:
        errors = [float(error) for error in given.split(",")] if given else []
    except ValueError:
        errors = [math.nan]
    if not all(math.isfinite(error) and error >= 0 for error in errors):
        raise RecipeError(f"{where}: error must be the largest absolute error of the answer; it is {given!r}")
    return Gold(forms, max(errors, default=None))

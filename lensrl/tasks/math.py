"""Mathematics with checkable answers: rows of questions and answers.

GSM8K's solutions end in `#### 42`: the text before is reasoning, the text after is the answer.
`lensrl.tasks.answers` decides when two answers are the same, and ANSWERS.md there lists examples.
"""

from __future__ import annotations

from lensrl.errors import RecipeError
from lensrl.recipe import MathTask, Source
from lensrl.tasks.judge import Judge
from lensrl.tasks.marks import gold_answer
from lensrl.tasks.protocol import Item, Split
from lensrl.tasks.rows import pick, place, read_rows

QUESTION_KEYS = ("question", "problem")
ANSWER_KEYS = ("answer", "solution")  # compared with completions
SOLUTION_KEYS = ("solution", "answer")  # reference text, as a model would write it
_same_answer = Judge("lensrl.tasks.answers:same_answer")  # one child for all tasks of this process


class Math:
    """Problems from files or data sets, scored 1 for an answer equal to the gold answer and 0 otherwise."""

    def __init__(self, settings: MathTask) -> None:
        self.settings = settings

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
        return float(_same_answer(item.judged_by, completion) or 0)

    def _read(self, benchmark: str, source: Source) -> list[Item]:
        items: list[Item] = []
        for number, row in read_rows(source):
            where = place(source, number)
            question, answer, solution = (
                str(pick(row, keys, where)) for keys in (QUESTION_KEYS, ANSWER_KEYS, SOLUTION_KEYS)
            )
            gold = gold_answer(answer)
            if not gold:
                raise RecipeError(f"{where}: the answer is empty")
            prompt = self.settings.prompt.replace("{question}", question)
            items.append(Item(f"{benchmark}-{number}", prompt, solution, benchmark, judged_by=gold))
        return items

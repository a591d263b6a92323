"""Verdicts on answers of every kind and published form, held as data in tests/data.

`math-verdicts.jsonl` holds gold, completion and verdict by kind of mistake. `math-golds.jsonl` holds golds in the forms
that MATH, OlympiadBench and textbooks print, each with spellings that are the same answer and answers that are not.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
import re
from pathlib import Path

import pytest

from lensrl.tasks.answers import same_answer
from lensrl.tasks.marks import gold_answer

DATA = Path(__file__).parents[1] / "data"
DOCUMENT = Path(__file__).parents[2] / "lensrl" / "tasks" / "answers" / "ANSWERS.md"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


VERDICTS = rows("math-verdicts.jsonl")
GOLDS = rows("math-golds.jsonl")
KINDS = sorted({row["kind"] for row in VERDICTS})
FORMS = sorted({row["form"] for row in GOLDS})


@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_of_a_kind(kind: str) -> None:
    of_kind = [row for row in VERDICTS if row["kind"] == kind]
    assert {row["right"] for row in of_kind} == {True, False}
    wrong = [row for row in of_kind if same_answer(row["gold"], row["completion"]) != row["right"]]
    assert not wrong


@pytest.mark.parametrize("form", FORMS)
def test_golds_of_a_published_form(form: str) -> None:
    wrong = []
    for row in (row for row in GOLDS if row["form"] == form):
        wrong += [(row["gold"], text) for text in row["same"] if not same_answer(row["gold"], f"\\boxed{{{text}}}")]
        wrong += [
            (row["gold"], text, "other") for text in row["other"] if same_answer(row["gold"], f"\\boxed{{{text}}}")
        ]
    assert not wrong


def spoken(gold: str) -> list[str]:
    """A gold in a box, in prose, in tags, and at the end of a solution with other numbers."""
    return [
        f"\\boxed{{{gold}}}",
        f"The answer is {gold}.",
        f"The answer is ${gold}$." if "$" not in gold else f"The answer is {gold}.",
        f"<think>Perhaps 7, or 8.</think>\n<answer>{gold}</answer>",
        f"First $12 + 7 = 19$. Then 5 are left.\nTherefore $\\boxed{{{gold}}}$, and not 19.",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_a_gold_is_itself_in_every_place(form: str) -> None:
    golds = [row["gold"] for row in GOLDS if row["form"] == form]
    assert not [(gold, text) for gold in golds for text in spoken(gold) if not same_answer(gold, text)]


# The golds that are equal to others, found by hand among all 65,280 pairs.
EQUAL = (
    {"-2, 1", "1,-2"},
    {"-3", "m = -3"},
    {"0", r"\mathbf{0}"},
    {"1.5", r"1.5 \text{ liters}", r"1\frac{1}{2}", r"\frac{3}{2}"},
    {"1/3", r"33\frac{1}{3}\%", r"\frac13", r"\frac{1}{3}"},
    {"2", r"2 \text{ days}"},
    {r"5 \text{ cm}", "x = 5"},
    {r"50\%", r"\frac{1}{2}"},
    {"Evelyn", r"\text{Evelyn}"},
)


def test_golds_are_told_apart() -> None:
    """Every gold against itself and 40 others."""
    draw = random.Random(0)
    golds = sorted({row["gold"] for row in GOLDS})
    wrong = []
    for gold in golds:
        for other in (gold, *draw.sample(golds, 40)):
            same = gold == other or any({gold, other} <= group for group in EQUAL)
            if same_answer(gold, f"\\boxed{{{other}}}") != same:
                wrong.append((gold, other))
    assert not wrong


def published() -> list[tuple[str, str]]:
    text = gzip.decompress((DATA / "gsm8k-test.jsonl.gz").read_bytes()).decode()
    answers = [json.loads(line)["answer"] for line in text.splitlines()]
    return [(gold_answer(answer), answer) for answer in answers]


def test_every_gsm8k_answer_is_itself_in_every_place() -> None:
    wrong = []
    for gold, solution in published():
        wrong += [(gold, text) for text in (*spoken(gold), solution) if not same_answer(gold, text)]
    assert not wrong


def test_gsm8k_answers_are_told_apart() -> None:
    """Every answer against 40 others, in the places in turn: 52,760 pairs, judged by their numbers alone."""
    draw = random.Random(0)
    pairs = published()
    turns = itertools.cycle(range(6))
    wrong = []
    for gold, _ in pairs:
        for other, solution in draw.sample(pairs, 40):
            text = (*spoken(other), solution)[next(turns)]
            same = float(gold.replace(",", "")) == float(other.replace(",", ""))
            if same_answer(gold, text) != same:
                wrong.append((gold, text))
    assert not wrong


def documented() -> list[tuple[str, str, str]]:
    """The rows of the document's table of examples: gold, completion, same or not."""
    cells = re.findall(r"^\| `(.+?)` \| `(.+?)` \| (same|not) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [(gold, completion.replace("⏎", "\n"), verdict) for gold, completion, verdict in cells]


def test_the_document_says_what_the_judge_does() -> None:
    examples = documented()
    assert len(examples) > 60
    assert not [row for row in examples if same_answer(row[0], row[1]) != (row[2] == "same")]

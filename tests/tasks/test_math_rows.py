"""Rows of mathematics as published files hold them: TRL's, verl's, OlympiadBench's, and others by a mapping."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from lensrl.errors import RecipeError
from lensrl.recipe import Columns, MathTask, Recipe
from lensrl.tasks import Item
from lensrl.tasks.forms import right_answer
from lensrl.tasks.math import Math
from lensrl.tasks.rows import row_field

BOXED = "It is.\n\\boxed{2}"
ASKED = "\nPlease reason step by step"


def chat(*messages: str) -> list[dict[str, str]]:
    """Return messages of `role: content`."""
    return [dict(zip(("role", "content"), message.split(": ", 1), strict=True)) for message in messages]


def read(folder: Path, *rows: dict[str, Any], form: str = "jsonl", **columns: str) -> tuple[Math, list[Item]]:
    path = folder / f"problems.{form}"
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Math(MathTask(name="math", train=path, test={"test": path}, columns=Columns(**columns)))
    return task, task.items("train")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "question", "reference", "gold"),
    [
        ({"prompt": "1+1?", "solution": r"It is $\boxed{2}$."}, "1+1?", r"It is $\boxed{2}$.", "2"),
        ({"prompt": chat("user: 1+1?"), "solution": "2"}, "1+1?", "2", "2"),
        (
            {
                "data_source": "openai/gsm8k",
                "prompt": chat("user: 1+1?"),
                "reward_model": {"style": "rule", "ground_truth": "2"},
                "extra_info": {"index": 0, "answer": "One and one.\n#### 2"},
            },
            "1+1?",
            "One and one.\n#### 2",
            "2",
        ),
        ({"prompt": chat("user: 1+1?"), "reward_model": {"ground_truth": "2"}}, "1+1?", "2", "2"),
        ({"question": "1+1?", "final_answer": "2"}, "1+1?", "2", "2"),
        ({"question": "1+1?", "final_answer": ["$2$"], "solution": ["It is.", "Or."]}, "1+1?", BOXED, "2"),
        ({"question": "1+1?", "final_answer": [r"$2$"], "solution": [r"\boxed{2}"]}, "1+1?", r"\boxed{2}", "2"),
        ({"question": "1+1?", "final_answer": ["2"], "context": "Add."}, "Add.\n1+1?", "2", "2"),
        ({"question": "1+1?", "answer": 2}, "1+1?", "2", "2"),
        ({"question": "1/2?", "answer": 0.5}, "1/2?", "0.5", "0.5"),
    ],
)  # fmt: skip
def test_published_rows_are_known(
    tmp_path: Path, form: str, row: dict[str, Any], question: str, reference: str, gold: str
) -> None:
    task, (item,) = read(tmp_path, row, form=form)
    assert item.prompt.startswith(question + ASKED)
    assert (item.reference, item.judged_by) == (reference, gold)
    assert task.score(item, reference) == 1.0


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ({"final_answer": ["$2$", "$3$"]}, ["2", "3"], ["5", "2, 3"]),
        ({"final_answer": ["2", "3"], "is_multiple_answer": True}, ["2, 3", "3, 2"], ["2", "3"]),
        ({"final_answer": ["2,3"], "is_multiple_answer": True}, ["2, 3", "3, 2"], ["2", "3"]),
        ({"final_answer": ["2.5"], "error": "1e-1"}, ["2.5", "2.4", "2.6", "x = 2.6", "$2.58$"], ["2.3", "2.7", "x"]),
        ({"final_answer": ["2.5"], "error": 0.1}, ["2.6"], ["2.7"]),
        ({"final_answer": ["2.5"], "error": None}, ["2.5", r"\frac{5}{2}"], ["2.6"]),
        ({"final_answer": ["2.5, 7"], "error": "1e-1,1e-2", "is_multiple_answer": True}, ["7.05, 2.45"], ["7", "7, 7"]),
        ({"final_answer": ["5"], "unit": "cm"}, ["5", r"5 \text{ cm}"], ["6"]),
    ],
)  # fmt: skip
def test_forms_and_errors_of_olympiad_bench(
    tmp_path: Path, answer: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    task, (item,) = read(tmp_path, {"question": "What?", **answer})
    for found in right:
        assert task.score(item, rf"So \boxed{{{found}}}") == 1.0, found
    for found in wrong:
        assert task.score(item, rf"So \boxed{{{found}}}") == 0.0, found


def test_an_error_holds_for_answers_without_a_box() -> None:
    assert right_answer(["2.5"], "So the answer is 2.45.", 0.1)
    assert right_answer(["2.5"], "First 3, then 2.55", 0.1)
    assert not right_answer(["2.5"], "First 2.5, then 3", 0.1)
    assert not right_answer(["2.5"], "no number", 0.1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": ["3", "-3"]}, r'answer must be a text or a number; it is the list \["3", "-3"\]; to take a text '
                                  r'from it, write columns = \{ answer = "answer\.0" \} into \[task\]'),
        ({"answer": {"value": 2}}, r'answer .* it is the object \{"value": 2\}; .* = \{ answer = "answer\.value" \}'),
        ({"answer": float("nan")}, "answer must be a text or a number; it is NaN"),
        ({"answer": float("inf")}, "answer must be a text or a number; it is Infinity"),
        ({"answer": True}, "answer must be a text or a number; it is true"),
        ({"answer": []}, r"answer must be a text or a number; it is the list \[\]"),
        ({"answer": None}, r"answer is null\Z"),
        ({"question": None, "answer": "2"}, r"question is null\Z"),
        ({"answer": None, "final_answer": None}, r"answer is null\Z"),
        ({"final_answer": None}, r"final_answer is null\Z"),
        ({"final_answer": None, "solution": ["QED"]}, r"final_answer is null: a proof cannot be judged\Z"),
        ({"final_answer": [None]}, r"final_answer\.0 must be a text or a number; it is null"),
        ({"reward_model": {"style": "rule", "ground_truth": None}}, r"reward_model\.ground_truth is null\Z"),
        ({"final_answer": ["2", "3"], "is_multiple_answer": "False"},
         r"is_multiple_answer must be true or false; it is 'False'\Z"),
        ({"final_answer": ["2", "3"], "is_multiple_answer": "true"}, r"is_multiple_answer must be true or false"),
        ({"answer": list(range(100))}, r"answer .* it is the list \[0, 1, [^;]{,60}\.\.\.; "),
        ({"question": ["1+1?"], "answer": "2"}, r'question must be .* columns = \{ question = "question\.0" \}'),
        ({"answer": "2", "solution": ["a"]}, r"solution must be a text or a number; it is the list"),
        ({"question": None, "prompt": chat("system: Be brief.", "user: 1+1?"), "answer": "2"},
         r'prompt is a chat of system, user; it must be one .* columns = \{ question = "prompt\.1\.content" \} into'),
        ({"question": chat("user: 1?", "assistant: 1"), "answer": "2"}, r"question is a chat of user, assistant; "),
        ({"question": [{"role": "user", "content": [{"type": "image"}]}]}, r"question\.0\.content must be"),
        ({"reward_model": {"ground_truth": ["2"]}}, r"reward_model\.ground_truth must be .* it is the list"),
        ({"final_answer": [["2"]]}, r"final_answer\.0 must be"),
        ({"final_answer": []}, "the answer is empty"),
        ({"final_answer": ["2"], "image_1": "a.png"}, "the question has an image"),
        ({"final_answer": ["2"], "error": "small"}, "error must be the largest absolute error .* it is 'small'"),
        ({"final_answer": ["2"], "error": -1}, "error must be"),
        ({"answer": "2\ud83d"}, r"answer holds half of a surrogate pair, \\ud83d, at character 2"),
        ({"question": "\udc00?", "answer": "2"}, r"question holds half of a surrogate pair, \\udc00, at character 1"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_with_its_row_and_field(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    if "question" in row:
        row = {"answer": "2", **row}
    with pytest.raises(RecipeError, match=rf"^task file .*problems\.jsonl, line 2: {message}") as caught:
        read(tmp_path, {"question": "1+1?", "answer": "2"}, {"question": "1+1?", **row})
    assert "\n" not in str(caught.value)
    assert str(caught.value).encode()


def test_lists_and_objects_of_parquet_files_are_refused_too(tmp_path: Path) -> None:
    for answer, kind in (([1.5, 2.5], r"list \[1\.5, 2\.5\]"), ({"value": "2"}, "object"), ([None], "list")):
        with pytest.raises(RecipeError, match=rf"problems\.parquet, row 1: answer must be .* it is the {kind}"):
            read(tmp_path, {"question": "1+1?", "answer": answer}, form="parquet")
    _, (item,) = read(tmp_path, {"question": "1+1?", "answer": Decimal("2.50")}, form="parquet")
    assert item.judged_by == "2.50"


def test_a_recipe_names_the_fields_of_other_rows(tmp_path: Path) -> None:
    row = {"q": {"text": "1+1?"}, "answers": ["3", "2"], "answer": ["no"], "how": "By counting: 2."}
    _, (item,) = read(tmp_path, row, question="q.text", answer="answers.1", solution="how")
    assert item.prompt.startswith("1+1?" + ASKED)
    assert (item.reference, item.judged_by) == ("By counting: 2.", "2")
    _, (item,) = read(tmp_path, row, question="q.text", answer="answers.-1")
    assert item.reference == "2"
    with pytest.raises(RecipeError, match=r"line 1: none of the keys answers\.2; it has q, answers, answer, how"):
        read(tmp_path, row, question="q.text", answer="answers.2")
    messages = {"prompt": chat("system: Be brief.", "user: 1+1?"), "answer": "2"}
    _, (item,) = read(tmp_path, messages, question="prompt.1.content")
    assert item.prompt.startswith("1+1?" + ASKED)


def test_a_null_in_a_named_list_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"line 1: parts\.1 is null\Z"):
        read(tmp_path, {"question": "1+1?", "parts": ["2", None]}, answer="parts.1")


def test_columns_are_a_table_of_the_recipe() -> None:
    columns = {"question": "problem", "answer": "reward_model.ground_truth"}
    task = {"name": "math", "train": "a.jsonl", "test": {"a": "a.jsonl"}, "columns": columns}
    recipe = Recipe.model_validate({"model": "tiny:qwen3", "task": task})
    assert isinstance(recipe.task, MathTask)
    assert recipe.task.columns == Columns(question="problem", answer="reward_model.ground_truth")
    with pytest.raises(ValueError, match=r"columns\.qestion"):
        Recipe.model_validate({"model": "tiny:qwen3", "task": task | {"columns": {"qestion": "problem"}}})


def test_a_path_leads_through_objects_and_lists() -> None:
    row = {"a": {"b": [1, {"c": 2}]}, "a.b": 3, "d": None}
    found = {path: row_field(row, path) for path in ("a.b", "a.b.0", "a", "d.e", "x", "a.c", "a.b.1.c")}
    assert found == {"a.b": 3, "a.b.0": 1, "a": row["a"], "d.e": None, "x": None, "a.c": None, "a.b.1.c": 2}

"""Mathematics from files: GSM8K as published, formats, and errors with a line number."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from lensrl.errors import RecipeError
from lensrl.recipe import Dataset, MathTask, Recipe, Source
from lensrl.tasks import evaluation_items, load_task
from lensrl.tasks.math import Math

GSM8K = Path(__file__).parents[1] / "data" / "gsm8k-10.jsonl"
WHOLE = GSM8K.with_name("gsm8k-test.jsonl.gz")
ANSWERS = [18, 3, 70_000, 125, 2_125, 5_600, -10, 1_450_000, 43_500, -3]  # read off the file by eye


def math_task(train: Path, **test: Source) -> Math:
    benchmarks: dict[str, Source] = {**test} or {"gsm8k": train}
    return Math(MathTask(name="math", train=train, test=benchmarks))


def written(folder: Path, content: str) -> Path:
    path = folder / "problems.jsonl"
    path.write_text(content, encoding="utf-8")
    return path


def spellings(n: int) -> list[str]:
    return [
        f"So the answer is \\boxed{{{n}}}.",
        f"\\boxed{{{n:,}}}",
        f"First 12 and then 7.\n#### {n}",
        f"#### {n:,}\n",
        f"The answer is ${n}$.",
        f"The answer is {n:,}.",
        f"\\boxed{{{n}.0}}",
        f"\\boxed{{\\frac{{{2 * n}}}{{2}}}}",
    ]


@pytest.mark.parametrize(("index", "answer"), list(enumerate(ANSWERS)))
def test_every_spelling_of_a_gsm8k_answer_scores_and_a_wrong_one_does_not(index: int, answer: int) -> None:
    task = math_task(GSM8K)
    item = task.items("test")[index]
    assert task.score(item, item.written[0]) == 1.0
    for right, wrong in zip(spellings(answer), spellings(answer + 1), strict=True):
        assert task.score(item, right) == task.reward(item, right) == 1.0, right
        assert task.score(item, wrong) == task.reward(item, wrong) == 0.0, wrong
    assert task.score(item, f"\\boxed{{{-answer}}}") == 0.0


def test_every_published_gsm8k_answer_is_read_and_told_from_another() -> None:
    """All 1,319 test problems, the spellings in turn; the numbers are taken from the file without lensrl."""
    task = math_task(WHOLE)
    items = task.items("test")
    assert len(items) == 1319
    rows = [json.loads(line) for line in gzip.decompress(WHOLE.read_bytes()).decode().splitlines()]
    for index, (item, row) in enumerate(zip(items, rows, strict=True)):
        answer = int(re.search(r"#### (-?[\d,]+)$", row["answer"])[1].replace(",", ""))  # pyright: ignore[reportOptionalSubscript]
        right, wrong = (spellings(n) for n in (answer, answer + 1))
        assert task.score(item, row["answer"]) == 1.0, item.id
        spelling = index % len(right)
        assert task.score(item, right[spelling]) == 1.0, (item.id, right[spelling])
        assert task.score(item, wrong[spelling]) == 0.0, (item.id, wrong[spelling])


def test_a_data_set_table_is_read_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_bytes(GSM8K.read_bytes())
    table = Dataset(dataset=str(tmp_path / "gsm8k"), split="test")
    task = Math(MathTask(name="math", train=table, test={"gsm8k": table}))
    assert task.items("test") == math_task(GSM8K).items("test")
    assert task.score(task.items("test")[0], r"\boxed{18}") == 1.0


def test_items_keep_the_files_order_questions_and_benchmarks(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    other = written(tmp_path, '{"problem": "What is $1+1$?", "solution": "$\\\\boxed{2}$"}\n')
    items = math_task(GSM8K, gsm8k=GSM8K, other=other).items("test")
    assert [item.benchmark for item in items] == ["gsm8k"] * 10 + ["other"]
    assert len({item.id for item in items}) == 11
    for item, row in zip(items, [*rows, {"question": "What is $1+1$?", "answer": r"$\boxed{2}$"}], strict=True):
        assert item.prompt.startswith(row["question"])
        assert item.prompt.endswith("within \\boxed{}.\n")
        assert item.reference == row["answer"]


def test_a_prompt_keeps_every_brace_but_the_questions() -> None:
    prompt = "Q: {question} {x} {0} \\boxed{}"
    task = Math(MathTask(name="math", train=GSM8K, test={"gsm8k": GSM8K}, prompt=prompt))
    question = json.loads(GSM8K.read_text(encoding="utf-8").splitlines()[0])["question"]
    assert task.items("train")[0].prompt == f"Q: {question} {{x}} {{0}} \\boxed{{}}"


def test_training_reads_the_training_file(tmp_path: Path) -> None:
    train = written(tmp_path, '{"question": "1+1?", "answer": 2}\n\n{"question": "2+2?", "answer": "4"}\n')
    items = math_task(train, gsm8k=GSM8K).items("train")
    assert [(item.prompt[:4], item.reference) for item in items] == [("1+1?", "2"), ("2+2?", "4")]


def test_evaluation_takes_the_first_items_of_each_benchmark(tmp_path: Path) -> None:
    short = written(tmp_path, '{"question": "1+1?", "answer": "2"}\n')
    task = {"name": "math", "train": GSM8K, "test": {"gsm8k": GSM8K, "short": short}}
    recipe = Recipe.model_validate({"model": "tiny:qwen3", "task": task, "evaluation": {"items": 3}})
    kept = evaluation_items(load_task(recipe), recipe)
    assert [item.benchmark for item in kept] == ["gsm8k", "gsm8k", "gsm8k", "short"]


def test_a_line_separator_inside_a_question_does_not_end_the_line(tmp_path: Path) -> None:
    path = written(tmp_path, '{"question": "one\u2028two\x85three", "answer": "3"}\n')
    assert [item.prompt.split("\n")[0] for item in math_task(path).items("train")] == ["one\u2028two\x85three"]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(RecipeError, match=r"problems\.jsonl is empty: it needs one JSON object per line"):
        math_task(written(tmp_path, content)).items("train")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"question": "1+1?"', "Expecting ',' delimiter"),
        ('["question"]', "not a JSON object"),
        (
            '{"question": "1+1?", "result": "2"}',
            r"none of the keys answer, .*, solution; it has question, result",
        ),
        ('{"answer": "2"}', "none of the keys question, problem, prompt; it has answer"),
        ('{"question": "1+1?", "answer": " "}', "the answer is empty"),
        ('{"question": "1+1?", "answer": "$\\\\boxed{}$"}', "the answer is empty"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, cause: str) -> None:
    path = written(tmp_path, f'{{"question": "1+1?", "answer": "2"}}\n\n{line}\n')
    with pytest.raises(RecipeError, match=rf"problems\.jsonl, line 3: {cause}"):
        math_task(path).items("train")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.jsonl cannot be read: No such file or directory"):
        math_task(tmp_path / "absent.jsonl").items("train")


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(b'{"question": "\xff", "answer": "2"}\n')
    with pytest.raises(RecipeError, match=r"problems\.jsonl cannot be read: 'utf-8' codec can't decode"):
        math_task(path).items("train")

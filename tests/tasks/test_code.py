"""Code from files: HumanEval's own solutions and their opposites, MBPP's format, what models write around code."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lensrl.errors import LensrlError, RecipeError
from lensrl.recipe import CodeTask, Recipe
from lensrl.tasks import Item, evaluation_items, load_task
from lensrl.tasks.batch import BatchTask, rewards, scores
from lensrl.tasks.code import Code

HUMAN_EVAL = Path(__file__).parents[1] / "data" / "HumanEval.jsonl.gz"

# Written for these tests, in the formats of MBPP and of its sanitised version.
MBPP: list[dict[str, Any]] = [
    {
        "text": "Write a function to add two numbers.",
        "code": "def add(a, b):\r\n  return a + b",
        "task_id": 1,
        "test_setup_code": "",
        "test_list": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"],
        "challenge_test_list": [],
    },
    {
        "text": "Write a function to find the longest chain of pairs.",
        "code": "class Pair(object):\r\n    def __init__(self, a, b):\r\n        self.a = a\r\n        self.b = b\r\n"
        "def smallest(pairs):\r\n    return min(pair.a for pair in pairs)",
        "task_id": 2,
        "test_setup_code": "one = Pair(5, 24)",
        "test_list": ["assert smallest([one, Pair(15, 25)]) == 5"],
    },
    {
        "prompt": "Write a function to find the area of a circle.",
        "code": "import math\n\ndef area(radius):\n    return math.pi * radius**2",
        "task_id": 3,
        "source_file": "by hand",
        "test_imports": ["import math as maths"],
        "test_list": ["assert maths.isclose(area(1), maths.pi)"],
    },
]


def code_task(source: Path, *, timeout: float = 5) -> Code:
    return Code(CodeTask(name="code", train=source, test={"test": source}, timeout=timeout))


def written(folder: Path, *rows: object) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def human_eval() -> Code:
    return code_task(HUMAN_EVAL)


def rows() -> list[dict[str, str]]:
    with gzip.open(HUMAN_EVAL, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_every_solution_of_human_eval_passes_its_tests(human_eval: Code) -> None:
    items = human_eval.items("test")
    assert [(item.prompt, item.reference) for item in items] == [
        (row["prompt"], row["canonical_solution"]) for row in rows()
    ]
    assert len({item.id for item in items}) == 164
    assert human_eval.scores(items, [str(item.reference) for item in items]) == [1.0] * 164


@pytest.mark.parametrize("body", ["    pass\n", "    return None\n", "    exit(0)\n"])
def test_none_is_solved_by_doing_nothing(human_eval: Code, body: str) -> None:
    """Whatever a function without a body returns, some test of each problem minds."""
    items = human_eval.items("test")
    assert human_eval.scores(items, [body] * 164) == [0.0] * 164


def test_tests_may_use_what_the_prompt_defines(human_eval: Code) -> None:
    """`find_zero` is checked with `poly`, which stands before it in the prompt: also where a block replaces both."""
    row = rows()[32]
    assert "poly(coeffs, solution)" in row["test"]
    item = human_eval.items("test")[32]
    block = "```python\ndef find_zero(xs: list):\n" + row["canonical_solution"] + "```"
    assert human_eval.score(item, block) == 1.0


BODY = "    return a + b"
WHOLE = f"def add(a, b):\n{BODY}"
PROBLEM = {
    "task_id": "Own/0",
    "prompt": 'import math\n\n\ndef add(a, b):\n    """The sum."""\n',
    "entry_point": "add",
    "canonical_solution": BODY + "\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(2, 2) == 4\n",
}

CONTINUATIONS = {
    BODY: 1,
    f"{BODY}\n": 1,
    f"\n\n{BODY}\n\n\n": 1,
    f"{BODY}\n\n\ndef sub(a, b):\n    return a -": 1,  # cut in the middle of the next
    f"{BODY}\n\nclass A": 1,
    f"{BODY}\n# and now (": 1,
    f"{BODY}\nif __name__ == '__main__':\n    add(": 1,
    f"{BODY}\nprint(add(1, 2)": 1,
    f"{BODY}\nassert add(1, 2) == 4": 1,
    f"{BODY}\n```\n\nThis function adds.": 1,
    f"{BODY}\n```\nOr, better:\n```python\ndef add(a, b):\n    return 0\n```": 1,
    f"    x = a\n    # a comment\n    if b:\n        x += b\n    print(x)\n    assert x\n{BODY}": 1,
    f"    def inner():\n        return b\n{BODY}": 1,
    f"```python\n{WHOLE}\n```": 1,
    f"```\n{WHOLE}\n```\nIt adds.": 1,
    f"Here it is:\n\n```Python\nfrom math import pi\n\n{WHOLE}\n\nprint(add(1, 2))\n```\n": 1,
    f"```python\nadd(1, 2)\n```\nwith\n```py\n{WHOLE}\n```": 1,
    f" Sure:\n\n```python\n{WHOLE}\n```": 1,  # a space, as many models begin
    f"``` python\n{WHOLE}\n```": 1,
    f'```python title="a.py"\n{WHOLE}\n```': 1,
    f"```bash\npip install x\n```\n```python\n{WHOLE}\n```": 1,
    f"```python\n{WHOLE}\n```".replace("\n", "\r\n"): 1,
    f"```python\n{WHOLE}\n```".replace("\n", "\n   ").replace("```p", "1. ```p"): 1,  # in a list
    f"```python\n{WHOLE}": 1,  # truncated after the function
    f"{WHOLE}\n": 1,  # the function once more, after its own beginning
    "    return math.fsum((a, b))": 1,
    "```python\ndef add(a, b):\n    return math.fsum((a, b))\n```": 1,  # with the prompt's import
    f"```python\n{WHOLE.replace('add', 'plus')}\n```": 0,
    "    return a - b": 0,
    "": 0,
    "return a + b": 1,  # a tokenizer or a strip() took the indentation
    "I do not know.": 0,
    "    pass\ndef check(candidate): pass": 0,
    "```python\ndef add(a, b):\n    pass\ndef check(candidate):\n    pass\n```": 0,
    "```python\ndef add(a, b):\n    pass\nimport os; os._exit(0)\n```": 0,
    "    raise SystemExit(0)": 0,
    "    return '''": 0,
    "    while True: pass": 0,
}


def test_a_completion_is_read_as_a_continuation_or_as_a_fenced_function(tmp_path: Path) -> None:
    task = code_task(written(tmp_path, PROBLEM), timeout=1)
    (item,) = task.items("train")
    judged = dict(zip(CONTINUATIONS, task.scores([item] * len(CONTINUATIONS), list(CONTINUATIONS)), strict=True))
    assert judged == CONTINUATIONS


def test_mbpp_rows_become_prompts_with_their_tests(tmp_path: Path) -> None:
    items = code_task(written(tmp_path, *MBPP)).items("train")
    assert items[0] == Item(
        "train-1",
        '"""\nWrite a function to add two numbers.\nassert add(1, 2) == 3\nassert add(-1, 1) == 0\n"""\n',
        "def add(a, b):\n  return a + b",
        "train",
        judged_by='["", ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]]',
    )
    assert [item.prompt.split("\n")[1] for item in items[1:]] == [
        "Write a function to find the longest chain of pairs.",
        "Write a function to find the area of a circle.",
    ]


def test_the_solutions_of_mbpp_rows_pass_and_others_do_not(tmp_path: Path) -> None:
    task = code_task(written(tmp_path, *MBPP))
    items = task.items("train")
    references = [str(item.reference) for item in items]
    assert task.scores(items, references) == [1.0] * 3
    talk = [f"Of course!\n```python\n{code}\n```\nHope it helps." for code in references]
    assert task.scores(items, talk) == [1.0] * 3
    more = [f'{code}\n\nassert False\n"""\nWrite another' for code in references]
    assert task.scores(items, more) == [1.0] * 3
    broken = [code.replace("return", "return None and") for code in references]
    assert task.scores(items, broken) == [0.0] * 3
    assert task.scores(items, [""] * 3) == [0.0] * 3


def test_further_tests_of_an_mbpp_row_count_too(tmp_path: Path) -> None:
    """As in MBPP+: `test` beside `test_list`. A prompt shows only the latter."""
    more = "inputs = [2, 5]\nfor r in inputs:\n    assert area(r) == 3 * r * r\n"
    row = {"prompt": "Three times the square.", "code": "def area(r):\n    return 3 * r * r", "task_id": 1}
    row |= {"test_imports": [], "test_list": ["assert area(1) == 3"], "test": more}
    task = code_task(written(tmp_path, row))
    (item,) = task.items("train")
    assert "inputs" not in item.prompt
    assert "inputs" in item.judged_by
    assert task.scores([item] * 2, [item.written[0], "def area(r):\n    return 3"]) == [1.0, 0.0]


def plus_row(**changes: Any) -> dict[str, Any]:
    """A row of HumanEval+'s format, written for these tests."""
    test = "import numpy as np\n\ndef check(candidate):\n    assert np.allclose(candidate(1, 2), 3, atol=1e-6)\n"
    return PROBLEM | {"test": test} | changes


def test_tests_may_import_the_packages_that_the_recipe_names(tmp_path: Path) -> None:
    source = written(tmp_path, plus_row())
    task = Code(CodeTask(name="code", train=source, test={"test": source}, packages=["numpy"]))
    (item,) = task.items("train")
    assert task.scores([item] * 3, [BODY, "    return a", "    import scipy\n" + BODY]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "packages"),
    [
        ("import numpy as np", ["numpy"]),
        ("def check(f):\n    from numpy.testing import assert_allclose", ["numpy"]),
        ("import os, numpy, scipy.stats as s  # both", ["numpy", "scipy"]),
    ],
)
def test_a_row_that_imports_another_package_is_refused(tmp_path: Path, text: str, packages: list[str]) -> None:
    """In place of scoring its own solution 0."""
    source = written(tmp_path, plus_row(test=text))
    wanted = rf"line 1: it imports {packages[0]}; write packages = {re.escape(json.dumps(packages))} into \[task\]"
    with pytest.raises(RecipeError, match=wanted):
        code_task(source).items("train")


def test_a_sentence_about_imports_is_no_import(tmp_path: Path) -> None:
    words = "text = '''\nimport the list\nfrom numpy we take\nimport\n'''\nfrom .x import y\n"
    assert len(code_task(written(tmp_path, plus_row(test=words))).items("train")) == 1


@pytest.mark.parametrize(("package", "why"), [("nunpy", "it is not installed here"), ("math", "Python has it already")])
def test_a_package_that_cannot_be_named_is_refused(package: str, why: str) -> None:
    with pytest.raises(LensrlError, match=rf"packages: no package '{package}' to import in the sandbox: {why}"):
        Code(CodeTask(name="code", train=HUMAN_EVAL, test={"test": HUMAN_EVAL}, packages=[package]))


def test_many_are_judged_as_one_is(tmp_path: Path) -> None:
    task = code_task(written(tmp_path, PROBLEM))
    (item,) = task.items("train")
    completions = [BODY, "    return 3", BODY, "", "    return 4 if a == b else 3"]
    one_by_one = [task.score(item, completion) for completion in completions]
    assert one_by_one == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert isinstance(task, BatchTask)
    for judge in (rewards, scores):
        assert judge(task, [item] * 5, completions) == one_by_one
    assert [task.reward(item, completion) for completion in completions] == one_by_one


def test_a_task_that_judges_one_by_one_is_asked_one_by_one() -> None:
    class Own:
        def items(self, split: str) -> list[Item]:
            return [Item("1", "1+1=", "2", "own")]

        def reward(self, item: Item, completion: str) -> float:
            return 0.5 * self.score(item, completion)

        def score(self, item: Item, completion: str) -> float:
            return float(completion == item.reference)

    (item,) = Own().items("test")
    assert scores(Own(), [item] * 2, ["2", "3"]) == [1.0, 0.0]
    assert rewards(Own(), [item] * 2, ["2", "3"]) == [0.5, 0.0]
    with pytest.raises(ValueError, match="shorter"):
        scores(Own(), [item] * 2, ["2"])


def test_a_recipe_names_the_task_and_its_limits() -> None:
    table = {"name": "code", "train": HUMAN_EVAL, "test": {"human-eval": HUMAN_EVAL}, "timeout": 0.2, "memory": 64}
    recipe = Recipe.model_validate({"model": "tiny:qwen3", "task": table, "evaluation": {"items": 3}})
    task = load_task(recipe)
    assert isinstance(task, Code)
    items = evaluation_items(task, recipe)
    assert [(item.id, item.benchmark) for item in items] == [(f"human-eval-{i}", "human-eval") for i in (1, 2, 3)]
    solution = str(items[0].reference)
    for waste, score in (("", 1.0), ("    x = bytearray(2**26)\n", 0.0), ("    while True: pass\n", 0.0)):
        assert task.score(items[0], waste + solution) == score


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": None}, r"neither test \(HumanEval\) nor test_list \(MBPP\); it has task_id, prompt, "),
        ({"prompt": None}, "prompt is null"),
        ({"canonical_solution": None}, "canonical_solution is null"),
        ({"entry_point": "a b"}, "entry_point 'a b' is not the name of a function"),
        ({"entry_point": 3}, "entry_point must be text; it is 3"),
        ({"test_list": "assert True"}, "none of the keys code; it has "),
        ({"test_list": "assert True", "code": ""}, "test_list must be a list of lines; it is 'assert True'"),
        ({"test_list": [1], "code": ""}, "test_list must be text; it is 1"),
        ({"test_list": [], "code": ""}, "test_list is empty"),
        ({"test_list": ["assert True"], "code": "", "test": 1}, "test must be text; it is 1"),
    ],
)
def test_a_row_of_neither_format_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^task file .*problems\.jsonl, line 2: {message}"):
        code_task(written(tmp_path, PROBLEM, PROBLEM | change)).items("train")

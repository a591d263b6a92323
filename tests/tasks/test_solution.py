"""Which code of a completion counts: HumanEval's solutions in the shapes that models write, and their opposites."""

from __future__ import annotations

import gzip
import json
import re
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lensrl.recipe import CodeTask
from lensrl.tasks.code import Code
from lensrl.tasks.solution import blocks, function_parts, script

HUMAN_EVAL = Path(__file__).parents[1] / "data" / "HumanEval.jsonl.gz"


def fence(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


# Each shape is made from the prompt, the body and the name. The problem's own tests judge whether the code was found.
Shape = Callable[[str, str, str], str]


def draft(name: str) -> str:
    return f"def {name}(*_):\n    return None"


def alone(prompt: str, body: str, name: str) -> str:
    """Return the function without the imports and functions before it."""
    return prompt[re.search(rf"^def {name}\b", prompt, re.MULTILINE).start() :] + body  # pyright: ignore[reportOptionalMemberAccess]


RIGHT: dict[str, Shape] = {
    "the body": lambda p, b, n: b,
    "the prompt again": lambda p, b, n: p + b,
    "the prompt again, in prose": lambda p, b, n: f"Here it is:\n\n{p}{b}\n\nIt works because it's (nearly) right.",
    "the function": alone,
    "the function in a fence": lambda p, b, n: fence(alone(p, b, n), ""),
    "the body in a fence": lambda p, b, n: fence(b),
    "the body in a fence, not indented": lambda p, b, n: f"Use this:\n{fence(textwrap.dedent(b))}\nDone.",
    "a draft in a thought": lambda p, b, n: f"<think>\n{fence(draft(n))}\nno\n</think>\n{fence(p + b)}",
    "a thought that the prompt began": lambda p, b, n: f"{fence(draft(n))}\nno\n</think>\n\n{p}{b}",
    "a draft, then a correction": lambda p, b, n: f"{fence(draft(n))}\nwrong:\n{fence(alone(p, b, n))}\nRight.",
    "a draft without a fence": lambda p, b, n: f"{draft(n)}\n\nThat's wrong:\n{fence(alone(p, b, n))}",
    "a cut import": lambda p, b, n: f"{b}\n\nimport ",
    "a cut import from": lambda p, b, n: f"{b}\nfrom math import (",
    "a cut decorator": lambda p, b, n: f"{b}\n@cache\ndef f(",
    "an at sign": lambda p, b, n: f"{b}\n\n@",
    "an open docstring": lambda p, b, n: f'{b}\n\n"""Another',
    "a cut class": lambda p, b, n: f"{b}\nclass A(",
    "a cut call": lambda p, b, n: f"{b}\nprint({n}(",
    "a cut test": lambda p, b, n: f"{b}\n\ndef test_it():\n    assert {n}(1) ==",
    "a cut assignment": lambda p, b, n: f"{b}\nresult = {n}([1, 5",
    "a failing statement": lambda p, b, n: f"{b}\n\nfor line in open('absent'):\n    pass",
    "a missing package": lambda p, b, n: f"{p}{b}\n\nimport pytest_of_mine\n",
    "prose": lambda p, b, n: f"{b}\n\nThis isn't (quite) done: it's [",
    "another function of the name": lambda p, b, n: f"{p}{b}\n\n{draft(n)}\n",
    "a fence that the prompt began": lambda p, b, n: f"{b}\n```\n\nOr:\n{fence(draft(n))}",
    "a fence that the prompt began, a program": lambda p, b, n: f"{p}{b}\n```\n\nIt works.\n{fence('print(1)')}",
    "a test and its output": lambda p, b, n: f"{fence(p + b)}\nTest:\n{fence(f'assert {n}')}\n{fence('None', '')}",
    "an answer": lambda p, b, n: f"<answer>{p}{b}</answer>",
    "a fence in an answer": lambda p, b, n: f"<answer>\n{fence(alone(p, b, n))}\n</answer>",
    "an answer that talks": lambda p, b, n: f"{fence(alone(p, b, n))}\n<answer>The function above.</answer>",
    "fences in a docstring": lambda p, b, n: f'    """As in\n    ```\n    >>> x\n    ```\n    or ```x```."""\n{b}',
    "fences in a fenced docstring": lambda p, b, n: fence(
        f'{p[: p.find("def ")]}def h():\n    """As in\n    ```python\n    x = \'\n    ```\n    """\n{alone(p, b, n)}'
    ),
    "a fence that ends a line of code": lambda p, b, n: f"It is ```python\n{alone(p, b, n).rstrip()}```",
    "an open fence": lambda p, b, n: f"```python\n{p}{b}",
    "an open fence, cut": lambda p, b, n: f"```python\n{p}{b}\n\nprint({n}([1,",
    "Windows' line breaks": lambda p, b, n: fence(p + b).replace("\n", "\r\n"),
    "a list": lambda p, b, n: f"1. {fence(alone(p, b, n))}".replace("\n", "\n   "),
    "a comment in column 0": lambda p, b, n: f"\n# a comment\n{b}",
    "a helper below": lambda p, b, n: f"{calls_helper(p, n)}\n\n{helper(p, b, n)}",
    "a helper in another fence": lambda p, b, n: f"{fence(helper(p, b, n))}\nThen:\n{fence(calls_helper(p, n))}",
    "a fence of tildes": lambda p, b, n: f"~~~\n{draft(n)}\n~~~\nBetter:\n~~~python\n{p}{b}\n~~~\nDone.",
    "another name of the language": lambda p, b, n: fence(p + b, 'python3 title="a.py"'),
    "a first line without indentation": lambda p, b, n: b.lstrip(),
    "a first line without indentation, fenced": lambda p, b, n: fence(b.strip()),
    "a body without indentation": lambda p, b, n: textwrap.dedent(b),
    "a body with three spaces": lambda p, b, n: re.sub("^ ", "", b, flags=re.MULTILINE),
    "a space too many": lambda p, b, n: f" {b}",
    "a body with tabs": lambda p, b, n: tabbed(b),
    "a body with tabs, fenced": lambda p, b, n: fence(tabbed(b)),
    "an end of text": lambda p, b, n: f"{b.rstrip()}<|endoftext|>",
    "an import of the future": lambda p, b, n: f"from __future__ import annotations\n{p}{b}",
    "a main block": lambda p, b, n: fence(f"{p}{b}\n\nif __name__ == '__main__':\n    raise SystemExit({n}(input()))"),
    "a test of the name": lambda p, b, n: fence(f"{p}{b}\n\ndef check(candidate):\n    assert False"),
}
WRONG: dict[str, Shape] = {
    "a wrong correction": lambda p, b, n: f"{fence(p + b)}\nBetter:\n{fence(draft(n))}",
    "a wrong correction of a program": lambda p, b, n: f"{p}{b}\nBetter:\n{fence(draft(n))}",
    "only a thought": lambda p, b, n: f"<think>{fence(p + b)}",
    "a wrong answer": lambda p, b, n: f"{fence(p + b)}\n<answer>\n{draft(n)}\n</answer>",
    "prose alone": lambda p, b, n: "I do not know.",
    "a number": lambda p, b, n: "The answer is 4.",
    "nothing": lambda p, b, n: "",
    "an async function": lambda p, b, n: fence(f"async {alone(p, b, n)}"),
    "a method": lambda p, b, n: fence(f"class Solution:\n{textwrap.indent(alone(p, b, n), '    ')}"),
    "another name": lambda p, b, n: fence(alone(p, b, n).replace(f"def {n}", "def other_name")),
    "a cut correction": lambda p, b, n: f"{fence(p + b)}\nBetter:\n```python\ndef {n}(x",
}


def parameters(prompt: str, name: str) -> list[str]:
    inside = re.search(rf"^def {name}\((.*?)\)(?: ->[^\n]*)?:\s*$", prompt, re.MULTILINE | re.DOTALL)
    assert inside
    return [part.split(":")[0].split("=")[0].strip() for part in re.sub(r"\[[^\]]*\]+", "", inside[1]).split(",")]


def calls_helper(prompt: str, name: str) -> str:
    return alone(prompt, f"    return h_({', '.join(parameters(prompt, name))})", name)


def helper(prompt: str, body: str, name: str) -> str:
    return alone(prompt, body, name).replace(f"def {name}(", "def h_(", 1).replace(f"{name}(", "h_(")


def tabbed(code: str) -> str:
    return re.sub(r"^ +", lambda spaces: "\t" * (len(spaces[0]) // 2), code, flags=re.MULTILINE)


def rows() -> list[dict[str, str]]:
    with gzip.open(HUMAN_EVAL, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("shapes", "score"), [(RIGHT, 1.0), (WRONG, 0.0)], ids=["right", "wrong"])
def test_solutions_count_in_every_shape(shapes: dict[str, Shape], score: float) -> None:
    """Each shape with five problems, so that all shapes together meet all problems."""
    task = Code(CodeTask(name="code", train=HUMAN_EVAL, test={"test": HUMAN_EVAL}, timeout=10))
    items = list(zip(task.items("test"), rows(), strict=True))
    tried = [(name, *items[(5 * place + i) % 164]) for place, name in enumerate(shapes) for i in range(5)]
    completions = [shapes[name](row["prompt"], row["canonical_solution"], row["entry_point"]) for name, _, row in tried]
    scores = task.scores([item for _, item, _ in tried], completions)
    assert [(name, item.id) for (name, item, _), got in zip(tried, scores, strict=True) if got != score] == []


PROMPT = 'import math\n\n\ndef add(a, b):\n    """The sum."""\n'
BEFORE = "import math"
PROGRAM = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("completion", "parts"),
    [
        ("    return a\n\nx = 1", (PROMPT + "    return a",)),
        ("```\nreturn a\n```", (PROMPT + "    return a",)),
        (PROGRAM, (BEFORE, PROGRAM)),
        (f"{PROGRAM}\nadd(1, 2)\n", (BEFORE, PROGRAM)),
        (f"ONE = 1\n{PROGRAM}", (BEFORE, f"ONE = 1\n{PROGRAM}")),
        (f"from __future__ import annotations\n{PROGRAM}", (BEFORE, f"from __future__ import annotations\n{PROGRAM}")),
        (f"```python\n{PROGRAM}add(1, 2)\n```", (BEFORE, f"{PROGRAM}add(1, 2)")),  # a block runs as it is
        ("def add(a, b):\n    return h(a)\n\nimport os\n\ndef h(x):\n    return K\n\nK = 1\nL = 2\n",
         (BEFORE, "def add(a, b):\n    return h(a)\ndef h(x):\n    return K\nK = 1")),
        ("nothing", (PROMPT + "    nothing",)),
    ],
)  # fmt: skip
def test_the_parts_are_what_precedes_the_function_and_the_function(completion: str, parts: tuple[str, ...]) -> None:
    found = function_parts(completion, PROMPT, "add")
    assert [without_blank_lines(part) for part in found] == [without_blank_lines(part) for part in parts]


def without_blank_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("def area(r):\n    return r\n\nprint(area(1))", "def area(r):\n    return r"),
        ("[BEGIN]\ndef area(r):\n    return r\n[DONE]\n", "def area(r):\n    return r"),
        ("```\ndef area(r):\n    return r\n```\n```\ndef test_area():\n    pass\n```", "def area(r):\n    return r"),
        ("```\ndef a(r):\n    return r\n```\n```\nprint(1)\n```", "def a(r):\n    return r"),
        ("no code", "no code"),
    ],
)
def test_a_script_is_found_by_the_names_that_its_tests_use(completion: str, program: str) -> None:
    assert script(completion, {"area"}).rstrip("\n") == program


def test_blocks_and_the_text_between_them() -> None:
    inner = 'def f():\n    """```\n    x\n    ```"""\n'
    text = f"Use ```x``` and:\n```python\n{inner}```\nthen\n```bash\npip install x\n```\nend"
    assert blocks(text) == [
        ("Use ```x``` and:\n", False),
        (inner, True),
        ("\nthen\n", False),
        ("pip install x\n", True),
        ("\nend", False),
    ]


@pytest.mark.parametrize(
    "piece",
    [
        "```\n",
        "```python\n",
        "(",
        "'''\n",
        "x = (\n",
        "@a\n",
        "<answer>",
        "import \n",
        "def add(\n",
        "\0",
        "\ud800",
        "```a``` ",
    ],
)
def test_degenerate_text_costs_little(piece: str) -> None:
    start = time.process_time()
    function_parts(piece * 2000, PROMPT, "add")
    script(piece * 2000, {"add"})
    assert time.process_time() - start < 3

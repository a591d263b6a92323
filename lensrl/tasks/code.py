"""Python functions checked by unit tests in a sandbox. Rows have HumanEval's or MBPP's format.

HumanEval (Chen et al. 2021, arXiv 2107.03374): the prompt is the beginning of a function. The completion continues it,
and is cut where something else begins. MBPP (Austin et al. 2021, arXiv 2108.07732): the prompt is a docstring with the
description and the tests, and the completion is a program. In both formats a model that prefers to talk may answer with
the whole function in a fenced block.

This module builds the programs. `lensrl.tasks.sandbox` runs them.
"""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from lensrl.errors import RecipeError
from lensrl.recipe import CodeTask, Source
from lensrl.tasks.executed import Executed
from lensrl.tasks.protocol import Item, Split
from lensrl.tasks.rows import Row, pick, place, read_rows

FENCE = "```"
AFTER_A_FUNCTION = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\nassert", FENCE)
AFTER_A_PROGRAM = ("\nif", "\nprint", "\nassert", '\n"""', FENCE)
_BLOCK = re.compile(r"```[^`\n]*\n(.*?)(?:```|\Z)", re.DOTALL)  # any language name may follow the fence
_CODE = re.compile(r"\n*(?:(?: {2,}|\t\s*)\S|(?:def|class|import|from)\b|@)")


def cut(completion: str, stops: tuple[str, ...]) -> str:
    """Cut a completion at the first of the stop sequences."""
    return completion[: min((at for stop in stops if (at := completion.find(stop)) >= 0), default=len(completion))]


def fenced(completion: str, function: str) -> str | None:
    """Return the first fenced block that defines `function` (a pattern).

    Returns None if there is no such block, or if the completion is code before any fence. A block in a list is indented
    together with its fences; the indentation is removed.
    """
    completion = completion.replace("\r\n", "\n")
    before, fence, _ = completion.partition(FENCE)
    if not fence or _CODE.match(before):
        return None
    defines = re.compile(rf"^(?:async )?def {function}\b", re.MULTILINE)
    blocks = map(textwrap.dedent, _BLOCK.findall(completion))
    return next((block for block in blocks if defines.search(block)), None)


@dataclass(frozen=True)
class Function:
    """A problem in HumanEval's format."""

    prompt: str
    entry_point: str
    test: str
    reference: str

    @property
    def judged_by(self) -> str:
        """The tests of the problem and the name of the tested function, as JSON."""
        return json.dumps([self.entry_point, self.test])

    def program(self, completion: str) -> tuple[str, ...]:
        """Build the program of a completion: the function, its tests, and the call of the tests."""
        block = fenced(completion, self.entry_point)
        if block is None:
            source = self.prompt + cut(completion, AFTER_A_FUNCTION)
        else:  # keep the imports and helper functions that precede the function in the prompt
            source = re.split(rf"^(?:async )?def {self.entry_point}\b", self.prompt, flags=re.MULTILINE)[0] + block
        return source, self.test, f"check({self.entry_point})"


@dataclass(frozen=True)
class Script:
    """A problem in MBPP's format."""

    prompt: str
    setup: str
    tests: tuple[str, ...]
    reference: str

    @property
    def judged_by(self) -> str:
        """The tests of the problem and their setup, as JSON."""
        return json.dumps([self.setup, self.tests])

    def program(self, completion: str) -> tuple[str, ...]:
        """Build the program of a completion: the code, the setup of the tests, and the tests."""
        block = fenced(completion, r"\w+")
        return (cut(completion, AFTER_A_PROGRAM) if block is None else block), self.setup, "\n".join(self.tests)


class Code(Executed):
    """Functions and programs from files, scored 1 if all their tests pass and 0 otherwise."""

    def __init__(self, recipe: CodeTask) -> None:
        self.recipe = recipe
        self.timeout = recipe.timeout
        self.memory = recipe.memory
        self._problems: dict[str, Function | Script] = {}  # by item id

    def items(self, split: Split) -> list[Item]:
        """Return every problem in the order of its source. Raises RecipeError for rows that cannot be read."""
        if split == "train":
            return [] if self.recipe.train is None else self._read("train", self.recipe.train)
        return [item for name, source in self.recipe.test.items() for item in self._read(name, source)]

    def program(self, item: Item, completion: str) -> tuple[str, ...]:
        """Build the program of a completion, for the sandbox."""
        return self._problems[item.id].program(completion)

    def _read(self, benchmark: str, source: Source) -> list[Item]:
        items = []
        for number, row in read_rows(source):
            problem = read_problem(row, place(source, number))
            item = Item(
                f"{benchmark}-{number}", problem.prompt, problem.reference, benchmark, judged_by=problem.judged_by
            )
            self._problems[item.id] = problem
            items.append(item)
        return items


def read_problem(row: Row, where: str) -> Function | Script:
    """Read a row of either format. Raises RecipeError, with `where` at its beginning, for any other row."""
    if row.get("test_list") is not None:
        return _read_script(row, where)
    if row.get("test") is None:
        raise RecipeError(f"{where}: neither test (HumanEval) nor test_list (MBPP); it has {', '.join(row)}")
    prompt, name, test, solution = (
        _text(pick(row, (key,), where), key, where) for key in ("prompt", "entry_point", "test", "canonical_solution")
    )
    if not name.isidentifier():
        raise RecipeError(f"{where}: entry_point {name!r} is not the name of a function")
    return Function(prompt, name, test, solution)


def _read_script(row: Row, where: str) -> Script:
    description = _text(pick(row, ("text", "prompt"), where), "text", where)
    code = _text(pick(row, ("code",), where), "code", where)
    tests, imports = (_texts(row.get(key), key, where) for key in ("test_list", "test_imports"))
    if not tests:
        raise RecipeError(f"{where}: test_list is empty")
    setup = [*imports, _text(row.get("test_setup_code") or "", "test_setup_code", where)]
    prompt = "\n".join(('"""', description.strip(), *tests, '"""', ""))
    return Script(prompt, "\n".join(setup), tests, code)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise RecipeError(f"{where}: {key} must be text; it is {value!r}")
    return value.replace("\r\n", "\n")


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    if value is not None and not isinstance(value, list):
        raise RecipeError(f"{where}: {key} must be a list of lines; it is {value!r}")
    return tuple(_text(line, key, where) for line in value or ())

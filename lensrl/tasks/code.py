"""Python functions checked by unit tests in a sandbox. Rows have HumanEval's or MBPP's format.

HumanEval (Chen et al. 2021, arXiv 2107.03374): the prompt is the beginning of a function. The completion continues it,
and is cut where something else begins. MBPP (Austin et al. 2021, arXiv 2108.07732): the prompt is a docstring with the
description and the tests, and the completion is a program. HumanEval+ and MBPP+ (Liu et al. 2023, arXiv 2305.01210)
have the same formats and more tests, which import NumPy. MBPP+ holds them beside MBPP's own tests; both must pass.

A model may also talk, and write the whole function: `lensrl.tasks.solution` says which code of a completion counts.
This module builds the programs. `lensrl.tasks.sandbox` runs them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lensrl.errors import RecipeError
from lensrl.recipe import CodeTask, Source
from lensrl.tasks.executed import Executed
from lensrl.tasks.protocol import Item, Split
from lensrl.tasks.rows import Row, pick, place, read_rows, whole_text
from lensrl.tasks.sandbox import find_packages
from lensrl.tasks.solution import defined, function_parts, script

_MODULE = r"[^\W\d]\w*(?:\.\w+)*"
_MODULES = rf"{_MODULE}(?: +as +\w+)?"
_IMPORT = re.compile(
    rf"^[ \t]*(?:from +({_MODULE}) +import\b|import +({_MODULES}(?: *, *{_MODULES})*)[ \t]*(?:[#;].*)?$)", re.MULTILINE
)


@dataclass(frozen=True)
class Function:
    """A problem in HumanEval's format."""

    prompt: str
    entry_point: str
    test: str
    reference: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything that runs when the reference is judged."""
        return self.prompt, self.reference, self.test

    @property
    def judged_by(self) -> str:
        """The tests of the problem and the name of the tested function, as JSON."""
        return json.dumps([self.entry_point, self.test])

    def program(self, completion: str) -> tuple[str, ...]:
        """Build the program of a completion: the function, its tests, and the call of the tests."""
        return *function_parts(completion, self.prompt, self.entry_point), self.test, f"check({self.entry_point})"


@dataclass(frozen=True)
class Script:
    """A problem in MBPP's format."""

    prompt: str
    setup: str
    tests: tuple[str, ...]
    more: tuple[str, ...]  # MBPP+: further tests, as one program
    reference: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything that runs when the reference is judged."""
        return self.reference, self.setup, *self.tests, *self.more

    @property
    def judged_by(self) -> str:
        """The tests of the problem and their setup, as JSON."""
        return json.dumps([self.setup, self.tests, *self.more])

    @cached_property
    def names(self) -> set[str]:
        """The functions and classes that the tests use, of those that the reference defines."""
        own = defined(self.reference)
        return own & set(re.findall(r"\w+", "\n".join((self.setup, *self.tests)))) or own

    def program(self, completion: str) -> tuple[str, ...]:
        """Build the program of a completion: the code, the setup of the tests, and the tests."""
        return script(completion, self.names), self.setup, "\n".join(self.tests), *self.more


class Code(Executed):
    """Functions and programs from files, scored 1 if all their tests pass and 0 otherwise."""

    def __init__(self, recipe: CodeTask) -> None:
        self.recipe = recipe
        self.timeout = recipe.timeout
        self.memory = recipe.memory
        self.packages = recipe.packages
        find_packages(self.packages)  # before hours are spent
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
            where = place(source, number)
            problem = read_problem(row, where)
            if missing := _imported(problem.texts) - {*self.packages, *sys.stdlib_module_names}:
                packages = json.dumps([*self.packages, *sorted(missing)])
                raise RecipeError(f"{where}: it imports {min(missing)}; write packages = {packages} into [task]")
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
    more = () if row.get("test") is None else (_text(row["test"], "test", where),)
    return Script(prompt, "\n".join(setup), tests, more, code)


def _imported(texts: Iterable[str]) -> set[str]:
    """Return the top-level names that texts import, by lines: the tests of HumanEval+ are too long for the parser."""
    found = [one or several for text in texts for one, several in _IMPORT.findall(text)]
    return {re.split(r"[. ]", name.strip())[0] for names in found for name in names.split(",")}


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise RecipeError(f"{where}: {key} must be text; it is {value!r}")
    return whole_text(value, key, where).replace("\r\n", "\n")


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    if value is not None and not isinstance(value, list):
        raise RecipeError(f"{where}: {key} must be a list of lines; it is {value!r}")
    return tuple(_text(line, key, where) for line in value or ())

"""A recipe as text: TOML with every setting, its defaults filled in, and, where asked, with what each setting means.

The meanings are the docstrings of the tables and the comments behind their fields, so they stand in one place.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel

from lensrl.recipe.settings import Recipe

_FIELD = re.compile(r"^    (\w+): .*?  # (.*)$", re.MULTILINE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def spell_recipe(recipe: Recipe, *, meanings: bool = False) -> str:
    """Return a recipe as TOML. Read again, it is the same recipe. A setting that is not set is a comment."""
    return "\n".join(_table(recipe, (), meanings)).strip() + "\n"


def _table(table: BaseModel, path: tuple[str, ...], meanings: bool, *, head: str = "") -> Iterator[str]:
    """Yield the lines of a table: its settings, then the tables in it."""
    kind = type(table)
    if head:
        yield f"\n{head}"
    if meanings:
        yield from (*_commented(inspect.cleandoc(kind.__doc__ or "")), "")
    comments = _comments(kind) if meanings else {}
    values = {name: getattr(table, name) for name in kind.model_fields}
    inner = {name: value for name, value in values.items() if _holds_tables(value)}
    for name, value in values.items():
        if name in inner:
            continue
        if name in comments:
            yield from _commented(comments[name])
        yield f"# {_key(name)} is not set" if value is None else f"{_key(name)} = {_literal(value)}"
    for name, value in inner.items():
        yield from _tables(value, (*path, name), meanings)


def _tables(value: object, path: tuple[str, ...], meanings: bool) -> Iterator[str]:
    """Yield the lines of a table, of tables by name, or of an array of tables."""
    named = ".".join(map(_key, path))
    if isinstance(value, BaseModel):
        yield from _table(value, path, meanings, head=f"[{named}]")
    elif isinstance(value, Mapping):
        for name, one in value.items():
            # [evaluation.NAME] is how a file says it; the recipe keeps these tables together.
            place = path[:-1] if path == ("evaluation", "benchmarks") else path
            yield from _tables(one, (*place, str(name)), meanings)
    elif isinstance(value, list):
        for one in value:
            yield from _table(one, path, meanings, head=f"[[{named}]]")


def _holds_tables(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tables, value.values()))
    return isinstance(value, BaseModel) or (isinstance(value, list) and any(map(_holds_tables, value)))


def _comments(kind: type[BaseModel]) -> dict[str, str]:
    """Return the comment behind each field of a table, those of its base classes included."""
    found: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if issubclass(parent, BaseModel) and parent is not BaseModel:
            found |= dict(_FIELD.findall(inspect.getsource(parent)))
    return found


def _commented(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"# {line}".rstrip()


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _literal(value: object) -> str:
    """Return a value as TOML. Strings of JSON are strings of TOML, and so are its lists."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(str(k))} = {_literal(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inside} }}" if inside else "{}"
    return repr(value)

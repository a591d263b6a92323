"""Read rows of problems: JSON Lines files, Parquet files, and data sets as `datasets` loads them.

A field is named by its path: `answer`, `reward_model.ground_truth`, `prompt.0.content`. Fields of problems are texts or
numbers. Anything else is refused with the row and the field: a list turned into text is an answer that nobody gives.

Nothing that comes with a data set is executed: `datasets` itself refuses loading scripts, and nothing is unpickled.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from lensrl.errors import RecipeError, reason
from lensrl.recipe import Dataset, Source

Row = dict[str, Any]


def read_rows(source: Source) -> Iterator[tuple[int, Row]]:
    """Yield every row with its number, from 1: the line in a JSON Lines file (blank lines count), the row elsewhere.

    A file that does not end in .parquet is read as JSON Lines, and decompressed first if it ends in .gz. Raises
    RecipeError in one line for a source that cannot be read, for a line that is not a JSON object, and for an empty
    source.
    """
    if isinstance(source, Dataset):
        rows = _read_dataset(source)
    elif source.suffix == ".parquet":
        rows = _read_parquet(source)
    else:
        rows = _read_json_lines(source)
    number = 0
    for number, row in rows:
        yield number, row
    if not number:
        needed = "it needs one JSON object per line" if isinstance(source, Path) else "it needs at least one row"
        raise RecipeError(f"{place(source)} is empty: {needed}")


def place(source: Source, number: int | None = None) -> str:
    """Describe the place of a row for an error: `task file train.jsonl, line 3`."""
    if isinstance(source, Dataset):
        config = f" ({source.config})" if source.config else ""
        where, unit = f"data set {source.dataset}{config}, split {source.split}", "row"
    else:
        where, unit = f"task file {source}", "row" if source.suffix == ".parquet" else "line"
    return where if number is None else f"{where}, {unit} {number}"


def pick(row: Row, keys: tuple[str, ...], where: str) -> Any:
    """Return the value of the first of `keys` that a row has.

    Raises RecipeError, with the keys that the row does have, if it has none of them.
    """
    return row_field(row, pick_key(row, keys, where))


def pick_key(row: Row, keys: tuple[str, ...], where: str) -> str:
    """Return the first of `keys`, names or paths, for which a row has a value. Raises RecipeError as `pick` does."""
    for key in keys:
        if row_field(row, key) is not None:
            return key
    if empty := [key for key in keys if _is_there(row, key)]:
        raise RecipeError(f"{where}: {empty[0]} is null")
    raise RecipeError(f"{where}: none of the keys {', '.join(keys)}; it has {', '.join(row)}")


def _is_there(row: Row, path: str) -> bool:
    """Return whether a row has a field, null or not."""
    parent, _, name = path.rpartition(".")
    inside = row_field(row, parent) if parent else row
    places = [str(place) for place in range(len(inside))] if isinstance(inside, list) else inside
    return path in row or (isinstance(places, dict | list) and name in places)


def row_field(row: Row, path: str) -> Any:
    """Return the value at a path, `reward_model.ground_truth` or `prompt.0.content`; None if there is none."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and re.fullmatch(r"-?\d+", name) and -len(value) <= int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def read_text(value: Any, key: str, where: str, *, column: str) -> str:
    """Return the text of a field: itself, or a number as text. `column` is its name among a recipe's `columns`.

    Raises RecipeError for any other value, for NaN and infinities, and for a text with half of a surrogate pair.
    """
    if isinstance(value, str):
        return whole_text(value, key, where)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        inside = (
            next(iter(value), None) if isinstance(value, dict) else "0" if isinstance(value, list) and value else None
        )
        hint = "" if inside is None else f"; to take a text from it, write {_mapping(column, f'{key}.{inside}')}"
        raise RecipeError(f"{where}: {key} must be a text or a number; it is {_described(value)}{hint}")
    return str(value)


def whole_text(text: str, key: str, where: str) -> str:
    """Return a text. Raises RecipeError if it holds half of a surrogate pair: no tokenizer can read it."""
    if half := re.search(r"[\ud800-\udfff]", text):
        raise RecipeError(
            f"{where}: {key} holds half of a surrogate pair, {ascii(half[0])[1:-1]}, at character {half.start() + 1}: "
            f"it is no Unicode text"
        )
    return text


def read_question(value: Any, key: str, where: str) -> str:
    """Return the text of a question: a text, or a chat of one message, from the user.

    Raises RecipeError for a chat with more messages, with the path of the one that may be meant.
    """
    if not (isinstance(value, list) and value and all(isinstance(part, dict) and "role" in part for part in value)):
        return read_text(value, key, where, column="question")
    roles = [str(message["role"]) for message in value]
    if roles == ["user"]:
        return read_text(value[0].get("content"), f"{key}.0.content", where, column="question")
    last = max((place for place, role in enumerate(roles) if role == "user"), default=0)
    raise RecipeError(
        f"{where}: {key} is a chat of {', '.join(roles)}; it must be one message of the user; "
        f"to ask one message alone, write {_mapping('question', f'{key}.{last}.content')}"
    )


def _mapping(column: str, path: str) -> str:
    return f'columns = {{ {column} = "{path}" }} into [task]'


def _described(value: Any) -> str:
    """Describe a value in the words of JSON: `the list ["3", "-3"]`."""
    kinds = {bool: "", type(None): "", float: "", list: "the list ", dict: "the object "}
    text = json.dumps(value, default=repr)
    kind = kinds.get(type(value), f"of type {type(value).__name__}: ")
    return kind + (text if len(text) <= 60 else f"{text[:57]}...")


def _read_json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RecipeError(f"{place(path)} cannot be read: {cause}") from None
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON may contain U+2028 unescaped
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecipeError(
                f"{place(path, number)}: {error}; a file that does not end in .parquet needs one JSON object per line"
            ) from None
        if not isinstance(row, dict):
            raise RecipeError(f"{place(path, number)}: not a JSON object")
        yield number, row


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    from pyarrow import ArrowException, parquet  # slow to import, and most recipes do not need it

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, UnicodeDecodeError, ArrowException) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        raise RecipeError(f"{place(path)} cannot be read: {cause}") from None


def _read_dataset(source: Dataset) -> Iterator[tuple[int, Row]]:
    import datasets  # slow to import, and most recipes do not need it

    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(source.dataset, source.config, split=source.split, revision=source.revision)
    except ConnectionError as error:
        raise RecipeError(
            f"{place(source)} cannot be reached ({reason(error)}); give a folder with its Parquet or JSON Lines files, "
            f"or fetch it into this machine's Hugging Face cache first"
        ) from None
    except Exception as error:  # each kind of broken data set raises a different error
        raise RecipeError(f"{place(source)} cannot be loaded: {_cause_of_failure(error)}") from None
    for number, row in enumerate(table, start=1):
        yield number, dict(row)


def _cause_of_failure(error: Exception) -> str:
    """Return the cause of a failed load in one line.

    For an unknown split it lists the known splits. Any other cause is the first line of `datasets`' own message.
    """
    message = reason(error)
    if message.startswith("Unknown split"):
        return f"no such split; there are {message.partition('[')[2].partition(']')[0]}"
    return message

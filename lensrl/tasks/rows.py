"""Rows of problems: JSON Lines and Parquet files, and data sets as `datasets` loads them.

Nothing that a data set brings along is run: loading scripts are refused by `datasets` itself, and nothing is unpickled.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensrl.errors import RecipeError, reason
from lensrl.recipe import Dataset, Source

Row = dict[str, Any]


def read_rows(source: Source) -> Iterator[tuple[int, Row]]:
    """Every row with its number: the line in a JSON Lines file (blank lines count), the row elsewhere, from 1.

    A file that does not end in .parquet is read as JSON Lines, unpacked first where it ends in .gz. Raises RecipeError
    in one line for what cannot be read, for a line that is no JSON object, and when there is no row at all.
    """
    if isinstance(source, Dataset):
        rows = _load(source)
    elif source.suffix == ".parquet":
        rows = _parquet(source)
    else:
        rows = _json_lines(source)
    number = 0
    for number, row in rows:
        yield number, row
    if not number:
        needed = "it needs one JSON object per line" if isinstance(source, Path) else "it needs at least one row"
        raise RecipeError(f"{place(source)} is empty: {needed}")


def place(source: Source, number: int | None = None) -> str:
    """Where a row stands, for an error: `task file train.jsonl, line 3`."""
    if isinstance(source, Dataset):
        config = f" ({source.config})" if source.config else ""
        where, unit = f"data set {source.dataset}{config}, split {source.split}", "row"
    else:
        where, unit = f"task file {source}", "row" if source.suffix == ".parquet" else "line"
    return where if number is None else f"{where}, {unit} {number}"


def pick(row: Row, keys: tuple[str, ...], where: str) -> Any:
    """What stands under the first of `keys` that a row has. Raises RecipeError with the keys that it does have."""
    for key in keys:
        if row.get(key) is not None:
            return row[key]
    raise RecipeError(f"{where}: none of the keys {', '.join(keys)}; it has {', '.join(row)}")


def _json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RecipeError(f"{place(path)} cannot be read: {cause}") from None
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON may hold U+2028 as it is
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{place(path, number)}: {error}") from None
        if not isinstance(row, dict):
            raise RecipeError(f"{place(path, number)}: not a JSON object")
        yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    from pyarrow import ArrowException, parquet  # slow to import, and most recipes need none

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, ArrowException) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        raise RecipeError(f"{place(path)} cannot be read: {cause}") from None


def _load(source: Dataset) -> Iterator[tuple[int, Row]]:
    import datasets  # slow to import, and most recipes need none

    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(source.dataset, source.config, split=source.split, revision=source.revision)
    except ConnectionError as error:
        raise RecipeError(
            f"{place(source)} cannot be reached ({reason(error)}); give a folder with its Parquet or JSON Lines files, "
            f"or fetch it into this machine's Hugging Face cache first"
        ) from None
    except Exception as error:  # each kind of broken data set fails with an error of its own
        raise RecipeError(f"{place(source)} cannot be loaded: {_cause(error)}") from None
    for number, row in enumerate(table, start=1):
        yield number, dict(row)


def _cause(error: Exception) -> str:
    """`datasets` names the splits there are; what it says about the rest is left in its words."""
    message = reason(error)
    if message.startswith("Unknown split"):
        return f"no such split; there are {message.partition('[')[2].partition(']')[0]}"
    return message

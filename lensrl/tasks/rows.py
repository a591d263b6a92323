"""Read rows of problems: JSON Lines files, Parquet files, and data sets as `datasets` loads them.

Nothing that comes with a data set is executed: `datasets` itself refuses loading scripts, and nothing is unpickled.
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
    for key in keys:
        if row.get(key) is not None:
            return row[key]
    raise RecipeError(f"{where}: none of the keys {', '.join(keys)}; it has {', '.join(row)}")


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
            raise RecipeError(f"{place(path, number)}: {error}") from None
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
    except (OSError, ArrowException) as error:
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

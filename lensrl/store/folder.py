"""The studies and runs below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lensrl.errors import LensrlError, StoreError
from lensrl.store.names import RECIPE_FILE
from lensrl.store.patch import is_patch
from lensrl.store.run import Run
from lensrl.store.runs import COLUMNS, as_table, run_row, unread_row
from lensrl.store.study import Study

if TYPE_CHECKING:
    import pandas as pd


def runs(folder: str | Path) -> pd.DataFrame:
    """Return one row per run of every study below a folder: `study`, the study's folder, then `Runs.table`'s columns.

    A run file outside every study has an empty `study`. Results of patching are not listed. Raises LensrlError when
    there is no such folder.
    """
    return as_table(run_rows(folder), ["study", *COLUMNS])


def run_rows(folder: str | Path) -> list[dict[str, object]]:
    """Return the rows of `runs` as dictionaries, without pandas."""
    folder = Path(folder)
    if not folder.is_dir():
        raise LensrlError(f"no folder at {folder}")
    rows: list[dict[str, object]] = []
    studies = sorted(recipe.parent for recipe in folder.rglob(RECIPE_FILE))
    for path in studies:
        with Study(path) as study:
            rows += [{"study": str(path), **row} for row in study.runs.rows()]
    for file in sorted(folder.rglob("*.h5")):
        if any(path in file.parents for path in studies):
            continue
        try:
            with Run(file) as run:
                row = run_row(run)
        except StoreError as error:
            if is_patch(file):
                continue
            row = unread_row(file, error)
        rows.append({"study": "", **row, "file": str(file)})
    return rows

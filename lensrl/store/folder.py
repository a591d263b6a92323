"""The studies and runs below a folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lensrl.errors import LensrlError, StoreError
from lensrl.store.names import RECIPE_FILE
from lensrl.store.patch import is_patch
from lensrl.store.run import Run
from lensrl.store.runs import COLUMNS, as_table, run_row, unread_row
from lensrl.store.study import Study


def runs(folder: str | Path) -> pd.DataFrame:
    """Every study and run below a folder: the columns of `Runs.table` after `study`, the study's folder.

    Run files that lie outside a study are listed with an empty `study`; results of patching are no runs. Raises
    LensrlError when there is no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LensrlError(f"no folder at {folder}")
    studies = sorted(kept.parent for kept in folder.rglob(RECIPE_FILE))
    tables = []
    for path in studies:
        with Study(path) as study:
            tables.append(study.runs.table().assign(study=str(path)))
    stray = [f for f in sorted(folder.rglob("*.h5")) if not any(path in f.parents for path in studies)]
    rows = []
    for file in stray:
        try:
            with Run(file) as run:
                rows.append(run_row(run) | {"file": str(file)})
        except StoreError as error:
            if not is_patch(file):
                rows.append(unread_row(file, error) | {"file": str(file)})
    if rows:
        tables.append(as_table(rows).assign(study=""))
    columns = ["study", *COLUMNS]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)

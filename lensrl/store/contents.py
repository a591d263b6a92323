"""The contents of a run file: one row per dataset, read from the file's structure and from no array."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import h5py

from lensrl.store.file.checked import axis_names, check_tree, dataset_at, located

_FOLDED = re.compile(r"((?:.*/)?(?:deltas|repairs)/[^/]+|(?:training_)?completions)/.*")


class DatasetRow(NamedTuple):
    """One dataset of a run file, or all weights of one part, or all arrays of completions (`fold`)."""

    dataset: str  # its name
    axes: str  # `item, sample`; empty for an axis
    shape: tuple[int, ...]
    dtype: str
    bytes: int  # as stored


def list_contents(file: h5py.File) -> list[DatasetRow]:
    """Return one row per dataset of a run file: first the root, then the groups, numbers in their natural order."""
    rows = []
    with located(file, "its structure"):
        for name in sorted(check_tree(file), key=_natural):
            if not hasattr(file[name], "shape"):
                continue  # a group
            dataset = dataset_at(file, name)
            axes = "" if dataset.is_scale else ", ".join(axis_names(dataset))
            rows.append(DatasetRow(name, axes, dataset.shape, str(dataset.dtype), dataset.id.get_storage_size()))
    return rows


def fold(contents: Sequence[DatasetRow]) -> list[DatasetRow]:
    """Return the contents at a glance: without axes, and with one row for the weights of each part, and for texts.

    The row of a part has the number of its arrays under `axes` and no shape. Its `dtype` is empty where the arrays
    differ: repairs are places (int64) and values (float32).
    """
    parts: dict[str, list[DatasetRow]] = {}
    for row in contents:
        if row.axes or not row.shape:  # everything but axes
            folded = _FOLDED.fullmatch(row.dataset)
            parts.setdefault(folded[1] if folded else row.dataset, []).append(row)
    return [_folded(name, rows) for name, rows in parts.items()]


def _folded(name: str, rows: Sequence[DatasetRow]) -> DatasetRow:
    if name == rows[0].dataset:
        return rows[0]
    dtypes = {row.dtype for row in rows}
    return DatasetRow(
        dataset=name,
        axes=f"{len(rows)} array{'s' * (len(rows) > 1)}",
        shape=(),
        dtype=dtypes.pop() if len(dtypes) == 1 else "",
        bytes=sum(row.bytes for row in rows),
    )


def _natural(name: str) -> list[object]:
    """Sort key of a dataset's name: the root before groups, `deltas/9` before `deltas/10`."""
    parts = name.split("/")
    return [len(parts) > 1, *((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)]

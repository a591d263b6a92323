"""The contents of a run file: one row per dataset, from its structure alone."""

from __future__ import annotations

import h5py
import pandas as pd

from lensrl.store.file.checked import axis_names, check_tree, dataset_at, located


def list_contents(file: h5py.File) -> pd.DataFrame:
    """One row per dataset of a run file: dataset, axes, shape, dtype, bytes (as stored)."""
    rows = []
    with located(file, "its structure"):
        for name in sorted(check_tree(file), key=_natural):
            node = file[name]
            if not hasattr(node, "shape"):
                continue
            dataset = dataset_at(file, name)
            axes = "" if dataset.is_scale else ", ".join(axis_names(dataset))
            rows.append((name, axes, dataset.shape, str(dataset.dtype),
                         dataset.id.get_storage_size()))  # fmt: skip
    return pd.DataFrame(rows, columns=["dataset", "axes", "shape", "dtype", "bytes"])


def fold(contents: pd.DataFrame) -> pd.DataFrame:
    """The contents of a run file at a glance: axes left out, the weights of a part in one row.

    `dtype` is empty for the repairs of a part, which are places (int64) and values (float32).
    """
    shown = contents[(contents["axes"] != "") | (contents["shape"].map(len) == 0)]
    weights = shown["dataset"].str.contains("(?:^|/)(?:deltas|repairs)/")
    part = shown["dataset"].str.replace(r"((?:^|/)(?:deltas|repairs)/[^/]+)/.*", r"\1", regex=True)
    rows = []
    for name, group in shown.groupby(part.where(weights, shown["dataset"]), sort=False):
        axes, shape = group.iloc[0][["axes", "shape"]]
        if weights[group.index[0]]:
            axes, shape = f"{len(group)} array{'s' * (len(group) > 1)}", ""
        dtypes = group["dtype"].unique()
        rows.append((name, axes, shape, dtypes[0] if len(dtypes) == 1 else "", group["bytes"].sum()))
    return pd.DataFrame(rows, columns=["dataset", "axes", "shape", "dtype", "bytes"])


def _natural(name: str) -> list[object]:
    """`deltas/10` after `deltas/9`; what is at the root first."""
    parts = name.split("/")
    return [len(parts) > 1, *((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)]

"""Read a published profile of layer contributions from a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError, reason
from lensrl.measures.gains import Gains


def read_contributions(path: str | Path) -> pd.DataFrame:
    """Read a table of contributions from a CSV file: one row per layer, in ascending order.

    Columns: layer, contribution, low, high, interval_from. The file needs the columns `layer` and `contribution`. A row
    without a layer is left out. A layer without a contribution keeps its row, with NaN: it is still a layer of the
    model. `interval_from` says where the interval of a row comes from:

    - `file`: the file has `low` and `high`, and both are numbers for this layer;
    - `roughness`: the file lacks these columns. The interval is estimated from the roughness of the profile over depth
      (`Gains.from_profile`). A cliff in the profile makes it wider than it is;
    - empty: the layer has no contribution, or no whole interval.

    Raises LensrlError when the file is not such a table.
    """
    # The columns, as numbers.
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise LensrlError(
            f"{path} cannot be read as a table ({reason(error)}); give a CSV file with layer and contribution"
        ) from None
    missing = [name for name in ("layer", "contribution") if name not in table]
    if missing:
        raise LensrlError(
            f"{path} has no column {missing[0]!r}, only {', '.join(map(str, table.columns))}: name them layer and "
            f"contribution"
        )
    ends = ["low", "high"] if {"low", "high"} <= set(table) else []
    numbers = table[["layer", "contribution", *ends]].apply(pd.to_numeric, errors="coerce")
    # The rows of layers, each layer once, in order.
    rows = numbers[np.isfinite(numbers["layer"])].replace([np.inf, -np.inf], np.nan)
    layers, measured = rows["layer"].to_numpy(), rows["contribution"].notna()
    if measured.sum() < 3 or (layers % 1 != 0).any() or (layers < 0).any() or len(np.unique(layers)) < len(layers):
        raise LensrlError(f"{path} needs at least three layers, numbered from 0, each once, with a contribution")
    rows = rows.sort_values("layer").astype({"layer": int}).reset_index(drop=True)
    if not ends:  # The intervals, where the file has none.
        known = rows.index[rows["contribution"].notna()]
        estimated = Gains.from_profile(rows.loc[known, "contribution"].to_numpy(float)).ratios()
        rows = rows.join(pd.DataFrame(estimated, index=known)[["low", "high"]])
    has_interval = rows[["contribution", "low", "high"]].notna().all(axis=1)
    return rows.assign(interval_from=np.where(has_interval, "file" if ends else "roughness", ""))

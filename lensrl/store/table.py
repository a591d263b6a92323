"""A profile of contributions that somebody published, as a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError, reason
from lensrl.measures.gains import Gains


def read_contributions(path: str | Path) -> pd.DataFrame:
    """A table of contributions: layer, contribution, low, high, from a CSV file; rows without a layer are left out.

    A layer without a number keeps its row, with NaN: it is a layer of the model all the same. Where the file has no
    `low` and `high`, they come from the profile's roughness (`Gains.from_profile`). Raises LensrlError when it is not
    such a table.
    """
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
    rows = numbers[np.isfinite(numbers["layer"])].replace([np.inf, -np.inf], np.nan)
    layers, measured = rows["layer"].to_numpy(), rows["contribution"].notna()
    if measured.sum() < 3 or (layers % 1 != 0).any() or (layers < 0).any() or len(np.unique(layers)) < len(layers):
        raise LensrlError(f"{path} needs at least three layers, numbered from 0, each once, with a contribution")
    rows = rows.sort_values("layer").astype({"layer": int}).reset_index(drop=True)
    if ends:
        return rows
    known = rows.index[rows["contribution"].notna()]
    estimated = Gains.from_profile(rows.loc[known, "contribution"].to_numpy(float)).ratios()
    return rows.join(pd.DataFrame(estimated, index=known)[["low", "high"]])

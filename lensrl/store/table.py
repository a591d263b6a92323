"""Read a published profile of layer contributions from a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError, reason
from lensrl.measures.gains import Gains

PERCENT = 10  # a contribution above it is in percent: no layer recovers ten times the gain of full RL
MOST_LAYERS = 0.8  # share of the layers that must be there before layers from 1 count as numbered from 1


def read_contributions(path: str | Path) -> pd.DataFrame:
    """Read a table of contributions from a CSV file: one row per layer, in ascending order.

    Columns: layer, contribution, low, high, interval_from. The file needs the columns `layer` and `contribution`. A row
    without a layer is left out. A layer without a contribution keeps its row, with NaN: it is still a layer of the
    model. `interval_from` says where the interval of a row comes from:

    - `file`: the file has `low` and `high`, and both are numbers for this layer;
    - `roughness`: the file lacks these columns. The interval is estimated from the roughness of the profile over depth
      (`Gains.from_profile`). A cliff in the profile makes it wider than it is;
    - empty: the layer has no contribution, or no whole interval.

    People write such tables in other ways, too. Contributions in percent (one of them above 10) are divided by 100, and
    layers numbered from 1 are numbered from 0. `attrs["notes"]` of the result says so in sentences, and names layers
    without a row.

    Raises LensrlError when the file is not such a table.
    """
    # The columns, as numbers.
    table = _read(path)
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
    rows, notes = _in_house_units(rows, ["contribution", *ends])
    if not ends:  # The intervals, where the file has none.
        known = rows.index[rows["contribution"].notna()]
        estimated = Gains.from_profile(rows.loc[known, "contribution"].to_numpy(float)).ratios()
        rows = rows.join(pd.DataFrame(estimated, index=known)[["low", "high"]])
    has_interval = rows[["contribution", "low", "high"]].notna().all(axis=1)
    rows = rows.assign(interval_from=np.where(has_interval, "file" if ends else "roughness", ""))
    rows.attrs["notes"] = notes
    return rows


def read_benchmarks(path: str | Path) -> pd.DataFrame:
    """Return the contribution of every layer on each benchmark of a table that holds scores: one row per layer.

    Such a table has two rows without a layer, whose first column is `Base` and `Full` (in any case), and columns of
    scores: C_l = (S_l - S_base) / (S_full - S_base) on each. A column named like an average is left out, as are columns
    in which full RL gains nothing. Columns: layer, and the benchmarks; no benchmark where the table holds no scores.
    """
    table = _read(path)
    label = table.iloc[:, 0].astype(str).str.strip().str.lower()
    runs = {name: table[label.str.startswith(name)] for name in ("base", "full")}
    layers = pd.to_numeric(table["layer"], errors="coerce")
    found = pd.DataFrame({"layer": layers[layers.notna()].astype(int)})
    if all(len(rows) == 1 for rows in runs.values()):
        for name in table.columns.drop(["layer", "contribution"]):
            scores = pd.to_numeric(table[name], errors="coerce")
            base, full = (float(scores[rows.index[0]]) for rows in runs.values())
            if full > base and not any(word in name.lower() for word in ("avg", "average", "mean")):
                found[name] = (scores[found.index] - base) / (full - base)
    return found.sort_values("layer").reset_index(drop=True)


def _read(path: str | Path) -> pd.DataFrame:
    """Read a CSV file. Raises LensrlError where it cannot be read."""
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise LensrlError(
            f"{path} cannot be read as a table ({reason(error)}); give a CSV file with layer and contribution"
        ) from None


def _in_house_units(rows: pd.DataFrame, shares: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with contributions as shares and layers from 0, and sentences about what was changed."""
    notes = []
    largest = float(rows["contribution"].max())
    if largest > PERCENT:
        rows = rows.assign(**{name: rows[name] / 100 for name in shares})
        notes.append(f"The contributions reach {largest:g}: they are taken as percent and divided by 100.")
    first, last = int(rows["layer"].iloc[0]), int(rows["layer"].iloc[-1])
    if first == 1 and len(rows) > MOST_LAYERS * last:
        rows = rows.assign(layer=rows["layer"] - 1)
        notes.append(
            "The layers are numbered from 1: layer 1 is shown as layer 0. If layer 0 is missing instead, give it a row "
            "without a contribution."
        )
    absent = sorted({*range(int(rows["layer"].iloc[-1]) + 1)} - {*rows["layer"].tolist()})
    if absent:
        notes.append(f"Without a row in the table: layers {', '.join(map(str, absent))}.")
    return rows, notes

"""A chart that can be asked: a table, what of it to choose, and how Vega-Lite draws it.

The browser gets the table once, as JSON. What it draws, lists and saves as CSV are the rows that are chosen.

Vega-Lite (BSD-3-Clause) is the library: the copy in `vl-convert-python` has 0.9 MB, with Vega and Vega-Embed. plotly.js
has 4.8 MB and would leave no room under 5 MB for a study. A chart is a dictionary, so the page needs no code a chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lensrl.show.words import number

Spec = dict[str, Any]

EVERY = "all"  # the seed of rows over all seeds; choosing it keeps the rows of single seeds, too
DIGITS = 5  # significant digits of a number in the page


@dataclass(frozen=True)
class Chart:
    """Rows, and what a reader may ask of them.

    columns: heading of each column that the table and the CSV have. choices: label of each column of which one value is
    chosen. several: the column of which any number of values is chosen; `first` are those chosen at first, and
    `colours` has a colour for each value. square: as high as wide. table: whether a table stands below. digits: those
    after the point in the table. named: the column of the legend, which names the values that are drawn alone.

    A title `$measure` in the specification stands for the chosen measure.
    """

    rows: pd.DataFrame
    spec: Spec
    columns: Mapping[str, str]
    choices: Mapping[str, str]
    several: str = ""
    first: Sequence[str] = ()
    colours: Mapping[str, str] | None = None
    square: bool = False
    table: bool = True
    named: str = ""
    digits: int = 3

    def shown(self) -> pd.DataFrame:
        """Return the rows of the table at first: of the first value of every choice."""
        rows = self.rows
        for column in self.choices:
            if len(rows):
                rows = rows[rows[column] == rows[column].iloc[0]]
        return rows

    @property
    def words(self) -> set[str]:
        """The columns of the table that are no numbers."""
        return {name for name in self.columns if not pd.api.types.is_numeric_dtype(self.rows[name])}

    def cells(self) -> list[dict[str, str]]:
        """Return the table at first, as text."""
        shown = self.shown()
        whole = {name for name in self.columns if name not in self.words and (shown[name].dropna() % 1 == 0).all()}
        return [
            {name: str(row[name]) if name in self.words else number(row[name], 0 if name in whole else self.digits)
             for name in self.columns}
            for row in shown.to_dict("records")
        ]  # fmt: skip

    def as_data(self) -> dict[str, Any]:
        """Return the chart as data for JSON: columns of numbers, and columns of words as places in a list."""
        kept = list(dict.fromkeys([*self.columns, *self.choices, *filter(None, [self.several])]))
        kept += [name for name in self.rows if name not in kept]
        return {
            "spec": self.spec, "columns": dict(self.columns), "choices": dict(self.choices), "several": self.several,
            "first": list(self.first), "colours": dict(self.colours or {}), "square": self.square, "table": self.table,
            "digits": self.digits, "named": self.named,
            "rows": packed(self.rows[kept]),
        }  # fmt: skip


def packed(rows: pd.DataFrame) -> dict[str, Any]:
    """Return a table as columns for JSON."""
    return {str(name): _packed(rows[name]) for name in rows}


def _packed(column: pd.Series) -> Any:
    """Return numbers as a list, null where there is none; anything else as its different values and their places."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return [_short(value) for value in column.to_numpy(float)]
    places, values = pd.factorize(column.astype(str))
    return {"values": values.tolist(), "at": places.tolist()}


def _short(value: float) -> float | int | None:
    if not np.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(value) if value == int(value) and abs(value) < 1e15 else short

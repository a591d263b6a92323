"""What rounding does to the deltas of a table: stored types, and the norm that rounding alone would give.

A checkpoint in bfloat16 has been rounded, and so has its difference from the base. `rounding_norm` is the null beside
the norm of a change: the norm of the errors of rounding to the stored types, of both models together, in the parameters
that moved. A run that was trained here, or merged here from an adapter, has none: its difference begins at the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import pandas as pd

from lensrl.measures.rounding import rounding_norm


class Part(Protocol):
    """A part of a model before and after training: `lensrl.compare.weights.PartWeights`."""

    @property
    def part(self) -> int | str: ...
    @property
    def components(self) -> Mapping[str, str]: ...
    @property
    def before(self) -> Mapping[str, np.ndarray]: ...
    @property
    def after(self) -> Mapping[str, np.ndarray]: ...


P = TypeVar("P", bound=Part)


class Stored(NamedTuple):
    """How one parameter is stored in two models, and what rounding does to it."""

    row: str  # the row of the table to which the parameter belongs
    base_dtype: str
    trained_dtype: str
    rounding: float  # the squared norm of the errors of rounding; NaN where it is not known
    entries: int
    changed: int


class Kinds(NamedTuple):
    """The stored types of each parameter in a base and in a model that was trained from it."""

    base: Mapping[str, str]
    trained: Mapping[str, str]
    exact: bool = False  # the difference was taken before any rounding


def watch(parts: Iterable[P], by: str, kinds: Kinds, stored: list[Stored]) -> Iterator[P]:
    """Hand on the parts, and append a record of each parameter to `stored`."""
    for part in parts:
        for name, component in part.components.items():
            before, after = part.before[name], part.after[name]
            pair = kinds.base[name], kinds.trained[name]
            # A parameter that both models store with the same bits has no error in its difference.
            errors = () if after is before or kinds.exact else zip((before, after), pair, strict=True)
            rounding = sum(np.nan if " and " in kind else rounding_norm(weights, kind) ** 2 for weights, kind in errors)
            layer = part.part if isinstance(part.part, int) else None
            group = _group(layer, part.part if layer is None else component if by == "component" else "")
            changed = 0 if after is before else int(np.count_nonzero(before != after))
            stored.append(Stored(name if by == "parameter" else group, *pair, rounding, before.size, changed))
        yield part


def add_precision(table: pd.DataFrame, by: str, stored: Iterable[Stored]) -> pd.DataFrame:
    """Add the columns base_dtype, trained_dtype and rounding_norm to a table. Returns the records of all parameters."""
    kept = pd.DataFrame(stored, columns=Stored._fields)
    rounding = kept.groupby("row")["rounding"].agg(lambda squares: squares.sum(skipna=False))
    kinds = kept.groupby("row")[["base_dtype", "trained_dtype"]].agg(_spell)
    if by == "parameter":
        keys = list(table["parameter"])
    else:
        keys = [_group(None if pd.isna(n) else n, c) for n, c in zip(table["layer"], table["component"], strict=True)]
    rows = kinds.loc[keys]
    table["base_dtype"], table["trained_dtype"] = rows["base_dtype"].to_numpy(), rows["trained_dtype"].to_numpy()
    table["rounding_norm"] = np.sqrt(rounding.loc[keys].to_numpy(float))
    return kept


def _group(layer: int | None, component: int | str) -> str:
    """Name a row of the table by layer or by component."""
    return f"{'' if layer is None else layer}/{component}"


def _spell(kinds: pd.Series) -> str:
    return " and ".join(sorted({one for kind in kinds for one in kind.split(" and ")}))

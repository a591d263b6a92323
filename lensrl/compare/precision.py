"""What rounding does to the deltas of a table: stored types, and the norm that rounding alone would give.

A checkpoint in bfloat16 has been rounded, and so has its difference from the base. `rounding_norm` is the null beside
the norm of a change: the norm of the errors of rounding to the stored types, of both models together, in the parameters
that moved. A run that was trained here, or merged here from an adapter, has none: its difference begins at the base.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lensrl.measures.joined import ENTRIES, Pair, in_blocks
from lensrl.measures.rounding import rounding_norm


class Stored(NamedTuple):
    """How one parameter is stored in two models, and what rounding does to it."""

    base_dtype: str = ""
    trained_dtype: str = ""
    rounding: float = 0.0  # the squared norm of the errors of rounding; NaN where it is not known
    entries: int = 0
    changed: int = 0


class Kinds(NamedTuple):
    """The stored types of each parameter in a base and in a model that was trained from it."""

    base: Mapping[str, str]
    trained: Mapping[str, str]
    exact: bool = False  # the difference was taken before any rounding


def stored_as(name: str, pair: Pair, kinds: Kinds) -> Stored:
    """Return the record of one parameter, given before and after training."""
    before, after = pair
    types = kinds.base[name], kinds.trained[name]
    # A parameter that both models store with the same bits has no error in its difference.
    errors = () if after is before or kinds.exact else zip(pair, types, strict=True)
    rounding = sum(np.nan if " and " in kind else rounding_norm(weights, kind) ** 2 for weights, kind in errors)
    changed = 0 if after is before else sum(int(np.count_nonzero(w != w2)) for w, w2 in in_blocks([pair], ENTRIES))
    return Stored(*types, rounding, before.size, changed)


def precision(stored: Sequence[Stored]) -> tuple[str, str, float]:
    """Return the columns base_dtype, trained_dtype and rounding_norm of a row of the table, from its parameters."""
    types = (_spell(one.base_dtype for one in stored), _spell(one.trained_dtype for one in stored))
    return (*types, math.sqrt(np.sum([one.rounding for one in stored])))


def _spell(kinds: Iterable[str]) -> str:
    return " and ".join(sorted({one for kind in kinds for one in kind.split(" and ")}))

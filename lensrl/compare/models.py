"""Measure how the weights of two models differ, from their files alone: no study, no scores, no forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from lensrl.compare.patching import OnProgress
from lensrl.compare.weights import By, PartWeights, weight_table
from lensrl.errors import LensrlError
from lensrl.measures.weights import rounding_norm
from lensrl.store.file.exact import same_bits

if TYPE_CHECKING:
    from lensrl.models.checkpoint import CheckpointWeights, Pair  # torch, only where weights are needed


def compare_models(
    base: Path | str, trained: Path | str, *, by: By = "parameter", on_progress: OnProgress | None = None
) -> pd.DataFrame:
    """Measure how training changed the weights, from two model folders or hub names. Nothing is kept.

    The columns are those of `lensrl.compare_weights`, which also explains `by`. Three columns follow:

    - `base_dtype`, `trained_dtype`: the types in which the weights of the row are stored;
    - `rounding_norm`: the norm of the errors of rounding to these types, of both models together, in the parameters
      that moved (`lensrl.measures.weights.rounding_norm`). A `frobenius` near or below it may be mostly rounding.
      Where training started from the stored base itself, only the second model has errors, and this norm is too
      large: by a factor of sqrt(2) where both have one type.

    `table.attrs` has the same of the whole models: `base_dtype`, `trained_dtype`, `frobenius`, `rounding_norm`, and
    `changed_share`, the share of entries that changed; and `by_svd`, as in `compare_weights`.

    The tensors are read from safetensors, for one layer at a time, or one part outside the layers. As many of these as
    there are cores are in memory at once, in fp32. The largest, often the embeddings, needs three copies of itself: one
    of each model, and one to rank its entries. No tokenizer is needed.

    Raises LensrlError where one of the two is no complete model, where they are different architectures, and for
    weights that are not finite.
    """
    from lensrl.models.checkpoint import open_pair

    pair, stored = open_pair(str(base), str(trained)), []
    total = len({pair.blocks.part(name) for name in pair.names})
    table = weight_table(_read_parts(pair, by, stored), by, total, on_progress)
    kept = pd.DataFrame(stored, columns=Stored._fields)
    rows = kept.groupby("row").agg({"base_dtype": _spell, "trained_dtype": _spell, "rounding": "sum"})
    if by == "parameter":
        keys = table["parameter"]
    else:
        keys = [_group(None if pd.isna(n) else n, c) for n, c in zip(table["layer"], table["component"], strict=True)]
    rows = rows.loc[keys]
    table["base_dtype"], table["trained_dtype"] = rows["base_dtype"].to_numpy(), rows["trained_dtype"].to_numpy()
    table["rounding_norm"] = np.sqrt(rows["rounding"].to_numpy(float))
    table.attrs |= {
        "base_dtype": pair.base.dtype,
        "trained_dtype": pair.trained.dtype,
        "frobenius": float(np.linalg.norm(table["frobenius"])),
        "rounding_norm": math.sqrt(kept["rounding"].sum()),
        "changed_share": float(kept["changed"].sum() / kept["entries"].sum()),
    }
    return table


class Stored(NamedTuple):
    """How one parameter is stored in the two models, and what rounding does to it."""

    row: str  # the row of the table to which the parameter belongs
    base_dtype: str
    trained_dtype: str
    rounding: float  # the squared norm of the errors of rounding
    entries: int
    changed: int


def _read_parts(pair: Pair, by: By, stored: list[Stored]) -> Iterator[PartWeights]:
    """Read both models part by part, the layers first, and append a record of each parameter to `stored`."""
    names: dict[int | str, list[str]] = {}
    for name in pair.names:
        names.setdefault(pair.blocks.part(name), []).append(name)
    for part in sorted(
        names, key=lambda part: (isinstance(part, int), part)
    ):  # the embeddings, often the largest, first
        components = {name: pair.blocks.component(name) or "" for name in names[part]}
        before, after = {}, {}
        for name, component in components.items():
            one, other = _read(pair.base, name), _read(pair.trained, name)
            before[name], after[name] = one, one if same_bits(one, other) else other
            dtypes = pair.base.dtypes[name], pair.trained.dtypes[name]
            # A parameter that both models store with the same bits has no error in its difference.
            errors = () if after[name] is one else zip((one, other), dtypes, strict=True)
            rounding = sum(rounding_norm(weights, kind) ** 2 for weights, kind in errors)
            group = (
                _group(part, component if by == "component" else "") if isinstance(part, int) else _group(None, part)
            )
            changed = 0 if after[name] is one else int(np.count_nonzero(one != other))
            stored.append(Stored(name if by == "parameter" else group, *dtypes, rounding, one.size, changed))
        yield PartWeights(part, components, before, after)


def _read(weights: CheckpointWeights, name: str) -> np.ndarray:
    """Read one tensor. Raises LensrlError where it is not finite."""
    values = weights[name]
    if not np.isfinite(values).all():
        raise LensrlError(
            f"checkpoint {weights.place.spelled}: {name} holds a NaN or an infinity: its training diverged or its file "
            f"is damaged; give an earlier checkpoint, or copy it again"
        )
    return values


def _group(layer: int | None, component: str) -> str:
    """Name a row of the table by layer or by component."""
    return f"{'' if layer is None else layer}/{component}"


def _spell(kinds: pd.Series) -> str:
    return " and ".join(sorted(set(kinds)))

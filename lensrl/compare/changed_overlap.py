"""Which entries training moves most: are they the same in two seeds, in two runs, in two layers?

    overlap = | T_a & T_b | / k,    T_a the k entries of a matrix with the largest |D_a|, D_a the delta of a

By chance, the overlap is k / n for a matrix of n entries (`lensrl.measures.support.top_overlap`). The top 1 % and 10 %
are taken in each matrix alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32

from lensrl.compare.patching import OnProgress
from lensrl.measures.support import top_overlap
from lensrl.recipe.runs import FULL, layer_run
from lensrl.store.run import Run
from lensrl.store.study import Study

SHARES = (0.01, 0.1)
COLUMNS = ["kind", "layer", "matrix", "one", "other", "share", "entries", "overlap", "chance", "moved"]

Matrices = dict[str, Float32[np.ndarray, "row column"]]  # name inside the layer -> delta


class _Pair(NamedTuple):
    kind: str
    layer: int
    one: str
    other: str
    deltas: tuple[Matrices, Matrices]


def changed_overlap(
    study: Study,
    run: str = FULL,
    *,
    shares: Sequence[float] = SHARES,
    seed: int | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Compare the entries that a run moves most with those of others: one row per pair, matrix and share.

    `kind` is one of

    - `seeds`: the same layer in the same run with another training seed;
    - `alone`: the same layer where it is trained alone, with the same seed;
    - `layers`: the same matrix in the next layer of the same run. Its entries have no common meaning, so this shows the
      overlap that shapes and heads give without one.

    Columns: kind; layer; matrix, its name inside the layer; one and other, in words; share, of the entries; entries, k;
    overlap; chance, k / n; moved, the lower share of entries that changed at all. Where `moved` is below `share`, as in
    checkpoints stored in bfloat16, the entries that did not move share the places that are left.

    `seed=None`: every seed. Two layers with the same matrices are needed for `layers`. Raises LensrlError for a run
    that does not exist, or whose weights are not kept.
    """
    study.runs.find_scored(run, seed)
    runs = study.runs.of(run, seed, scored=True)
    every = study.runs.of(run, scored=True)
    rows = []
    following = {seed: _matrices(found, 0) for seed, found in every.items()}
    for layer in range(study.n_layers):
        here = following  # the deltas of two layers at a time, each read once
        following = {s: _matrices(found, layer + 1) for s, found in every.items()} if layer + 1 < study.n_layers else {}
        for pair in _pairs(study, layer, runs, here, following):
            for matrix in sorted(pair.deltas[0].keys() & pair.deltas[1].keys()):
                one, other = (deltas[matrix] for deltas in pair.deltas)
                if one.shape != other.shape:
                    continue
                moved = min(np.count_nonzero(one), np.count_nonzero(other)) / one.size
                for share in shares:
                    count = round(share * one.size)
                    overlap = top_overlap(one.ravel(), other.ravel(), share)
                    place = (pair.kind, pair.layer, matrix, pair.one, pair.other)
                    rows.append((*place, share, count, overlap, count / one.size, moved))
        if on_progress is not None:
            on_progress("layers", layer + 1, study.n_layers)
    return pd.DataFrame(rows, columns=COLUMNS)


def _pairs(
    study: Study, layer: int, runs: dict[int, Run], here: dict[int, Matrices], following: dict[int, Matrices]
) -> Iterator[_Pair]:
    """Yield what is compared in a layer: seeds, the layer alone, and the next layer. Deltas are by seed."""
    for one, other in combinations(here, 2):
        if one in runs or other in runs:
            yield _Pair("seeds", layer, f"seed {one}", f"seed {other}", (here[one], here[other]))
    for seed, found in runs.items():
        name = layer_run(layer)
        alone = study.runs.of(name, seed, scored=True).get(seed)
        if alone is not None and found.name != name:
            yield _Pair("alone", layer, f"{found.name} seed {seed}", name, (here[seed], _matrices(alone, layer)))
        if following:
            names = f"layer {layer} seed {seed}", f"layer {layer + 1}"
            yield _Pair("layers", layer, *names, (here[seed], following[seed]))


def _matrices(run: Run, layer: int) -> Matrices:
    return {inner: delta.delta for inner, (_, delta) in run.deltas.exact(layer).items() if delta.delta.ndim > 1}


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """Join the rows of a layer: one row per kind, layer and share, its matrices weighted by their entries k.

    Columns: kind, layer, share, overlap, chance, moved (the lowest), pairs.
    """
    rows = []
    for (kind, layer, share), part in table[table["entries"] > 0].groupby(["kind", "layer", "share"], sort=True):
        overlap, chance = (float(np.average(part[name], weights=part["entries"])) for name in ("overlap", "chance"))
        pairs = len(part[["one", "other"]].drop_duplicates())
        rows.append((kind, layer, share, overlap, chance, part["moved"].min(), pairs))
    return pd.DataFrame(rows, columns=["kind", "layer", "share", "overlap", "chance", "moved", "pairs"])

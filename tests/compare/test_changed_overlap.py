"""Which entries training moves most, in two seeds, runs and layers: against sets of sorted entries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lensrl import Study, changed_overlap
from lensrl.compare.changed_overlap import by_layer
from lensrl.store.run import Run


def largest(run: Run, layer: int, matrix: str, count: int) -> set[int]:
    return set(np.argsort(-np.abs(run.deltas[layer][matrix][:].ravel()))[:count].tolist())


def row(table: pd.DataFrame, kind: str, layer: int, matrix: str, share: float) -> pd.Series:
    found = table[(table["kind"] == kind) & (table["layer"] == layer) & (table["matrix"] == matrix)]
    ((_, only),) = found[found["share"] == share].iterrows()
    return only


def test_each_kind_compares_the_largest_entries_of_its_two_deltas(uneven_seeds: Study) -> None:
    table = changed_overlap(uneven_seeds)
    assert {*table["kind"]} == {"seeds", "alone", "layers"}
    full, second, alone = (uneven_seeds.runs[key] for key in (("full-rl", 0), ("full-rl", 1), ("layer-0", 0)))
    matrix = "mlp.up_proj.weight"
    n = full.deltas[7][matrix].size
    for kind, layer, pair in (
        ("seeds", 7, ((full, 7), (second, 7))),
        ("alone", 0, ((full, 0), (alone, 0))),
        ("layers", 4, ((full, 4), (full, 5))),
    ):
        for share in (0.01, 0.1):
            found, count = row(table, kind, layer, matrix, share), round(share * n)
            one, other = (largest(run, place, matrix, count) for run, place in pair)
            assert found["entries"] == count
            assert found["chance"] == pytest.approx(share, abs=1 / n)
            assert found["overlap"] == pytest.approx(len(one & other) / count, abs=2 / count)  # ties apart
    # The second seed trained layer 7 alone, and no vector is compared.
    assert table.loc[table["kind"] == "seeds", "layer"].unique().tolist() == [7]
    assert not table["matrix"].str.contains("norm").any()


def test_one_seed_is_compared_with_the_others_and_layers_are_joined_by_their_entries(uneven_seeds: Study) -> None:
    table = changed_overlap(uneven_seeds, seed=1, shares=(0.1,))
    assert {*table["kind"]} == {"seeds"}
    joined = by_layer(table)
    assert joined["pairs"].tolist() == [1]
    shared = (table["overlap"] * table["entries"]).sum() / table["entries"].sum()
    assert joined["overlap"].tolist() == pytest.approx([shared])

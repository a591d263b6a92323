"""The table of a run file's datasets, and its parts folded to a row each."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from lensrl.store.contents import fold, list_contents
from lensrl.store.look import size
from lensrl.store.run import Run
from tests.store.synthetic import header, parameter, write_full_run, write_run


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (7_600_000, "7.6 MB"), (2_500_000_000, "2.5 GB")],
)
def test_sizes_are_in_decimal_units(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == size(np.int64(n_bytes)) == text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_full_run(tmp_path / "run.h5")
    return tmp_path / "run.h5"


def test_the_contents_are_those_that_h5py_finds(path: Path) -> None:
    with Run(path) as run:
        table = list_contents(run.file)
    expected: dict[str, tuple[object, ...]] = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset):
            axes = ", ".join(str(dim[0].name).rpartition("/")[2] for dim in node.dims) if not node.is_scale else ""
            expected[name] = (axes, node.shape, str(node.dtype), node.id.get_storage_size())

    with h5py.File(path) as file:
        file.visititems(visit)
    found = {row.dataset: tuple(row[1:]) for row in table}
    assert found == expected
    assert len(table) == len(expected)


def test_contents_begin_at_the_root_and_layer_10_follows_layer_9(tmp_path: Path) -> None:
    weights = np.ones((2, 2), np.float32)
    parameters = [parameter(part, part, "w", "mlp", weights) for part in ("10", "9", "embed")]
    before, after = ({p.name: weights * factor for p in parameters} for factor in (1, 2))
    write_run(tmp_path / "run.h5", header("full-rl", n_layers=11), parameters, before, after=after)
    with Run(tmp_path / "run.h5") as run:
        names = [row.dataset for row in list_contents(run.file)]
    depth = ["/" in name for name in names]
    assert depth == sorted(depth)
    assert [name for name in names if name.endswith("/w")] == ["deltas/9/w", "deltas/10/w", "deltas/embed/w"]


def test_folding_leaves_axes_out_and_adds_up_the_weights_of_a_part(path: Path) -> None:
    with Run(path) as run:
        rows = list_contents(run.file)
        contents, table = pd.DataFrame(rows), pd.DataFrame(fold(rows)).set_index("dataset")
    weights = contents[contents["axes"] != ""].set_index("dataset")
    for part, names in {
        "deltas/0": ["attn.q.weight", "mlp.conv.weight"],
        "deltas/embed": ["model.embed.weight"],
    }.items():
        assert table.loc[part, "bytes"] == weights.loc[[f"{part}/{name}" for name in names], "bytes"].sum()
        assert table.loc[part, "axes"] == f"{len(names)} array{'s' if len(names) > 1 else ''}"
    assert table.loc["scores/score", "axes"] == "item, sample"
    assert table.loc["scores/score", "shape"] == (3, 2)
    assert table.loc["deltas/1", "axes"] == "2 arrays"  # one of them is a single number
    assert table.loc["deltas/1", "bytes"] == contents.loc[contents["dataset"].str.match("deltas/1/"), "bytes"].sum()
    assert table.loc["deltas/0", "dtype"] == "float32"
    assert table.loc["repairs/0", "dtype"] == ""
    assert not {"item", "layer", "outside", "step"} & set(table.index)
    assert not [name for name in table.index if name.count("/") > 1]
    assert table["bytes"].sum() >= weights["bytes"].sum()

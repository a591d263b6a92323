"""A run file without lensrl: what other programs make of one that a study really wrote."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from lensrl.errors import Damaged, StoreError
from lensrl.store.run import Run
from tests.reseal import resealed

AXES = {"layer", "parameter", "token", "step", "item", "sample", "feature", "outside"}
OF_SCALES = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"}  # how HDF5 itself writes down axes


@pytest.fixture(scope="module")
def path(small_study_folder: Path) -> Path:
    return small_study_folder / "full-rl.seed-0.h5"


@pytest.fixture
def tree(path: Path) -> Iterator[xr.DataTree]:
    """The file as xarray opens it without being told anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            yield tree


def variable(tree: xr.DataTree, name: str) -> xr.DataArray:
    found = tree[name]
    assert isinstance(found, xr.DataArray)
    return found


def own(tree: xr.DataTree, path: str) -> xr.Dataset:
    node = tree[path]
    assert isinstance(node, xr.DataTree)
    return node.to_dataset(inherit=False)


def nodes(file: h5py.File) -> dict[str, h5py.Group | h5py.Dataset]:
    found: dict[str, h5py.Group | h5py.Dataset] = {"/": file}
    file.visititems(lambda name, node: found.update({name: node}))
    return found


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    return {name: node for name, node in nodes(file).items() if isinstance(node, h5py.Dataset)}


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed")
def test_h5dump_reads_all_of_it(path: Path) -> None:
    header = subprocess.run(["h5dump", "-H", str(path)], capture_output=True, text=True)
    assert (header.returncode, header.stderr) == (0, "")
    for group in ("scores", "training", "parameters", "deltas", "probe", "activations"):
        assert f'GROUP "{group}" {{' in header.stdout
    assert 'ATTRIBUTE "fingerprint"' in header.stdout
    values = subprocess.run(["h5dump", "-d", "/scores/score", "-y", str(path)], capture_output=True, text=True)
    assert values.returncode == 0
    data = values.stdout[values.stdout.index("DATA {") + 6 :].partition("}")[0]
    with Run(path) as run:
        assert [float(text) for text in data.split(",")] == pytest.approx(run.scores()["score"].tolist(), rel=1e-5)


def test_xarray_sees_every_dataset_with_named_dimensions(path: Path, tree: xr.DataTree) -> None:
    with h5py.File(path) as file:
        expected = {f"/{name}" for name, dataset in datasets(file).items() if not dataset.is_scale}
    found = {
        f"{node.path.rstrip('/')}/{name}": variable.dims
        for node in tree.subtree
        for name, variable in node.to_dataset(inherit=False).data_vars.items()
    }
    assert set(found) == expected
    dims = {str(dim) for dims in found.values() for dim in dims}
    assert dims >= AXES
    assert not [dim for dim in dims if "phony" in dim]
    for node in tree.subtree:
        assert set(node.sizes) <= {str(name) for name in node.coords}, node.path
    assert {str(name) for name in tree.coords} >= AXES
    assert variable(tree, "layer").values.tolist() == list(range(8))
    assert variable(tree, "step").values.tolist() == [1, 2, 3, 4]


def test_xarray_sees_the_numbers_that_a_run_gives(path: Path, tree: xr.DataTree) -> None:
    with Run(path) as run:
        score = variable(tree, "scores/score")
        assert score.values.reshape(-1).tolist() == run.scores()["score"].tolist()
        assert score["item"].values.tolist() == run.scores_by_item()["item"].tolist()
        first = run.scores_by_item().iloc[0]
        np.testing.assert_array_equal(
            variable(tree, "scores/reference_logprob").sel(item=first["item"]), first["reference_logprob"]
        )
        norm = variable(tree, "parameters/norm")
        assert dict(zip(norm["parameter"].values.tolist(), norm.values.tolist(), strict=True)) == (
            run.delta_norms().set_index("parameter")["norm"].to_dict()
        )
        grad_norm = variable(tree, "training/layer_grad_norm").sel(layer=3)
        assert grad_norm.values.tolist() == run.training()["grad_norm_3"].tolist()
        for site, lazy in run.activations.items():
            np.testing.assert_array_equal(variable(tree, f"activations/{site}").sel(layer=5).values, lazy[5])
        for part, deltas in run.deltas.items():
            for name, lazy in deltas.items():
                np.testing.assert_array_equal(variable(tree, f"deltas/{part}/{name}").values, lazy[...])
        assert tree.attrs["run"] == run.name
        assert tree.attrs["score"] == run.score


@pytest.mark.slow
def test_a_tree_of_an_open_run_reads_the_same_with_its_labels_as_text(path: Path, tree: xr.DataTree) -> None:
    with Run(path) as run:
        with run.to_xarray() as mine:
            assert set(mine.groups) == set(tree.groups)
            for node in tree.subtree:
                theirs, ours = own(tree, node.path), own(mine, node.path)
                assert {k: np.array(v).tolist() for k, v in ours.attrs.items()} == {
                    k: np.array(v).tolist() for k, v in theirs.attrs.items()
                }
                assert set(ours.variables) == set(theirs.variables), node.path
                for name, found in theirs.variables.items():
                    assert found.dtype.kind != "S", "a label to select by is text"
                    assert ours.variables[name].dims == found.dims
                    np.testing.assert_array_equal(ours.variables[name].values, found.values)
            row = run.scores().iloc[5]
            score = variable(mine, "scores/score").sel(item=row["item"])
            assert score.values[row["sample"]] == row["score"]
            assert own(mine, "parameters").to_dataframe().shape[0] == len(run.delta_norms())
        assert run.deltas[3].frobenius > 0  # closing the tree left the run open
        with h5py.File(path) as file, xr.open_datatree(path, engine="h5netcdf") as beside:  # as in a notebook
            assert file.attrs["run"] == beside.attrs["run"] == run.name


@pytest.mark.parametrize("locking", [None, False, True, "best-effort"])
@pytest.mark.slow
def test_a_file_that_h5py_has_open_already_opens_as_a_run_and_a_tree(path: Path, locking: bool | str | None) -> None:
    with h5py.File(path, locking=locking) as file, Run(path) as run, run.to_xarray() as tree:
        assert file.attrs["run"] == tree.attrs["run"] == run.name


def test_a_file_that_was_moved_away_is_not_called_damaged(path: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copy(path, tmp_path))
    with Run(moved) as run:
        moved.rename(tmp_path / "elsewhere.h5")
        with pytest.raises(StoreError, match="cannot be opened by xarray") as caught:
            run.to_xarray()
        assert not isinstance(caught.value, Damaged)
        assert run.bytes == path.stat().st_size


@pytest.mark.parametrize(("name", "value"), [("NAME", 5.0), ("NAME", h5py.Empty("f4"))])
def test_an_axis_that_h5netcdf_stumbles_over_is_damage(path: Path, tmp_path: Path, name: str, value: object) -> None:
    forged = Path(shutil.copy(path, tmp_path))
    with resealed(forged) as file:
        file["item"].attrs[name] = value
    with Run(forged) as run, pytest.raises(Damaged, match="is damaged in its axes"):
        run.to_xarray()


def test_an_attribute_by_which_xarray_would_compute_other_values_is_damage(path: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copy(path, tmp_path))
    with resealed(forged) as file:
        file["scores/score"].attrs["scale_factor"] = 2.0
    with Run(forged) as run, pytest.raises(Damaged, match="scores/score has an attribute scale_factor"):
        run.to_xarray()


def test_text_that_is_none_is_damage_in_xarray_too(path: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copy(path, tmp_path))
    with resealed(forged) as file:
        file["probe/text"][0] = b"\xff"  # pyright: ignore[reportIndexIssue]
    with Run(forged) as run, pytest.raises(Damaged, match="is damaged in its texts"):
        run.to_xarray()


def test_there_are_only_numbers_and_utf8_text(path: Path) -> None:
    """Nothing that needs Python, or a newer HDF5, to be understood."""
    with h5py.File(path) as file:
        for name, node in nodes(file).items():
            if isinstance(node, h5py.Dataset):
                text = h5py.check_string_dtype(node.dtype)
                assert node.dtype.str[1:] in ("f4", "f8", "i4", "i8", "u1") or (text and text.encoding == "utf-8"), name
            for attribute in set(node.attrs) - OF_SCALES:
                kind = node.attrs.get_id(attribute)
                text = h5py.check_string_dtype(kind.dtype)
                fine = kind.dtype.str[1:] in ("f8", "i4", "i8") or (text is not None and text.encoding == "utf-8")
                assert fine, (name, attribute)
        for name in ("item", "parameter", "probe/text"):
            text = h5py.check_string_dtype(datasets(file)[name].dtype)
            assert text is not None
            assert text.length is not None


def test_whatever_is_not_a_delta_in_one_piece_has_a_checksum_of_hdf5(path: Path) -> None:
    with h5py.File(path) as file:
        found = datasets(file)
        for name, dataset in found.items():
            if "deltas/" in name and not dataset.is_scale:
                assert dataset.chunks is None
                assert dataset.id.get_offset() is not None
            else:
                assert dataset.chunks is not None, name
                assert dataset.fletcher32, name
        assert sum(dataset.chunks is None for dataset in found.values()) > 8

"""A run file: what is written comes back, and what is damaged is said to be."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lensrl.errors import LensrlError, StoreError
from lensrl.store import run_file
from lensrl.store.file.checked import read_array
from lensrl.store.file.exact import add
from lensrl.store.file.seal import read_seal
from lensrl.store.run import Run, open_run
from tests.store.synthetic import (
    PARAMETERS,
    activations,
    after_weights,
    before_weights,
    header,
    parameter,
    probe,
    score_arrays,
    training,
    write_full_run,
    write_run,
)

CHANGED = [p.name for p in PARAMETERS[:5]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_full_run(tmp_path / "full-rl.seed-3.h5")
    return tmp_path / "full-rl.seed-3.h5"


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, node: found.update({name: node}) if isinstance(node, h5py.Dataset) else None)
    return found


def test_the_header_comes_back(path: Path) -> None:
    with open_run(path) as run:
        assert (run.study, run.name, run.seed, run.layers) == ("synthetic", "full-rl", 3, [0, 1])
        assert (run.status, run.reason, run.base, run.fingerprint) == ("completed", "", "tiny:none", "0123")
        assert (run.n_layers, run.recipe, run.provenance) == (2, {"model": "tiny:none"}, {"device": "none"})


def test_every_writing_has_an_id_of_its_own(path: Path, tmp_path: Path) -> None:
    write_full_run(tmp_path / "again.h5")
    with Run(path) as one, Run(tmp_path / "again.h5") as other:
        assert one.run_id != other.run_id


def test_scores_come_back_one_row_per_item_and_sample(path: Path) -> None:
    expected = pd.DataFrame(
        [
            ("easy", "item-0", 0, 0.0, 1, False),
            ("easy", "item-0", 1, 1.0, 2, True),
            ("easy", "item-1", 0, 1.0, 3, False),
            ("easy", "item-1", 1, 1.0, 4, True),
            ("hard", "item-2", 0, 0.25, 5, False),
            ("hard", "item-2", 1, 0.5, 6, True),
        ],
        columns=["benchmark", "item", "sample", "score", "length", "truncated"],
    )
    with Run(path) as run:
        pd.testing.assert_frame_equal(run.scores(), expected, check_dtype=False)


def test_scores_are_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(run_file, "read_array", lambda group, name: read.append(name) or read_array(group, name))
    with open_run(path) as run:
        table, samples = run.scores_by_item(also=True), run.samples()
        assert read.count("score") == 1
        assert table["score"].tolist() == [0.5, 1.0, 0.375]
        assert table.to_dict("list") == {name: [*values] for name, values in run.scored_items._asdict().items()}
        assert samples.benchmark.tolist() == run.scored_items.benchmark == ["easy", "easy", "hard"]
        table["score"] = 0.0  # a table is its reader's own
        assert run.scores_by_item()["score"].tolist() == [0.5, 1.0, 0.375]


def test_the_score_is_the_mean_over_benchmarks_of_the_mean_over_items(path: Path) -> None:
    with Run(path) as run:
        assert run.scores_by_item()["score"].tolist() == [0.5, 1.0, 0.375]
        assert run.scores_by_item()["reference_logprob"].tolist() == [0.0, -1.0, -2.0]
        assert run.score == (0.75 + 0.375) / 2


def test_the_training_curve_comes_back_padded_where_a_step_has_no_loss(path: Path) -> None:
    with Run(path) as run:
        table = run.training().set_index("step")
    assert table.index.tolist() == [1, 2, 3]
    assert table["reward_mean"].tolist() == [0.1, 0.2, 0.4]
    np.testing.assert_array_equal(table["loss"], [1.0, 0.5, np.nan])
    assert table["grad_norm_1"].tolist() == training()["layer_grad_norm"][:, 1].tolist()
    assert table["grad_norm_lm_head"].tolist() == training()["outside_grad_norm"][:, 2].tolist()


def test_delta_norms_are_frobenius_norms_of_the_difference(path: Path) -> None:
    with Run(path) as run:
        table, by_layer = run.delta_norms().set_index("parameter"), run.layer_delta_norms().set_index("layer")
    before, after, rows = before_weights(), after_weights(CHANGED), table.to_dict("index")
    assert table["part"].tolist() == ["embed", "0", "0", "1", "1", "final_norm"]
    assert table["component"].tolist() == ["", "attn", "mlp", "norm", "attn", ""]
    assert table["layer"].isna().tolist() == [True, False, False, False, False, True]
    for name in before:
        old, new = before[name].astype(np.float64), after[name].astype(np.float64)
        row = rows[name]
        assert row["norm"] == pytest.approx(np.linalg.norm(new - old), rel=1e-6)
        assert row["base_norm"] == pytest.approx(np.linalg.norm(old))
        assert row["relative_norm"] == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-6)
        assert row["changed_share"] == np.mean(old != new)
        assert row["size"] == old.size
    for layer in (0, 1):
        names = [p.name for p in PARAMETERS if p.part == str(layer)]
        change = np.concatenate([(after[n].astype(np.float64) - before[n]).reshape(-1) for n in names])
        assert by_layer.loc[layer, "norm"] == pytest.approx(np.linalg.norm(change), rel=1e-6)


def test_deltas_are_read_when_they_are_sliced(path: Path) -> None:
    name = "model.layers.0.attn.q.weight"
    with Run(path) as run:
        lazy = run.deltas[0]["attn.q.weight"]
        assert (lazy.shape, lazy.dtype) == ((4, 4), np.float32)
        np.testing.assert_array_equal(lazy[1:3, ::2], (after_weights(CHANGED)[name] - before_weights()[name])[1:3, ::2])


def test_base_and_exact_delta_give_every_trained_weight_bit_for_bit(path: Path) -> None:
    before, after = before_weights(), after_weights(CHANGED)
    with Run(path) as run:
        changes = {name: change for part in run.deltas for name, change in run.deltas.exact(part).values()}
    assert sorted(changes) == sorted(CHANGED)
    for name, change in changes.items():
        assert change.where.size, "this test is of repaired deltas"
        assert add(before[name], change).tobytes() == after[name].tobytes()


def test_parts_come_in_order_and_what_did_not_change_is_absent(path: Path) -> None:
    with Run(path) as run:
        assert list(run.deltas) == [0, 1, "embed"]
        assert run.deltas["final_norm"] == run.deltas["lm_head"] == {}
        with pytest.raises(KeyError, match="no layer 2: there are 0 to 1"):
            run.deltas[2]
        with pytest.raises(KeyError, match="did you mean 'embed'"):
            run.deltas["embedd"]


def test_unchanged_parameters_cost_nothing(tmp_path: Path) -> None:
    big = parameter("big", "1", "big", "mlp", np.ones((512, 512), np.float32))
    before = before_weights() | {"big": np.ones((512, 512), np.float32)}
    after = after_weights(CHANGED) | {"big": np.ones((512, 512), np.float32)}
    sizes = []
    for parameters in (PARAMETERS, [*PARAMETERS, big]):
        write_run(tmp_path / "run.h5", header("layer-0"), parameters, before, after=after)
        sizes.append((tmp_path / "run.h5").stat().st_size)
    assert sizes[1] - sizes[0] < 4096 < before["big"].nbytes
    with Run(tmp_path / "run.h5") as run:
        assert "big" not in run.deltas[1]
        row = run.delta_norms().set_index("parameter").to_dict("index")["big"]
        assert (row["norm"], row["changed_share"]) == (0.0, 0.0)


def test_a_sign_flip_of_zero_counts_as_a_change(tmp_path: Path) -> None:
    before, after = np.zeros(4, np.float32), np.array([0.0, -0.0, 0.0, 0.0], np.float32)
    write_run(
        tmp_path / "run.h5",
        header("layer-0"),
        [parameter("w", "0", "w", "mlp", before)],
        {"w": before},
        after={"w": after},
    )
    with Run(tmp_path / "run.h5") as run:
        assert run.delta_norms()["changed_share"].tolist() == [0.25]
        assert add(before, run.deltas.exact(0)["w"][1]).tobytes() == after.tobytes()


def test_activations_and_probe_come_back(path: Path) -> None:
    with Run(path) as run:
        for site, values in activations().items():
            np.testing.assert_array_equal(run.activations[site][1, 1:], values[1, 1:])
        table = run.probe()
    assert table["text"].tolist() == ["a", "é", "語"]
    assert table["token_id"].tolist() == probe().token_id.tolist()
    assert table["prompt"].tolist() == [0, 0, 1]
    assert table["position"].tolist() == [0, 1, 0]


def test_a_diverged_run_has_a_curve_and_says_why_it_has_no_scores(tmp_path: Path) -> None:
    about = header("layer-0", status="diverged", reason="the loss is not finite at step 3")
    write_run(tmp_path / "run.h5", about, PARAMETERS, before_weights(), training=training())
    with Run(tmp_path / "run.h5") as run:
        assert not run.has_scores
        assert np.isnan(run.score)
        assert len(run.training()) == 3
        assert list(run.deltas) == []
        for read in (lambda: run.scores(), lambda: run.scores_by_item(), lambda: run.activations, lambda: run.probe()):
            with pytest.raises(LensrlError, match=r"run 'layer-0' has no .*: the loss is not finite at step 3"):
                read()


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    after = after_weights(CHANGED)
    after[CHANGED[1]][0, 0] = np.nan
    with pytest.raises(StoreError, match="NaN"):
        write_run(tmp_path / "run.h5", header("full-rl"), PARAMETERS, before_weights(), after=after)
    assert not list(tmp_path.iterdir())


def test_every_axis_of_every_dataset_has_one_scale_of_its_length(path: Path) -> None:
    with h5py.File(path) as file:
        found = datasets(file)
        assert {"scores/score", "training/reward_mean", "deltas/0/mlp.conv.weight", "activations/block_out"} <= set(
            found
        )
        for name, dataset in found.items():
            if dataset.is_scale:
                continue
            for dimension, length in enumerate(dataset.shape):
                scales = [*dataset.dims[dimension].values()]
                assert [len(scale) for scale in scales] == [length], name


def test_every_chunked_dataset_has_a_checksum_and_every_delta_a_sha256(path: Path) -> None:
    with h5py.File(path) as file:
        unchecked = [name for name, d in datasets(file).items() if d.shape and not d.fletcher32]
        assert {name.partition("/")[0] for name in unchecked} == {"deltas"}
        assert all(datasets(file)[name].chunks is None for name in unchecked)
    sealed = read_seal(path)
    assert sealed is not None
    assert set(unchecked) <= set(sealed.datasets)


def test_xarray_sees_named_dimensions_and_the_same_numbers(path: Path) -> None:
    tree = xr.open_datatree(path, engine="h5netcdf")
    named = {str(dim) for node in tree.subtree for dim in node.dims}
    assert not [dim for dim in named if dim.startswith("phony_dim")]
    assert tree["scores/score"].dims == ("item", "sample")
    assert tree["training/layer_grad_norm"].dims == ("step", "layer")
    assert tree["activations/block_out"].dims == ("layer", "token", "feature")
    assert tree["parameters/norm"].dims == ("parameter",)
    assert tree["deltas/embed/model.embed.weight"].dims == ("row_7", "column_4")
    np.testing.assert_array_equal(tree["activations/block_out"], activations()["block_out"])
    tree.close()


def test_scores_that_are_not_powers_of_two_come_back_as_stored(tmp_path: Path) -> None:
    score = np.array([[0.1, 0.7], [1 / 3, 0.9]])
    write_run(tmp_path / "base.h5", header("base"), PARAMETERS, before_weights(), scores=score_arrays(score))
    with Run(tmp_path / "base.h5") as run:
        assert run.scores()["score"].tolist() == score.astype(np.float32).reshape(-1).tolist()
        assert run.score == pytest.approx(score.mean(), rel=1e-7)

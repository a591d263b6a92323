"""The weights of a run of a study that really ran, against the base: what was frozen is the same."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lensrl import LensrlError, Study, along_training, compare_weights, open_study
from lensrl.compare.precision import Kinds
from lensrl.compare.weights import By, Weight, weight_table
from lensrl.measures.weights import delta_metrics
from lensrl.models.base import load_base
from tests.store.synthetic import add_run, make_study


def test_weights_that_changed_are_measured_and_agree_with_the_run_file(small_study: Study) -> None:
    table = compare_weights(small_study, "layer-3").set_index("parameter")
    stored = small_study["layer-3"].delta_norms().set_index("parameter")
    assert set(table.index) == set(stored.index[stored["changed_share"] > 0])
    assert (table["layer"] == 3).all()
    np.testing.assert_allclose(table["frobenius"], stored.loc[table.index, "norm"], rtol=1e-4)
    np.testing.assert_allclose(table["changed_share"], stored.loc[table.index, "changed_share"], atol=1e-12)
    matrices = table[table["spectral"].notna()]
    assert (matrices["spectral"] <= matrices["frobenius"] * (1 + 1e-9)).all()
    assert matrices["stable_rank"].between(1, 96).all()


def test_a_layer_is_all_its_weights_laid_end_to_end(small_study: Study) -> None:
    layers, parts = (compare_weights(small_study, by=by) for by in ("layer", "component"))
    stored = small_study["full-rl"].layer_delta_norms().set_index("layer")
    inside = layers.dropna(subset=["layer"]).set_index("layer")
    np.testing.assert_allclose(inside["frobenius"], stored.loc[inside.index, "norm"], rtol=1e-4)
    np.testing.assert_allclose(inside["relative"], stored.loc[inside.index, "relative_norm"], rtol=1e-4)
    assert set(parts.dropna(subset=["layer"])["component"]) == {"attn", "mlp", "norm"}
    assert {"embed", "final_norm"} <= set(parts.loc[parts["layer"].isna(), "component"])
    squares = (parts["frobenius"] ** 2).groupby(parts["layer"]).sum()
    np.testing.assert_allclose(squares, inside["frobenius"] ** 2, rtol=1e-9)
    parameters = compare_weights(small_study)
    matrices = parameters[(parameters["layer"] == 4) & (parameters["component"] == "mlp")]
    chosen = parts[(parts["layer"] == 4) & (parts["component"] == "mlp")].iloc[0]
    assert chosen["stable_rank"] == pytest.approx(matrices["stable_rank"].median())


def test_random_deltas_have_the_norm_and_what_random_matrices_have_by_theory(small_study: Study) -> None:
    """The largest singular value of an m x n matrix of normal numbers is about sqrt(m) + sqrt(n)."""
    table = compare_weights(small_study, "layer-3", draws=4)
    assert table.drop(columns=table.filter(like="_random").columns).equals(compare_weights(small_study, "layer-3"))
    np.testing.assert_allclose(table["frobenius_random"], table["frobenius"], rtol=1e-3)
    matrices = table[table["spectral"].notna()]
    shapes = [load_base("tiny:qwen3").weights[name].shape for name in matrices["parameter"]]
    expected = [m * n / (np.sqrt(m) + np.sqrt(n)) ** 2 for m, n in shapes]
    np.testing.assert_allclose(matrices["stable_rank_random"], expected, rtol=0.1)
    assert (matrices["stable_rank"] < 0.7 * matrices["stable_rank_random"]).all(), "trained deltas are of low rank"
    np.testing.assert_allclose(matrices["overlap_largest_random"], 0.1, atol=0.02)
    layer = compare_weights(small_study, "layer-3", by="layer", draws=4).iloc[0]
    assert layer["stable_rank_random"] == pytest.approx(matrices["stable_rank_random"].median(), rel=0.1)
    assert layer["frobenius_random"] == pytest.approx(layer["frobenius"], rel=1e-3)


@pytest.mark.parametrize("by", ["parameter", "component", "layer"])
def test_two_weights_in_memory_give_the_table_of_all_at_once(monkeypatch: pytest.MonkeyPatch, by: By) -> None:
    most, alive = 0, list[weakref.ref[np.ndarray]]()

    def read(number: int) -> tuple[np.ndarray, np.ndarray]:
        nonlocal most
        rng = np.random.default_rng(number)
        before = rng.standard_normal((40, 30 + number), np.float32)
        pair = (
            before,
            before if number == 2 else before + np.float32(0.01) * rng.standard_normal(before.shape, np.float32),
        )
        alive.append(weakref.ref(before))
        most = max(most, sum(one() is not None for one in alive))
        return pair

    parts = {0: "attn", 1: "attn", 2: "mlp", 3: "mlp", 4: "mlp"}
    weights = [Weight(f"w{n}", 7, part, 40 * (30 + n), partial(read, n)) for n, part in parts.items()]
    types = {weight.name: "bfloat16" for weight in weights}
    monkeypatch.setattr("lensrl.compare.side_by_side.THREADS", 4)
    expected, stored = weight_table(weights, by, Kinds(types, types), draws=2)
    assert most >= 5 or by != "layer"
    most = 0
    monkeypatch.setattr("lensrl.compare.side_by_side.THREADS", 1)
    monkeypatch.setattr("lensrl.compare.weights.HELD", 0)
    table, again = weight_table(weights, by, Kinds(types, types), draws=2)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert most <= 2
    assert (again, len(table)) == (stored, {"parameter": 4, "component": 2, "layer": 1}[by])
    whole = delta_metrics(*(np.concatenate([read(n)[i].ravel() for n in parts]) for i in (0, 1)))
    if by == "layer":
        assert table["frobenius"][0] == whole.frobenius
        assert table["overlap_largest"][0] == whole.overlap_largest


def test_a_seed_that_is_not_there_is_named(small_study: Study) -> None:
    with pytest.raises(LensrlError, match="full-rl with seed 9"):
        compare_weights(small_study, seed=9)


def test_a_run_that_diverged_has_no_weights_to_compare(tmp_path: Path) -> None:
    make_study(tmp_path / "study")
    add_run(tmp_path / "study", "base", {"only": [0.0] * 4})
    add_run(tmp_path / "study", "full-rl", None, status="diverged", reason="the loss is not finite")
    with open_study(tmp_path / "study") as study, pytest.raises(LensrlError, match=r"no weights .*not finite"):
        compare_weights(study)


def test_without_a_seed_the_run_has_its_lowest(uneven_seeds: Study) -> None:
    for run, seed in (("full-rl", 0), ("layer-3", 1)):
        assert compare_weights(uneven_seeds, run).equals(compare_weights(uneven_seeds, run, seed=seed))
        found, asked = (along_training(uneven_seeds, run, seed=s) for s in (None, seed))
        assert found.equals(asked)
    assert set(compare_weights(uneven_seeds, seed=1)["layer"]) == {7}
    assert not along_training(uneven_seeds, seed=1).equals(along_training(uneven_seeds))

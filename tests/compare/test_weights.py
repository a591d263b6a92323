"""Two runs of a study that really ran, compared: what is frozen is the same, what was trained is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lensrl import LensrlError, Study, compare_activations, compare_layers, compare_weights, open_study
from lensrl.measures.similarity import linear_cka
from tests.reseal import resealed


def test_a_run_beside_itself_is_all_alike(small_study: Study) -> None:
    table = compare_activations(small_study, "base", "base")
    assert table["layer"].tolist() == list(range(8))
    for column, value in {"cka": 1, "one_minus_cka": 0, "procrustes": 0, "relative_l2": 0, "cosine": 1}.items():
        np.testing.assert_allclose(table[column], value, atol=1e-7)
    np.testing.assert_allclose(table["high"] - table["low"], 0, atol=1e-9)


def test_what_lies_below_the_trained_layer_is_the_same_and_what_lies_above_is_not(small_study: Study) -> None:
    table = compare_activations(small_study, "base", "layer-3").set_index("layer")
    assert (table.loc[:2, "relative_l2"] == 0).all()
    assert (table.loc[3:, "relative_l2"] > 0).all()
    assert (table.loc[3:, "one_minus_cka"] > 0).all()
    below = compare_activations(small_study, "base", "layer-3", site="mlp_out").set_index("layer")
    assert (below.loc[:2, "relative_l2"] == 0).all()


def test_the_diagonal_of_the_map_is_the_profile(small_study: Study) -> None:
    table, profile = compare_layers(small_study), compare_activations(small_study)
    assert table.shape == (8, 8)
    np.testing.assert_allclose(np.diag(table), profile["cka"], atol=1e-10)
    x = small_study["base"].activations["block_out"][2]
    y = small_study["full-rl"].activations["block_out"][6]
    assert table[2, 6] == pytest.approx(linear_cka(x, y))


def test_the_first_token_of_a_sequence_can_be_left_out(small_study: Study) -> None:
    found = compare_activations(small_study, first_token=False)["cka"][4]
    probe, x, y = small_study["base"].probe, *(small_study[n].activations["block_out"][4] for n in ("base", "full-rl"))
    rest = (probe["position"] > 0).to_numpy()
    assert 0 < (~rest).sum() == probe["prompt"].nunique()
    assert found == pytest.approx(linear_cka(x[rest], y[rest]))


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


def test_bad_questions_are_answered_in_a_line(small_study: Study) -> None:
    with pytest.raises(LensrlError, match="did you mean 'mlp_out'"):
        compare_activations(small_study, site="mlp_ou")
    with pytest.raises(LensrlError, match="no run 'full-lr'; did you mean 'full-rl'"):
        compare_activations(small_study, other="full-lr")
    with pytest.raises(LensrlError, match="full-rl with seed 9"):
        compare_weights(small_study, seed=9)


def test_without_a_seed_both_runs_have_the_lowest_that_they_share(small_study_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_study_folder, tmp_path / "copy"))
    for name, source in (("full-rl", "layer-7"), ("layer-3", "layer-3")):
        shutil.copy(folder / f"{source}.seed-0.h5", folder / f"{name}.seed-1.h5")
        with resealed(folder / f"{name}.seed-1.h5") as file:
            file.attrs["run"], file.attrs["seed"], file.attrs["run_id"] = name, 1, f"{name}-1"
    (folder / "layer-3.seed-0.h5").unlink()
    with open_study(folder) as study:
        found, asked = (compare_activations(study, "layer-3", seed=seed) for seed in (None, 1))
        assert found.equals(asked)
        assert not found.equals(compare_activations(study, "layer-0", seed=0))

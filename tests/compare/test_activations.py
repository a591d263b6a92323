"""The activations of two runs of a study that really ran, compared: below a trained layer they are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensrl import LensrlError, Study, compare_activations, compare_layers, compare_weights, open_study
from lensrl.compare.activations import distances_to
from lensrl.measures.similarity import cka_interval, linear_cka
from lensrl.store.names import PATCH_FOLDER
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
    kept = study_tokens(small_study)
    expected = cka_interval(x[kept], y[kept], small_study["base"].probe()["prompt"].to_numpy()[kept]).value
    assert table[2, 6] == pytest.approx(expected)
    as_elsewhere = compare_layers(small_study, first_token=True, pairs="token")
    assert as_elsewhere[2, 6] == pytest.approx(linear_cka(x, y))


def test_the_first_token_of_a_sequence_is_left_out_unless_asked_for(small_study: Study) -> None:
    table, kept = (compare_activations(small_study, first_token=first, pairs="token") for first in (False, True))
    probe, x, y = (
        small_study["base"].probe(),
        *(small_study[n].activations["block_out"][4] for n in ("base", "full-rl")),
    )
    rest = study_tokens(small_study)
    assert 0 < (~rest).sum() == probe["prompt"].nunique()
    assert table["cka"][4] == pytest.approx(linear_cka(x[rest], y[rest]))
    assert kept["cka"][4] == pytest.approx(linear_cka(x, y)) == table["cka_with_first"][4]
    assert (kept["cka"] == kept["cka_with_first"]).all()


def study_tokens(study: Study) -> np.ndarray:
    """All tokens but the first of each sequence."""
    return (study["base"].probe()["position"] > 0).to_numpy()


def test_too_few_sequences_are_refused_by_sequence_and_compared_by_token(
    small_study_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "few"
    shutil.copytree(small_study_folder, folder, ignore=shutil.ignore_patterns(PATCH_FOLDER))
    for name in ("base", "full-rl"):
        with resealed(folder / f"{name}.seed-0.h5" if name != "base" else folder / "base.h5") as file:
            prompts = file["probe/prompt"]
            assert isinstance(prompts, h5py.Dataset)
            prompts[...] = np.minimum(prompts[...], 2)
    with open_study(folder) as study:
        with pytest.raises(LensrlError, match=r"3 sequences to compare, and 4 are needed; compare all .*--pairs token"):
            compare_activations(study)
        assert compare_activations(study, pairs="token")["low"].notna().all()
        assert np.isnan(distances_to(study, "full-rl", ["base"], seed=0)["base"]).all()


def test_bad_questions_are_answered_in_a_line(small_study: Study) -> None:
    with pytest.raises(LensrlError, match="did you mean 'mlp_out'"):
        compare_activations(small_study, site="mlp_ou")
    with pytest.raises(LensrlError, match="no run 'full-lr'; did you mean 'full-rl'"):
        compare_activations(small_study, into_run="full-lr")
    with pytest.raises(LensrlError, match="pairs='tokens': there is no such; did you mean 'token'"):
        compare_activations(small_study, pairs="tokens")  # pyright: ignore[reportArgumentType]


def test_without_a_seed_both_runs_have_the_lowest_that_they_share(uneven_seeds: Study) -> None:
    found, asked = (compare_activations(uneven_seeds, "layer-3", seed=seed) for seed in (None, 1))
    assert found.equals(asked)
    assert not found.equals(compare_activations(uneven_seeds, "layer-0", seed=0))
    assert compare_activations(uneven_seeds).equals(compare_activations(uneven_seeds, seed=0))
    assert not compare_activations(uneven_seeds).equals(compare_activations(uneven_seeds, seed=1))
    shared = compare_layers(uneven_seeds, "layer-3")
    np.testing.assert_array_equal(shared, compare_layers(uneven_seeds, "layer-3", seed=1))
    np.testing.assert_allclose(np.diag(shared), found["cka"], rtol=1e-12)


def test_distances_are_those_of_one_seed_and_leave_out_runs_that_lack_it(uneven_seeds: Study) -> None:
    runs = ["base", "layer-0", "layer-3"]
    by_seed = [distances_to(uneven_seeds, "full-rl", runs, seed=seed) for seed in (0, 1)]
    assert [list(found) for found in by_seed] == [["base", "layer-0"], ["base", "layer-3"]]
    for seed, found in enumerate(by_seed):
        expected = compare_activations(uneven_seeds, "base", "full-rl", seed=seed)["one_minus_cka"]
        np.testing.assert_allclose(found["base"], expected, atol=1e-12)
    assert distances_to(uneven_seeds, "full-rl", runs, seed=2) == {}


def test_without_a_seed_a_run_that_diverged_does_not_count(uneven_seeds: Study) -> None:
    folder = uneven_seeds.path
    uneven_seeds.close()
    with resealed(folder / "full-rl.seed-0.h5") as file:
        file.attrs["status"], file.attrs["reason"] = "diverged", "no gradient"
        for group in ("scores", "activations", "probe"):
            del file[group]
    with open_study(folder) as study:
        assert compare_activations(study).equals(compare_activations(study, seed=1))
        assert compare_weights(study, by="layer").equals(compare_weights(study, by="layer", seed=1))
        with pytest.raises(LensrlError, match="no gradient"):
            compare_weights(study, seed=0)

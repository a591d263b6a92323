"""What stands beside the contribution: only what was measured, and as measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lensrl import Study, compare_activations, open_study
from lensrl.compare.predictors import PREDICTORS, predictors, without_grafts
from lensrl.compare.rivals import COLUMNS, RIVALS, _sources, _write
from lensrl.measures.similarity import cka_interval
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.patch import PatchKey, PatchResult, write_patch
from tests.reseal import resealed
from tests.store.synthetic import add_run, make_study

LAYERS = [0, 3, 7]


@pytest.fixture
def copied(small_study_folder: Path, tmp_path: Path) -> Path:
    """The study as it was run: others may have patched it, or measured rivals, since."""
    shutil.copytree(small_study_folder, tmp_path / "copy", ignore=shutil.ignore_patterns(PATCH_FOLDER, "rivals.json"))
    return tmp_path / "copy"


def one_minus_cka(study: Study, run: str) -> np.ndarray:
    """From every layer of a run to full RL's, one by one, without the first token of each sequence."""
    x, y = (study[name].activations["block_out"] for name in (run, FULL))
    probe = study[BASE].probe()
    rest, sequence = (probe["position"] > 0).to_numpy(), probe["prompt"].to_numpy()
    found = [cka_interval(x[layer][rest], y[layer][rest], sequence[rest]).value for layer in range(8)]
    return 1 - np.array(found)


def test_what_was_not_measured_is_left_out(copied: Path) -> None:
    with open_study(copied) as study:
        table, contributions = predictors(study), study.contributions()
    assert table["layer"].tolist() == LAYERS
    absent = {"sufficiency", "necessity", *RIVALS}
    assert [name for name in table if name in PREDICTORS] == [name for name in PREDICTORS if name not in absent]
    assert table["depth"].tolist() == [0, 3, 7]
    assert table["distance_from_middle"].tolist() == [3.5, 0.5, 3.5]
    pd.testing.assert_frame_equal(table[["layer", "contribution", "low", "high", "status"]], contributions[
        ["layer", "contribution", "low", "high", "status"]
    ])  # fmt: skip


def test_weight_deltas_are_those_of_full_rl_and_of_the_layer_alone(small_study: Study) -> None:
    table = predictors(small_study).set_index("layer")
    full = small_study[FULL].layer_delta_norms().set_index("layer")
    for layer in LAYERS:
        alone = small_study[f"layer-{layer}"].layer_delta_norms().set_index("layer")
        assert table.at[layer, "delta_full"] == pytest.approx(full.at[layer, "norm"])
        assert table.at[layer, "relative_delta_full"] == pytest.approx(full.at[layer, "relative_norm"])
        assert table.at[layer, "delta_single"] == pytest.approx(alone.at[layer, "norm"])
        assert table.at[layer, "relative_delta_single"] == pytest.approx(alone.at[layer, "relative_norm"])
    assert (table["delta_single"] > 0).all()


def test_distance_growth_and_approach_are_those_of_the_activations(small_study: Study) -> None:
    table = predictors(small_study).set_index("layer")
    base = one_minus_cka(small_study, BASE)
    for layer in LAYERS:
        assert table.at[layer, "cka_distance"] == pytest.approx(base[layer])
        before = base[layer - 1] if layer else 0.0
        assert table.at[layer, "cka_growth"] == pytest.approx(base[layer] - before)
        alone = one_minus_cka(small_study, f"layer-{layer}")
        approach = 1 - sum(alone[i] for i in range(layer, 8)) / sum(base[i] for i in range(layer, 8))
        assert table.at[layer, "approach"] == pytest.approx(approach)


def graft(
    study: Study, layer: int, share: float, *, donor: str, component: str = "block", what: str = "weights",
    seed: int = 0, gain: float = 1.0,
) -> None:  # fmt: skip
    """A stored result that recovers `share` of what lies between the runs, in log p; less in the score."""
    into = BASE if donor == FULL else FULL
    rng, items = np.random.default_rng(layer), 40
    before = rng.normal(-2, 0.1, items) if donor == FULL else rng.normal(-1, 0.1, items)
    after = before + (gain if donor == FULL else -gain) + rng.normal(0, 0.05, items)
    patched = before + share * (after - before)
    metrics = {
        "score": np.stack([before, after, before + 0.1 * (after - before)]),
        "reference_logprob": np.stack([before, after, patched]),
    }
    key = PatchKey(
        what=what,  # pyright: ignore[reportArgumentType]
        component=component,  # pyright: ignore[reportArgumentType]
        layers=(layer,),
        donor=donor,
        into=into,
        seed=seed,
    )
    sources = {name: study[name if name == BASE else (name, seed)].run_id for name in (donor, into)}
    (study.path / PATCH_FOLDER).mkdir(exist_ok=True)
    write_patch(study.path / PATCH_FOLDER, PatchResult(key, metrics, ["a"] * 20 + ["b"] * 20, sources, {}))


def test_grafts_appear_once_they_are_stored(copied: Path) -> None:
    with open_study(copied) as study:
        for layer, share in ((0, 0.25), (3, 0.5)):
            graft(study, layer, share, donor=FULL)
            graft(study, layer, 0.9, donor=FULL, component="attn")
            graft(study, layer, 0.9, donor=FULL, what="activations")
        table = predictors(study)
        assert "necessity" not in table
        assert table["sufficiency"].tolist() == pytest.approx([0.25, 0.5, np.nan], nan_ok=True)
        graft(study, 7, 0.75, donor=BASE)
        table = predictors(study)
        assert table["sufficiency"].tolist() == pytest.approx([0.25, 0.5, np.nan], nan_ok=True)
        assert table["necessity"].tolist() == pytest.approx([np.nan, np.nan, 0.75], nan_ok=True)
        columns = table.columns.tolist()
        assert columns.index("approach") < columns.index("sufficiency") < columns.index("necessity")


def test_grafts_are_averaged_over_the_seeds_in_which_the_most_layers_were_patched(copied: Path) -> None:
    """A partial second seed must not make a difference between seeds one between layers."""
    shutil.copy(copied / "full-rl.seed-0.h5", copied / "full-rl.seed-1.h5")
    with resealed(copied / "full-rl.seed-1.h5") as file:
        file.attrs["seed"], file.attrs["run_id"] = 1, "another"
    with open_study(copied) as study:
        for layer, seed, share in ((0, 0, 0.2), (3, 0, 0.2), (7, 0, 0.2), (3, 1, 0.6)):
            graft(study, layer, share, donor=FULL, seed=seed)
        assert predictors(study)["sufficiency"].tolist() == pytest.approx([0.2] * 3)
        for layer in (0, 7):
            graft(study, layer, 0.6, donor=FULL, seed=1)
        assert predictors(study)["sufficiency"].tolist() == pytest.approx([0.4] * 3)


def test_what_grafts_recover_of_a_loss_is_no_predictor_of_a_gain(copied: Path) -> None:
    with open_study(copied) as study:
        assert "grafts of all layers are missing" in without_grafts(study)
        for layer in LAYERS:
            graft(study, layer, 0.5, donor=FULL, gain=-1.0)
            graft(study, layer, 0.5, donor=BASE, gain=-1.0)
        assert not {"sufficiency", "necessity"} & set(predictors(study))
        assert without_grafts(study).startswith("full RL lowered the log-probability of the references")


def test_rivals_appear_once_they_are_stored_and_only_for_these_runs(copied: Path) -> None:
    with open_study(copied) as study:
        rivals = pd.DataFrame({name: np.arange(8.0) ** 2 + i for i, name in enumerate(COLUMNS)})
        rivals = rivals.assign(layer=range(8), parameters=100, bypass_score=np.nan)
        _write(copied / "rivals.json", rivals, _sources(study), {})
        table = predictors(study)
        assert "bypass_score" not in table
        for name in set(RIVALS) - {"bypass_score"}:
            assert table[name].tolist() == rivals[name].to_numpy()[LAYERS].tolist()
        _write(copied / "rivals.json", rivals, _sources(study) | {"base.h5": "another"}, {})
        assert not set(RIVALS) & set(predictors(study))


def test_a_study_without_activations_or_trained_weights_has_depth_alone(tmp_path: Path) -> None:
    make_study(tmp_path / "study")
    for run in (BASE, FULL, *(f"layer-{layer}" for layer in range(4))):
        add_run(tmp_path / "study", run, {"only": [float(run != BASE), 0.0] * 20}, n_layers=4, probed=False)
    with open_study(tmp_path / "study") as study:
        assert not {"cka_distance", "cka_growth", "approach", "sufficiency"} & set(predictors(study))


def test_without_a_choice_of_seed_every_predictor_is_a_mean_over_all(uneven_seeds: Study) -> None:
    table = predictors(uneven_seeds).set_index("layer")
    of_full = [uneven_seeds[FULL, seed].layer_delta_norms().set_index("layer")["norm"] for seed in (0, 1)]
    np.testing.assert_allclose(table["delta_full"], (of_full[0] + of_full[1])[LAYERS] / 2)
    alone = uneven_seeds["layer-3", 1].layer_delta_norms().set_index("layer")["norm"]
    assert table.loc[3, "delta_single"] == pytest.approx(alone[3])
    to_full = [compare_activations(uneven_seeds, seed=seed)["one_minus_cka"] for seed in (0, 1)]
    np.testing.assert_allclose(table["cka_distance"], (to_full[0] + to_full[1])[LAYERS] / 2)
    approach = {}
    for layer, seed in ((0, 0), (3, 1), (7, 0)):  # the one seed in which each has a run beside full RL
        rest = compare_activations(uneven_seeds, f"layer-{layer}", FULL, seed=seed)["one_minus_cka"][layer:]
        approach[layer] = 1 - rest.sum() / to_full[seed][layer:].sum()
    assert table["approach"].to_dict() == pytest.approx(approach)

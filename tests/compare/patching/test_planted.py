"""A change is planted, and every measure must say where it is, and that it is nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lensrl import compare_activations, open_study, patch
from lensrl.compare.patching.activations import FORCED_METRICS, Patch, patch_activations
from lensrl.compare.patching.additivity import additivity_table
from lensrl.compare.patching.graft import graft
from lensrl.measures.similarity import linear_cka, relative_l2
from lensrl.models.base import Base
from lensrl.models.bridge import boot, capture
from lensrl.models.references import reference_logprobs
from lensrl.store.study import Study
from lensrl.store.verify import verify
from tests.compare.patching.planted import ITEMS, Weights, helpful_delta, plant, plus, random_base, random_delta

WHERE, NOISE, NORM = 4, 2, 1.0  # the layer of the planted change, of the random one, and the norm of both
CONTINUOUS = "reference_logprob"


@pytest.fixture(scope="module")
def folder(base: Base, small_study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the base and three runs: `planted`, `both` (with a random change, too), and `copy` (no change)."""
    folder = tmp_path_factory.mktemp("planted") / "study"
    folder.mkdir()
    for name in ("recipe.json", "base.h5"):
        shutil.copy(small_study_folder / name, folder / name)
    helpful, random = helpful_delta(base, WHERE, NORM), random_delta(base, NOISE, NORM)
    plant(folder, "planted", base, plus(base, helpful), [WHERE])
    plant(folder, "both", base, plus(base, helpful, random), [NOISE, WHERE])
    plant(folder, "copy", base, dict(base.weights), [WHERE])
    assert {verdict.status for verdict in verify(folder)} == {"good"}
    return folder


@pytest.fixture
def study(folder: Path) -> Study:
    return open_study(folder)


def recovery(table: pd.DataFrame, what: str, metric: str = CONTINUOUS) -> dict[str, float]:
    """Name of the patched layers -> recovery."""
    rows = table[(table["what"] == what) & (table["metric"] == metric)]
    assert (rows["status"] == "defined").all()
    return dict(zip(rows["layers"], rows["recovery"], strict=True))


@pytest.mark.parametrize("reverse", [False, True])
def test_every_kind_and_metric_finds_the_planted_layer(study: Study, *, reverse: bool) -> None:
    """Sufficient and necessary: the change is all there, and none of it elsewhere."""
    table = patch(study, from_run="planted", layers=[0, 3, WHERE, 5, 7], reverse=reverse)
    # Later blocks answer to what the planted one does: their outputs hand that over, their weights do not.
    table = table[(table["what"] == "weights") | (table["layer"] <= WHERE)]
    assert set(table["metric"]) == {"score", *FORCED_METRICS}
    for row in table.to_dict("records"):
        expected = row["from_value"] if row["layer"] == WHERE else row["into_value"]
        assert row["patched_value"] == pytest.approx(expected, abs=1e-4), row
    for what in ("weights", "activations"):
        found = recovery(table, what)
        assert found == pytest.approx({layer: float(layer == str(WHERE)) for layer in found}, abs=1e-3)


def test_delta_norms_and_cka_find_the_planted_layer(study: Study) -> None:
    norms = study["planted"].layer_delta_norms().set_index("layer")["norm"]
    assert norms.to_dict() == pytest.approx({layer: NORM * (layer == WHERE) for layer in range(8)}, rel=1e-4)
    cka = compare_activations(study, "base", "planted").set_index("layer")["cka"]
    assert cka.to_numpy()[:WHERE] == pytest.approx(1, abs=1e-9)
    assert max(cka.to_numpy()[WHERE:]) < 1 - 1e-6


def test_a_random_change_of_the_same_norm_is_told_from_the_planted_one(study: Study) -> None:
    """By their norms the two are alike; only one of them does anything."""
    norms = study["both"].layer_delta_norms().set_index("layer")["norm"]
    assert norms[NOISE] == pytest.approx(norms[WHERE], rel=1e-4)
    table = patch(study, from_run="both", layers=[0, NOISE, WHERE], what="weights")
    found = recovery(table, "weights")
    assert found == {"0": 0, str(NOISE): pytest.approx(0, abs=0.02), str(WHERE): pytest.approx(1, abs=0.05)}


def test_cumulative_grafts_step_from_0_to_1_at_the_planted_layer(study: Study) -> None:
    bottom, top = (
        recovery(patch(study, from_run="planted", layers=[3, WHERE, 5, 7], what="weights", sets=sets), "weights")
        for sets in ("bottom", "top")
    )
    assert bottom == pytest.approx({"0-3": 0, "0-4": 1, "0-5": 1, "0-7": 1, "everything": 1}, abs=1e-4)
    assert top == pytest.approx({"3-7": 1, "4-7": 1, "5-7": 0, "7": 0}, abs=1e-4)


def test_pairs_and_cumulative_activations_agree_with_the_truth(study: Study) -> None:
    pairs = patch(study, from_run="planted", layers=[1, 2, WHERE], what="activations", sets="pairs")
    assert recovery(pairs, "activations") == pytest.approx({"1-2": 0, "1,4": 1, "2,4": 1}, abs=1e-3)
    bottom = patch(study, from_run="planted", layers=[3, 5], what="activations", sets="bottom")
    assert recovery(bottom, "activations") == pytest.approx({"0-3": 0, "0-5": 1}, abs=1e-3)


def test_one_planted_layer_adds_up(study: Study) -> None:
    assert len(additivity_table(study, "planted", "copy", 0)) == 0, "nothing has been patched yet"
    patch(study, from_run="planted", what="weights")
    patch(study, from_run="planted", what="weights", sets="together")
    table = additivity_table(study, "planted", "base", 0)
    found = table[table["metric"] == CONTINUOUS][["single_sum", "together", "interaction"]].to_numpy(float)
    np.testing.assert_allclose(found, [[1, 1, 0]], atol=1e-4)


def test_the_base_against_itself_is_undefined_and_moves_nothing(study: Study) -> None:
    """The noise floor is exactly 0 here: the same weights in the same kernels."""
    table = patch(study, from_run="copy", layers=[0, 5])
    assert set(table["status"]) == {"undefined"}
    assert table["recovery"].isna().all()
    assert table["reason"].str.startswith("the interval of M(from) - M(into) contains 0").all()
    np.testing.assert_array_equal(table["patched_value"], table["into_value"])
    cka = compare_activations(study, "base", "copy")
    assert cka["cka"].to_numpy() == pytest.approx(1, abs=1e-9)
    assert cka["relative_l2"].tolist() == [0] * 8


def test_a_change_of_lm_head_is_in_no_layer(base: Base) -> None:
    small = random_base(base, layers=3)
    torch.manual_seed(1)
    head = small.weights["lm_head.weight"]
    donor: Weights = dict(small.weights) | {"lm_head.weight": head + 0.1 * torch.randn_like(head)}
    before, after = (reference_logprobs(small.fresh(w), small.prompts, ITEMS, batch=64) for w in ({}, donor))
    assert np.abs(after - before).max() > 1e-2
    for layer in range(3):
        grafted = small.fresh(graft(small, small.weights, donor, [layer]))
        np.testing.assert_array_equal(reference_logprobs(grafted, small.prompts, ITEMS, batch=64), before)
    receiver, giver = (boot(small.fresh(weights), small.tokenizer) for weights in ({}, donor))
    patches = [*(Patch((layer,)) for layer in range(3)), Patch((0, 1, 2))]
    into, whole, patched = patch_activations(receiver, giver, small, ITEMS, patches)
    assert np.abs(whole - into).max() > 1e-2
    for values in patched.values():
        np.testing.assert_array_equal(values, into)


def test_a_permuted_hidden_basis_is_the_same_to_cka(base: Base) -> None:
    """The model computes the same in another order of its features: CKA stays 1 where the coordinates are far apart."""
    small = random_base(base, layers=3)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    permuted = {name: permute(name, weight, order) for name, weight in small.weights.items()}
    before, after = (reference_logprobs(small.fresh(w), small.prompts, ITEMS, batch=64) for w in ({}, permuted))
    np.testing.assert_allclose(after, before, atol=1e-4)
    one, other = (capture(small.fresh(w), small.prompts, ITEMS[:8], 3)["block_out"] for w in ({}, permuted))
    for layer in range(3):
        assert linear_cka(one[layer], other[layer]) == pytest.approx(1, abs=1e-6)
        assert relative_l2(one[layer], other[layer]) > 0.5


def permute(name: str, weight: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Reorder the axis of a weight that is the residual stream."""
    if "q_norm" in name or "k_norm" in name:  # inside a head
        return weight
    return weight[order] if weight.ndim == 1 or "o_proj" in name or "down_proj" in name else weight[:, order]

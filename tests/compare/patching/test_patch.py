"""The `patch` call on a study that really ran."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lensrl import open_study, patch
from lensrl.compare.patching import measure
from lensrl.errors import LensrlError
from lensrl.store.study import Study
from tests.reseal import resealed


def test_sufficiency_of_a_single_layer_run_is_total(small_study: Study) -> None:
    """layer-3 differs from the base in layer 3 alone: grafting it is that run, scores and all."""
    table = patch(small_study, from_run="layer-3", layers=3)
    grafts = table[table["what"] == "weights"].set_index("metric")
    assert grafts["patched_value"].to_dict() == pytest.approx(grafts["from_value"].to_dict(), abs=1e-6)
    assert grafts.loc["reference_logprob", "recovery"] == pytest.approx(1, abs=1e-4)
    activations = table[table["what"] == "activations"]
    assert activations["patched_value"].to_numpy() == pytest.approx(activations["from_value"].to_numpy(), abs=1e-4)


def test_necessity_is_the_reverse(small_study: Study) -> None:
    table = patch(small_study, from_run="layer-3", layers=[3, 7], reverse=True)
    assert set(table["from"]) == {"base"}
    assert set(table["into"]) == {"layer-3"}
    logprob = table[(table["what"] == "weights") & (table["metric"] == "reference_logprob")].set_index("layer")
    assert logprob.loc[3, "recovery"] == pytest.approx(1, abs=1e-4)
    assert logprob.loc[7, "recovery"] == pytest.approx(0, abs=1e-4)


def test_both_kinds_and_their_metrics_are_separate_rows(small_study: Study) -> None:
    table = patch(small_study, layers="0,3")
    assert [tuple(row) for row in table[["layer", "what", "metric"]].to_numpy()] == [
        (layer, what, metric)
        for what, metrics in (
            ("weights", ("score", "reference_logprob")),
            ("activations", ("reference_logprob", "logit_difference")),
        )
        for layer in (0, 3)
        for metric in metrics
    ]
    weights, activations = (table[table["what"] == what] for what in ("weights", "activations"))
    into = [part[part["metric"] == "reference_logprob"]["into_value"].iloc[0] for part in (weights, activations)]
    assert into[0] == pytest.approx(into[1], abs=1e-3), "the same model by two attention kernels"


def test_results_are_kept_and_reused_until_a_run_changes(
    finished_study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished_study_folder, folder)
    first = patch(open_study(folder), layers=7, what="weights")
    kept = list((folder / "patches").glob("weights.block.full-rl-into-base.layer-7.seed-0.h5"))
    assert len(kept) == 1
    monkeypatch.setattr(measure, "load_base", lambda name: pytest.fail("measured again"))
    again = patch(open_study(folder), layers=7, what="weights")
    np.testing.assert_array_equal(first["recovery"], again["recovery"])

    shutil.copy(folder / "layer-7.seed-0.h5", folder / "full-rl.seed-0.h5")  # another run under the old name
    with open_study(folder) as study:
        study.runs["full-rl", 0] = study["layer-7"]
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            patch(study, layers=7, what="weights")


def test_results_of_a_replaced_run_and_damaged_results_are_left_out(
    finished_study_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished_study_folder, folder)
    with open_study(folder) as study:
        patch(study, layers=[0, 7], from_run="layer-7", what="weights")
        kept = study.patches()
        assert set(kept[kept["from"] == "layer-7"]["layer"]) == {0, 7}
    damaged = next((folder / "patches").glob("*layer-7-into-base.layer-0*"))
    damaged.write_bytes(b"nothing")
    with open_study(folder) as study:
        left = study.patches()
        assert set(left[left["from"] == "layer-7"]["layer"]) == {7}
        assert f"patches/{damaged.name}" in study.broken
    with resealed(folder / "layer-7.seed-0.h5") as file:
        file.attrs["run_id"] = "another"
    with open_study(folder) as study:
        assert "layer-7" not in set(study.patches()["from"])


def test_without_a_seed_both_runs_have_the_lowest_that_they_share(finished_study_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished_study_folder, folder)
    for name in ("full-rl", "layer-3"):
        shutil.copy(folder / f"{name}.seed-0.h5", folder / f"{name}.seed-1.h5")
        with resealed(folder / f"{name}.seed-1.h5") as file:
            file.attrs["seed"] = 1
            file.attrs["run_id"] = f"{name}-1"
    (folder / "layer-3.seed-0.h5").unlink()
    with open_study(folder) as study:
        table = patch(study, from_run="layer-3", into_run="full-rl", layers=3, what="weights")
        assert set(table["seed"]) == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 8}, "layer 8 is out of range: this model has 8 layers, 0 to 7"),
        ({"from_run": "full-lr"}, "did you mean 'full-rl'"),
        ({"from_run": "full-rl", "into_run": "full-rl"}, "nothing to recover"),
        ({"seed": 5}, "has no full-rl with seed 5; it has seeds [0]"),
    ],
)
def test_bad_input_is_one_line(small_study: Study, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(LensrlError) as caught:
        patch(small_study, **arguments)  # pyright: ignore[reportArgumentType]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)

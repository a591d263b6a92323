"""The `patch` call on a study that really ran."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensrl import open_study, patch
from lensrl.compare.patching import measure
from lensrl.compare.patching.patch import share_of, with_context
from lensrl.errors import LensrlError
from lensrl.recipe.runs import BASE
from lensrl.store.names import run_path
from lensrl.store.study import Study
from tests.reseal import resealed
from tests.store.synthetic import PARAMETERS, add_run, before_weights, header, make_study, write_run


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
    monkeypatch.setattr(measure, "load_base", lambda *_: pytest.fail("measured again"))
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


def test_without_a_seed_a_run_that_diverged_is_passed_over(uneven_seeds: Study) -> None:
    """The lowest seed that has weights to put anywhere."""
    folder = uneven_seeds.path
    add_run(folder, "layer-3", None, status="diverged", reason="the loss is not finite", n_layers=8)
    with resealed(folder / "layer-3.seed-0.h5") as file:
        file.attrs["fingerprint"] = uneven_seeds["base"].fingerprint
    with open_study(folder) as study:
        assert [*study.runs.of("layer-3")] == [0, 1]
        assert set(patch(study, from_run="layer-3", layers=3, what="weights")["seed"]) == {1}
        with pytest.raises(LensrlError, match="no weights and no scores: the loss is not finite"):
            patch(study, from_run="layer-3", layers=3, what="weights", seed=0)


def rows_of(*recoveries: tuple[str, str, str, str], **more: str | int) -> pd.DataFrame:
    """Rows of recoveries, by donor, receiver, layers and component."""
    rows = pd.DataFrame(recoveries, columns=["from", "into", "layers", "component"])
    usual: dict[str, str | int | float] = {
        "layer": 0,
        "seed": 0,
        "sets": "pairs",
        "status": "defined",
        "into_value": 0.0,
        "from_value": 1.0,
    }
    return rows.assign(**usual | more)


TRAINED_OR_NOT = {
    ("layer-3", BASE, "3"): True,
    ("layer-3", BASE, "2"): False,
    (BASE, "layer-3", "3"): True,
    (BASE, "layer-3", "2"): False,
    ("full-rl", BASE, "2"): True,
    (BASE, "full-rl", "2"): True,
    ("layer-7", "layer-3", "3"): True,
    ("layer-7", "layer-3", "7"): True,
    ("layer-7", "layer-3", "2"): False,
    ("layer-7", "full-rl", "2"): True,
    ("layer-3", BASE, "2,4"): False,
    ("layer-3", BASE, "0-3"): True,
    ("layer-3", BASE, "everything"): True,
    ("ends", BASE, "0"): True,
    ("ends", BASE, "1-6"): False,
}


def test_a_graft_says_something_where_one_of_the_two_runs_trained_the_layer(small_study: Study) -> None:
    table = with_context(rows_of(*((*runs, "block") for runs in TRAINED_OR_NOT)), small_study)
    assert table["trained"].tolist() == [*TRAINED_OR_NOT.values()]
    assert table["trained"].dtype == bool


@pytest.mark.parametrize("reverse", [False, True])
def test_a_graft_of_a_layer_that_was_not_trained_is_the_receiving_run(small_study: Study, *, reverse: bool) -> None:
    table = patch(small_study, from_run="layer-7", layers=[2, 7], what="weights", reverse=reverse)
    assert table["trained"].tolist() == [False, False, True, True]
    idle, trained = table[~table["trained"]], table[table["trained"] & (table["metric"] == "reference_logprob")]
    np.testing.assert_allclose(idle["patched_value"], idle["into_value"], atol=1e-6)
    assert (trained["patched_value"] - trained["into_value"]).abs().min() > 1e-5


def test_a_set_that_trains_one_component_leaves_the_other_untrained(tmp_path: Path) -> None:
    make_study(tmp_path / "study")
    add_run(tmp_path / "study", BASE, {"only": [0.0] * 4})
    about = replace(
        header("minds"),
        layers=[1],
        recipe='{"model": "tiny:none", "sets": {"minds": {"layers": [1], "component": "attn"}}}',
    )
    write_run(run_path(tmp_path / "study", "minds", 0), about, PARAMETERS, before_weights())
    components = ("block", "attn", "mlp", "head", "stream")
    with open_study(tmp_path / "study") as study:
        table = with_context(rows_of(*(("minds", BASE, "1", component) for component in components)), study)
    assert dict(zip(components, table["trained"], strict=True)) == {
        "block": True, "attn": True, "mlp": False, "head": True, "stream": True,
    }  # fmt: skip


def test_recovery_is_the_share_of_a_loss_where_rl_lowered_the_metric() -> None:
    sides = [("full-rl", BASE), (BASE, "full-rl"), ("full-rl", "layer-3")]
    rows = rows_of(*((*runs, "0", "block") for runs in sides))
    up, down = (share_of(rows.assign(into_value=0.0, from_value=value)).tolist() for value in (1.0, -1.0))
    assert up == ["gain", "loss", ""], "the base's layer in the RL model: the donor, the base, has the higher value"
    assert down == ["loss", "gain", ""]
    nothing = rows.assign(status="undefined", from_value=np.nan, reason="no gain")
    assert share_of(nothing).tolist() == ["", "", ""]


def test_the_columns_are_there_when_nothing_was_patched(uneven_seeds: Study) -> None:
    table = with_context(uneven_seeds.patches(), uneven_seeds)
    assert len(table) == 0
    assert {"contribution", "trained", "share_of"} <= set(table)
    assert len(table[~table["trained"]]) == 0


def test_the_contribution_beside_a_layer_is_that_of_the_rows_seed(uneven_seeds: Study) -> None:
    rows = rows_of(("full-rl", BASE, "7", "block"), sets="single", layer=7)
    table = with_context(pd.concat([rows.assign(seed=seed) for seed in (0, 1)]), uneven_seeds)
    expected = [uneven_seeds.contributions(seed).set_index("layer")["contribution"][7] for seed in (0, 1)]
    np.testing.assert_array_equal(table["contribution"], expected)
    assert np.isnan(with_context(rows.assign(sets="bottom"), uneven_seeds)["contribution"]).all()


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


def test_the_stream_carries_what_any_layer_below_was_trained_for(tmp_path: Path) -> None:
    make_study(tmp_path / "study")
    add_run(tmp_path / "study", BASE, {"only": [0.0] * 4}, n_layers=4)
    add_run(tmp_path / "study", "layer-1", {"only": [1.0] * 4}, n_layers=4)
    places = [("layer-1", BASE, str(layer), "stream") for layer in range(4)]
    with open_study(tmp_path / "study") as study:
        assert with_context(rows_of(*places), study)["trained"].tolist() == [False, True, True, True]


def test_the_time_of_sampled_scores_is_estimated_before_anything_is_measured(small_study: Study) -> None:
    events: list[str] = []
    patch(
        small_study, from_run="layer-7", layers=[7], what="weights", component="attn",
        on_progress=lambda step, done, of: events.append(step), on_estimate=lambda seconds: events.append("estimate"),
    )  # fmt: skip
    assert events[0] == "estimate"
    assert {*events} == {"estimate", "log p", "score"}


def test_one_metric_is_measured_when_asked_for_and_joins_the_other(small_study: Study) -> None:
    """The log-probability alone samples nothing; asked for both, the score is added and nothing is lost."""
    asked: dict[str, Any] = {"from_run": "layer-7", "layers": [7], "what": "weights", "component": "mlp"}
    said: list[float] = []
    alone = patch(small_study, **asked, metric="logprob", on_estimate=said.append)
    assert alone["metric"].tolist() == ["reference_logprob"]
    assert said == []
    both = patch(small_study, **asked, on_estimate=said.append)
    assert both["metric"].tolist() == ["score", "reference_logprob"]
    assert both["patched_value"][1] == alone["patched_value"][0]
    (seconds,) = said
    assert 0 < seconds < 600
    again = patch(small_study, **asked, metric="score", on_estimate=said.append)
    pd.testing.assert_frame_equal(again, both)
    assert len(said) == 1

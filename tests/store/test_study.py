"""A study folder: its runs, and the layer contributions computed from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensrl.errors import LensrlError, StoreError, TooNew
from lensrl.store.file.atomic import new_file, partial_path
from lensrl.store.run import Run
from lensrl.store.study import open_study
from tests.store.synthetic import add_run, make_study, resealed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study")


def solved(easy: int, hard: int) -> dict[str, list[float]]:
    """Two benchmarks of 40 and 20 items, of which the first few are solved."""
    return {"easy": [1.0] * easy + [0.0] * (40 - easy), "hard": [1.0] * hard + [0.0] * (20 - hard)}


def contributions(folder: Path) -> pd.DataFrame:
    with open_study(folder) as study:
        return study.contributions().set_index("layer")


def row_of(folder: Path, layer: int) -> dict[Any, Any]:
    return contributions(folder).to_dict("index")[layer]


def test_the_contribution_is_the_share_of_the_gain_of_full_rl(folder: Path) -> None:
    add_run(folder, "base", solved(10, 2))  # 0.25 and 0.1: 0.175
    add_run(folder, "full-rl", solved(30, 16))  # 0.75 and 0.8: 0.775
    add_run(folder, "layer-0", solved(20, 8))  # 0.5 and 0.4: 0.45
    add_run(folder, "layer-1", solved(34, 16))  # 0.85 and 0.8: 0.825
    table = contributions(folder)
    assert table.index.tolist() == [0, 1]
    assert table["contribution"].tolist() == pytest.approx([0.275 / 0.6, 0.65 / 0.6])
    assert table["numerator"].tolist() == pytest.approx([0.275, 0.65])
    assert table["denominator"].tolist() == pytest.approx([0.6, 0.6])
    assert table["status"].tolist() == ["defined", "defined"]
    assert table["seeds"].tolist() == [1, 1]
    for row in table.to_dict("index").values():
        assert row["low"] < row["contribution"] < row["high"]


def test_scores_show_the_gain_of_every_run_base_and_full_rl_first(folder: Path) -> None:
    add_run(folder, "layer-0", solved(20, 8))
    add_run(folder, "full-rl", solved(30, 16))
    add_run(folder, "base", solved(10, 2))
    add_run(folder, "layer-1", None, status="diverged", reason="no")
    with open_study(folder) as study:
        table = study.scores()
    assert table["run"].tolist()[:2] == ["base", "full-rl"]
    table = table.set_index("run")
    assert table.loc[["base", "full-rl", "layer-0"], "gain"].tolist() == pytest.approx([0, 0.6, 0.275])
    assert table.loc["base", "length"] == pytest.approx((20.5 + 50.5) / 2)  # a mean over benchmarks, as a score
    assert table.loc["base", "truncated"] == pytest.approx(0.5)
    assert table.loc[["layer-1"], ["score", "gain", "length"]].isna().to_numpy().all()


def test_seeds_are_averaged_where_the_layer_and_full_rl_have_both(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    for seed, (full, layer) in enumerate([(30, 22), (32, 24), (40, 0)]):
        add_run(folder, "full-rl", solved(full, full // 2), seed)
        if seed < 2:
            add_run(folder, "layer-0", solved(layer, layer // 2), seed)
    add_run(folder, "layer-1", solved(16, 8), 1)
    table = contributions(folder)
    assert table["seeds"].tolist() == [2, 1]
    assert table["contribution"].tolist() == pytest.approx([(22 + 24) / (30 + 32), 16 / 32])


def test_a_layer_without_a_run_is_missing(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    add_run(folder, "full-rl", solved(20, 10))
    add_run(folder, "full-rl", None, 1, status="diverged", reason="the loss is not finite")
    add_run(folder, "layer-0", solved(10, 5))
    row = row_of(folder, 1)
    assert (row["status"], row["reason"], row["seeds"]) == ("missing", "no run layer-1", 0)
    assert np.isnan([row[name] for name in ("contribution", "low", "high", "numerator", "denominator")]).all()


def test_a_layer_that_shares_no_seed_with_full_rl_says_so(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    add_run(folder, "full-rl", solved(20, 10), 0)
    add_run(folder, "layer-0", solved(10, 5), 1)
    row = row_of(folder, 0)
    assert (row["status"], row["reason"]) == ("missing", "no seed in common: layer-0 has [1], full-rl has [0]")


def test_when_full_rl_diverged_no_layer_has_a_contribution(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    add_run(folder, "full-rl", None, status="diverged", reason="the loss is not finite")
    add_run(folder, "layer-0", solved(10, 5))
    table = contributions(folder)
    assert table["status"].tolist() == ["diverged", "diverged"]
    assert table["reason"].tolist() == ["full-rl seed 0: the loss is not finite"] * 2
    assert table["contribution"].isna().all()


def test_a_diverged_layer_leaves_the_others_defined(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    add_run(folder, "full-rl", solved(20, 10))
    add_run(folder, "layer-0", None, status="diverged", reason="the loss is not finite")
    add_run(folder, "layer-1", solved(10, 5))
    table = contributions(folder)
    assert table["status"].tolist() == ["diverged", "defined"]
    assert table.loc[0, "reason"] == "layer-0 seed 0: the loss is not finite"
    assert table.loc[1, "contribution"] == pytest.approx(0.5)


def test_a_collapsed_layer_keeps_its_value_and_says_so(folder: Path) -> None:
    add_run(folder, "base", solved(8, 4))
    add_run(folder, "full-rl", solved(24, 12))
    add_run(folder, "layer-0", solved(0, 0), status="collapsed", reason="reward fell to 0")
    add_run(folder, "layer-1", solved(16, 8))
    table = contributions(folder)
    assert table["status"].tolist() == ["collapsed", "defined"]
    assert table.loc[0, "contribution"] == pytest.approx(-0.5)
    assert table.loc[0, "reason"] == "layer-0 seed 0: reward fell to 0"


def test_a_collapsed_full_run_is_named_at_every_layer(folder: Path) -> None:
    add_run(folder, "base", solved(8, 4))
    add_run(folder, "full-rl", solved(24, 12), status="collapsed", reason="reward fell to 0")
    add_run(folder, "layer-0", solved(16, 8))
    add_run(folder, "layer-1", solved(16, 8))
    table = contributions(folder)
    assert table["status"].tolist() == ["collapsed", "collapsed"]
    assert set(table["reason"]) == {"full-rl seed 0: reward fell to 0"}


def test_no_share_is_taken_of_a_loss(folder: Path) -> None:
    add_run(folder, "base", solved(30, 15))
    add_run(folder, "full-rl", solved(10, 5))
    add_run(folder, "layer-0", solved(20, 10))
    row = row_of(folder, 0)
    assert (row["status"], row["reason"]) == (
        "undefined",
        "full RL lowered the score by 0.5: there is no gain to share",
    )
    assert np.isnan([row["contribution"], row["low"], row["high"]]).all()
    assert (row["numerator"], row["denominator"]) == pytest.approx((-0.25, -0.5))


def test_a_gain_that_may_be_zero_has_no_shares(folder: Path) -> None:
    add_run(folder, "base", {"only": [1.0, 0.0] * 20})
    add_run(folder, "full-rl", {"only": [0.0, 1.0] * 19 + [1.0, 1.0]})
    add_run(folder, "layer-0", {"only": [1.0] * 40})
    row = row_of(folder, 0)
    assert row["status"] == "undefined"
    assert row["reason"].startswith("the interval of S_full - S_base contains 0: 0.025 [")
    assert np.isnan(row["contribution"])


@pytest.mark.parametrize("run", ["full-rl", "layer-0"])
def test_runs_scored_on_other_items_than_the_base_are_not_paired(folder: Path, run: str) -> None:
    for name, gain in [("base", 0), ("full-rl", 20), ("layer-0", 10)]:
        add_run(folder, name, solved(gain, gain // 2), prefix="other-" if name == run else "")
    with pytest.raises(StoreError, match=rf"{run}\.seed-0\.h5 was scored on other items than .*base\.h5"):
        contributions(folder)


def test_contributions_need_full_rl(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    add_run(folder, "layer-0", solved(10, 5))
    with pytest.raises(LensrlError, match="has no run 'full-rl'"):
        contributions(folder)


def test_a_run_is_found_by_name_and_seed(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    for seed in (1, 2):
        add_run(folder, "full-rl", solved(10 * seed, 0), seed)
    with open_study(folder) as study:
        assert study.seeds == [1, 2]
        assert study["full-rl"] is study["full-rl", 1]
        assert study["full-rl", 2].scores_by_item()["score"].sum() == 20
        assert study["base", 7] is study["base"]
        assert "full-rl" in study
        assert ("full-rl", 2) in study
        assert ("full-rl", 3) not in study
        with pytest.raises(LensrlError, match=r"has no full-rl with seed 3; it has seeds \[1, 2\]"):
            study["full-rl", 3]


def test_an_unknown_run_names_the_nearest(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    add_run(folder, "full-rl", solved(10, 5))
    with open_study(folder) as study, pytest.raises(LensrlError, match="no run 'full-lr'; did you mean 'full-rl'"):
        study["full-lr"]


def test_a_broken_file_is_listed_with_its_reason_and_the_rest_opens(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    path = add_run(folder, "layer-1", solved(10, 5))
    path.write_bytes(path.read_bytes()[:500])
    with open_study(folder) as study:
        assert [name for name, _ in study.runs] == ["base"]
        assert list(study.broken) == ["layer-1.seed-0.h5"]
        assert "is damaged or not an HDF5 file" in study.broken["layer-1.seed-0.h5"]
        assert re.search(r"layer-1 +0 +damaged .* is damaged or not an HDF5 file", repr(study))
        with pytest.raises(StoreError, match=r"layer-1\.seed-0\.h5 is damaged"):
            study["layer-1"]


def test_why_a_run_cannot_be_had_is_said_by_the_study_and_by_its_runs(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    add_run(folder, "layer-0", solved(10, 5))
    with resealed(add_run(folder, "newer", solved(10, 5))) as file:
        file.attrs["format_version"] = 99
    add_run(folder, "cut", solved(10, 5)).write_bytes(b"nothing")
    partial_path(folder / "layer-1.seed-0.h5", "0" * 8).write_bytes(b"half")
    reasons = {
        "newer": r"newer\.seed-0\.h5 has format version 99",
        "cut": r"cut\.seed-0\.h5 is damaged",
        "layer-1": r"has no run 'layer-1' with seed 0: unfinished, the process that made it was killed",
        "full-rl": r"has no run 'full-rl' with seed 0: running, process \d+ on .+ for 0 s",
        "stranger": r"has no run 'stranger'; known: base, layer-0",
    }
    with new_file(folder / "full-rl.seed-0.h5"), open_study(folder) as study:
        for name, why in reasons.items():
            for look in (lambda name=name: study[name], lambda name=name: study[name, 0]):
                with pytest.raises(LensrlError, match=why) as caught:
                    look()
                assert "\n" not in str(caught.value)
            with pytest.raises(KeyError, match=re.escape(str(caught.value))):
                study.runs[name, 0]
        with pytest.raises(TooNew):
            study["newer"]
        with pytest.raises(KeyError, match=r"study\.runs\['layer-0', 0\]"):
            study.runs["layer-0"]  # type: ignore[index]


def test_names_and_keys_are_offered_inside_the_brackets(folder: Path) -> None:
    add_run(folder, "base", solved(0, 0))
    for seed in (0, 1):
        add_run(folder, "full-rl", solved(10, 5), seed)
    expected = ["base", "full-rl", ("base", 0), ("full-rl", 0), ("full-rl", 1)]
    with open_study(folder) as study:
        assert study._ipython_key_completions_() == study.runs._ipython_key_completions_() == expected


def test_opening_a_study_reads_no_array(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(folder, "base", solved(0, 0))
    add_run(folder, "full-rl", solved(10, 5))

    def refuse(*_: object) -> None:
        raise AssertionError("an array was read")

    monkeypatch.setattr(Run, "_read", refuse)
    with open_study(folder) as study:
        assert study["full-rl"].status == "completed"
        with pytest.raises(AssertionError, match="an array was read"):
            study.scores()


def test_the_kept_recipe_is_the_studys(folder: Path) -> None:
    with open_study(folder) as study:
        assert (study.name, study.recipe.model) == ("study", "tiny:none")


def test_a_folder_without_a_recipe_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(LensrlError, match=r"is not a study: it has no recipe\.json"):
        open_study(tmp_path)
    with pytest.raises(LensrlError, match=r"no study folder at .*absent; make one with: lensrl run runs/tiny.toml"):
        open_study(tmp_path / "absent")

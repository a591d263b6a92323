"""The verdict on studies with planted profiles, and on one that really ran."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lensrl import LensrlError, Study, open_study
from lensrl.judge.verdict import Verdict, verdict
from lensrl.recipe.runs import BASE, FULL
from tests.judge.test_verdict import CLIFF, HUMP, ITEMS, PUBLISHED, assert_readable, claim_of
from tests.store.synthetic import add_run, make_study


def write_study(
    folder: Path,
    contribution: np.ndarray,
    seeds: int = 3,
    *,
    gain: float = 0.4,
    absent: tuple[tuple[int, int], ...] = (),
    collapsed: int | None = None,
    diverged: tuple[str, int] | None = None,
) -> Path:
    """A base of 0.3, full RL that gains `gain`, and layers that recover their share; `absent`: (layer, seed)."""
    make_study(folder)
    rng, n = np.random.default_rng(len(contribution) + seeds), len(contribution)
    easiness = rng.uniform(0.15, 0.45, ITEMS)

    def add(run: str, share: float, seed: int, status: str = "completed") -> None:
        if diverged == (run, seed):
            add_run(folder, run, None, seed, status="diverged", reason="the loss is not finite", n_layers=n)
            return
        chance = easiness + gain * share + (0 if run == BASE else rng.normal(0, 0.01))
        scores = rng.binomial(8, np.clip(chance, 0, 1)) / 8
        halves = {"easy": scores[: ITEMS // 2].tolist(), "hard": scores[ITEMS // 2 :].tolist()}
        reason = "fell" if status == "collapsed" else ""
        add_run(folder, run, halves, seed, n_layers=n, status=status, reason=reason, probed=False)

    add(BASE, 0.0, 0)
    for seed in range(seeds):
        add(FULL, 1.0, seed)
        for layer, share in enumerate(contribution.tolist()):
            if (layer, seed) not in absent:
                add(f"layer-{layer}", share, seed, "collapsed" if layer == collapsed else "completed")
    return folder


def judged(folder: Path) -> Verdict:
    with open_study(folder) as study:
        found = verdict(study)
    assert_readable(found)
    return found


@pytest.fixture(scope="module")
def hump_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("planted") / "hump", HUMP)


def test_a_planted_hump_has_its_middle_and_its_best_layer(hump_folder: Path) -> None:
    found = judged(hump_folder)
    assert (found.name, found.n_layers, found.n_seeds) == ("hump", 9, 3)
    middle = claim_of(found, "middle")
    assert middle.verdict == "supported"
    assert middle.low < HUMP[3:6].mean() - HUMP[6:].mean() < middle.high
    assert claim_of(found, "shape").verdict != "contradicted"
    assert found.shapes["hump"].where == pytest.approx(4, abs=0.5)
    within = [row["low"] <= c <= row["high"] for row, c in zip(found.profile.to_dict("records"), HUMP, strict=True)]
    assert sum(within) >= 8
    assert {layer for layer, _ in found.best} == {4}
    assert all(0.8 < c.value < 1.2 for _, c in found.best)
    for name in ("not size", "representation", "causal", "convergence"):
        assert claim_of(found, name).reason
    assert found.limits[-1] == "9 layers: a relation with C_l cannot be told from a trend in depth in fewer than 24."


def test_the_profile_of_the_verdict_is_the_studys(hump_folder: Path) -> None:
    with open_study(hump_folder) as study:
        table, profile = study.contributions(), verdict(study).profile
    for column in ("layer", "contribution", "low", "high"):
        np.testing.assert_allclose(profile[column], table[column])


def test_equal_layers_support_neither_a_middle_nor_a_hump_nor_a_concentration(tmp_path: Path) -> None:
    found = judged(write_study(tmp_path / "flat", np.full(9, 0.6)))
    assert claim_of(found, "concentration").verdict == "contradicted"
    for name in ("middle", "shape", "stability"):
        assert claim_of(found, name).verdict != "supported"


def test_a_planted_cliff_is_no_hump_and_one_seed_says_so(tmp_path: Path) -> None:
    found = judged(write_study(tmp_path / "cliff", CLIFF, seeds=1))
    shape = claim_of(found, "shape")
    assert shape.verdict != "supported"
    assert found.shapes["step"].where == 14
    assert claim_of(found, "middle").verdict == "undetermined"
    assert "One seed: the intervals cover the items, not how much training differs between seeds." in found.limits
    assert claim_of(found, "stability").reason.startswith("one seed")
    assert found.n_seeds == 1


def test_other_studies_enter_the_claim_of_stability_and_no_other(hump_folder: Path, tmp_path: Path) -> None:
    other = write_study(tmp_path / "other", HUMP, 2)
    nothing = write_study(tmp_path / "nothing", HUMP, 2, gain=0.0)
    with open_study(hump_folder) as study:
        alone, beside = verdict(study), verdict(study, other, PUBLISHED, nothing)
    assert_readable(beside)
    reason = "other, first half of the items: 9 layers with both values: beyond a trend in depth at least 24 are needed"
    assert claim_of(beside, "stability").reason == reason
    assert any(limit.startswith("Not compared, nothing: undefined: ") for limit in beside.limits)
    for claim in alone.claims:
        if claim.name != "stability":
            assert claim_of(beside, claim.name).p_for == pytest.approx(claim.p_for, nan_ok=True)
    with pytest.raises(LensrlError, match="is given twice"):
        verdict(PUBLISHED, PUBLISHED)


def test_missing_and_collapsed_layers_are_named(tmp_path: Path) -> None:
    gone = ((2, 0), (2, 1))
    found = judged(write_study(tmp_path / "holes", HUMP, 2, absent=gone, collapsed=7))
    assert found.limits[:2] == [
        "Left out, from a run that collapsed: layers 7.",
        "Left out, without a contribution from every seed: layers 2.",
    ]
    assert "Two seeds" in found.limits[2]
    assert found.profile["layer"].tolist() == [0, 1, 3, 4, 5, 6, 8]
    assert found.profile["contribution"][3] == pytest.approx(1, abs=0.2)  # layer 4


def test_a_seed_that_lacks_a_layer_is_left_out_and_named(tmp_path: Path) -> None:
    found = judged(write_study(tmp_path / "uneven", HUMP, 3, absent=((5, 2),)))
    assert "Left out, without every run that other seeds have: seeds 2." in found.limits
    assert found.n_seeds == 2
    assert found.profile["layer"].tolist() == list(range(9))


@pytest.mark.parametrize("diverged", [(FULL, 1), ("layer-3", 1)])
def test_a_run_that_diverged_does_not_stop_the_verdict(tmp_path: Path, diverged: tuple[str, int]) -> None:
    found = judged(write_study(tmp_path / "diverged", HUMP[2:6], 2, diverged=diverged))
    assert found.n_seeds == 1
    assert any(line.startswith("One seed") for line in found.limits)
    assert found.limits[0] == "Left out, without every run that other seeds have: seeds 1."
    assert len(found.profile) == 4


@pytest.mark.parametrize("gain", [0.0, -0.1])
def test_where_full_rl_gained_nothing_there_is_nothing_to_judge(tmp_path: Path, gain: float) -> None:
    folder = write_study(tmp_path / "nothing", np.full(7, 0.5), 2, gain=gain)
    with open_study(folder) as study, pytest.raises(LensrlError, match=r"lensrl contribution .*nothing"):
        verdict(study)


def test_two_layers_are_too_few(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "two", np.array([0.5, 0.9]), 1)
    with open_study(folder) as study, pytest.raises(LensrlError, match="2 layers have a contribution"):
        verdict(study)


def test_a_study_that_really_ran_has_a_verdict_or_says_why_not(small_study: Study, tmp_path: Path) -> None:
    """Three layers: no shape, no relation beyond depth, no stability from a single seed."""
    shutil.copytree(small_study.path, tmp_path / "copy")
    with open_study(tmp_path / "copy") as study:
        if (study.contributions()["status"] != "defined").any():
            with pytest.raises(LensrlError, match="lensrl contribution"):
                verdict(study)
            return
        found = verdict(study)
    assert_readable(found)
    assert found.profile["layer"].tolist() == [0, 3, 7]
    for name in ("shape", "not size", "representation", "causal", "convergence", "stability"):
        assert claim_of(found, name).reason

"""Simulated studies have the truth they say, and the claims on them are seldom wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lensrl import open_study, verdict, write_report
from lensrl.judge import calibration, claims, simulation
from lensrl.judge.calibration import cell, main, summary
from lensrl.judge.claims import CLAIMS, Claim
from lensrl.judge.findings import Finding
from lensrl.judge.measurements import Measurements
from lensrl.judge.simulation import BASE_SCORE, FULL_GAIN, TRUTHS, Trial, simulate
from tests.judge.test_verdict import PUBLISHED, write_study

STUDIES = 60
KIND = (8, 3, 200)  # layers, seeds, items
TRUE_UNDER = {claim.name: trial.true_under for claim in CLAIMS for trial in claim.trials if not trial.name}
INDEX = ["truth", "layers", "seeds", "items"]
PROFILE = np.array([0.2, 0.9, 0.5])


def test_many_simulated_studies_have_the_gains_they_say_on_average() -> None:
    rng = np.random.default_rng(0)
    means = np.array([simulate(PROFILE, 2, 60, rng).gains.mean(axis=(1, 2)) for _ in range(1500)])
    error = means.std(axis=0) / np.sqrt(len(means))
    assert (error < 0.002).all()
    assert (np.abs(means.mean(axis=0) - FULL_GAIN * np.array([0.2, 0.9, 0.5, 1.0])) < 4 * error).all()
    study = simulate(PROFILE, 2, 60, rng)
    assert study.gains.shape == (4, 2, 60)
    assert study.truth.tolist() == PROFILE.tolist()


def test_with_one_seed_the_runs_have_the_profile() -> None:
    """Without a seed's shift, so that over many items the gains of a single study show it."""
    profile = np.linspace(0.2, 1.0, 5)
    study = simulate(profile, 1, 40_000, np.random.default_rng(0))
    mean = study.gains.mean(axis=(1, 2))
    assert study.truth.tolist() == profile.tolist()
    assert mean[:-1] / mean[-1] == pytest.approx(profile, abs=0.03)


def test_seeds_differ_by_more_than_their_items_and_items_are_shared() -> None:
    """On very many items two seeds of a run still differ; runs find the same items easy."""
    gains = simulate(np.full(40, 0.5), 2, 4000, np.random.default_rng(2)).gains
    between = gains.mean(axis=2)[:-1].std(axis=1, ddof=1)
    own = gains[:-1, 0].std(axis=1) / np.sqrt(4000)
    assert np.sqrt(np.mean(between**2)) > 2 * own.mean()
    layers = np.corrcoef(gains[0, 0], gains[1, 0])[0, 1]
    assert layers > 0.2  # the same base, the same difficulty


def test_the_base_scores_what_it_says() -> None:
    skill = simulation._skill(np.array([BASE_SCORE]), 0.0)
    rng = np.random.default_rng(3)
    spread = np.hypot(simulation.DIFFICULTY, simulation.TASTE)
    solved = 1 / (1 + np.exp(-(skill - rng.normal(0, spread, 400_000))))
    assert solved.mean() == pytest.approx(BASE_SCORE, abs=0.003)


@pytest.fixture(scope="module")
def rates() -> dict[str, dict[str, float]]:
    return {truth: cell(truth, *KIND, STUDIES) for truth in ("constant", "hump")}


@pytest.mark.parametrize("truth", ["constant", "hump"])
def test_intervals_cover_and_claims_that_are_false_are_seldom_supported(
    rates: dict[str, dict[str, float]], truth: str
) -> None:
    found = rates[truth]
    assert 0.9 < found["coverage"] < 1
    studies = round(STUDIES * (1 - found["undefined"]))
    assert studies > 50
    false = [f"{claim}: supported" for claim, true in TRUE_UNDER.items() if truth not in true]
    false += [
        "not size, half explained: supported",
        "not size, unrelated: contradicted",
        "representation, unrelated: supported",
        "convergence, unrelated: supported",
    ]
    for name in false:
        wrong = round(found.get(name, 0.0) * studies)
        assert stats.binomtest(wrong, studies, 0.06, alternative="greater").pvalue > 0.002, name


def test_a_hump_has_its_middle_seen(rates: dict[str, dict[str, float]]) -> None:
    assert rates["hump"]["middle: supported"] > 0.8
    assert rates["hump"].get("middle: contradicted", 0.0) == 0
    for found in rates.values():
        for claim in TRUE_UNDER:
            verdicts = [rate for name, rate in found.items() if name.startswith(f"{claim}: ")]
            assert sum(verdicts) == pytest.approx(1)


def test_the_same_seed_gives_the_same_rates() -> None:
    one, again, other = (cell("hump", 8, 2, 60, 4, seed) for seed in (0, 0, 1))
    assert one == again
    assert one["coverage"] != other["coverage"]


def test_one_seed_has_no_stability_to_judge() -> None:
    found = cell("constant", 8, 1, 80, 3)
    assert not any(name.startswith("stability") for name in found)


def made_up(studies: int) -> pd.DataFrame:
    """Rates of two kinds of study under every truth, in place of the simulations."""
    assert studies == 7
    rows, index = [], []
    for seeds in (1, 3):
        for i, truth in enumerate(TRUTHS):
            row = {"coverage": 0.93 + 0.01 * i, "undefined": 0.02 * i, "middle: supported": 0.01 * (i + 1)}
            row |= {"stability: supported": 0.0} if seeds > 1 else {}
            rows.append(
                row
                | {"shape: supported": 0.5 if truth == "hump" else 0.04, "representation, unrelated: supported": 0.03}
            )
            index.append((truth, 8, seeds, 200))
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(index, names=INDEX))


def test_the_summary_ranges_over_truths_under_which_a_claim_is_false_and_true() -> None:
    one, three = summary(made_up(7)).to_dict("records")
    assert (three["layers"], three["seeds"], three["items"]) == (8, 3, 200)
    assert (three["coverage"], three["undefined"]) == ("0.930 … 0.980", "0.10")
    assert three["middle, false"] == "0.010 … 0.050"  # constant, high, monotone, short, cliff
    assert three["middle, power"] == "0.060"  # hump
    assert (three["shape, false"], three["shape, power"]) == ("0.040", "0.500")
    assert (three["representation, false"], three["convergence, false"]) == ("0.030", "–")
    assert three["stability, false"] == "0.000"
    assert one["stability, false"] == one["stability, power"] == "–"
    assert not [name for name in three if str(name).startswith("causal")], "it has the test of `representation`"


def test_the_table_is_printed_as_markdown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(calibration, "calibrate", made_up)
    monkeypatch.setattr("sys.argv", ["calibration", "7"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("7 simulated studies per truth and kind")
    assert "| layers | seeds | items | coverage | undefined |" in lines
    assert "| 8 | 3 | 200 | 0.930 … 0.980 | 0.10 |" in lines
    assert "| layers | seeds | items | middle, false | middle, power |" in lines
    assert "| 8 | 1 | 200 | 0.010 … 0.050 | 0.060 |" in lines
    for i, line in enumerate(lines):
        if line.startswith("| layers"):
            assert lines[i + 1] == "|---" * (line.count("|") - 1) + "|"
            assert [row.count("|") for row in lines[i + 2 : i + 4]] == [line.count("|")] * 2


def test_a_ninth_claim_is_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_study_folder: Path) -> None:
    """Verdicts on tables and studies, sentences, JSON, report and calibration take it from `CLAIMS` alone."""

    def last_is_highest(measured: Measurements) -> Finding:
        last = measured.gains.contrast(np.eye(len(measured.gains.mean))[-2])
        above, below = float(last.p_above()), float(last.p_below())
        return Finding("gain of the last layer", *last.interval(), above, below, note="a note of its own")

    ninth = Claim(
        "last layer",
        "The last layer gains.",
        "no gain",
        ("gains",),
        last_is_highest,
        (Trial(TRUTHS, rates=("power",)),),
    )
    monkeypatch.setattr(claims, "CLAIMS", (*CLAIMS, ninth))
    write_study(tmp_path / "hump", np.array([0.3, 0.5, 0.9, 1.0, 0.9, 0.5, 0.3]), 2)
    with open_study(tmp_path / "hump") as study:
        found = verdict(study)
    of_table = verdict(PUBLISHED)
    for judged in (found, of_table):
        assert [claim.name for claim in judged.claims] == [*(claim.name for claim in CLAIMS), "last layer"]
        (said,) = (sentence for sentence in judged.sentences() if "The last layer gains." in sentence)
        assert "Gain of the last layer: " in said
        assert said.endswith(" (Holm).")
        assert "a note of its own; null: no gain" in said
        assert judged.as_dict()["claims"][-1]["claim"] == "last layer"
    monkeypatch.setattr("lensrl.show.page.judge", lambda _: of_table)
    with open_study(small_study_folder) as study:
        page = write_report(study, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The last layer gains.<br>" in page
    assert "a note of its own; null: no gain" in page
    tested = [claim for claim in of_table.claims if not claim.reason]
    smallest = min(tested, key=lambda claim: min(claim.p_for, claim.p_against))
    assert smallest.p == pytest.approx(2 * min(smallest.p_for, smallest.p_against) * len(tested)), "Holm counts it"
    rates = cell("high", 8, 1, 80, 5)
    assert sum(rates[f"last layer: {name}"] for name in calibration.VERDICTS) == pytest.approx(1)
    table = pd.DataFrame([rates], index=pd.MultiIndex.from_tuples([("high", 8, 1, 80)], names=INDEX))
    assert summary(table)["last layer, power"].tolist() == [f"{rates['last layer: supported']:.3f}"]


def test_the_document_has_a_table_for_every_claim_that_is_tried() -> None:
    text = (Path(calibration.__file__).parent / "CALIBRATION.md").read_text(encoding="utf-8")
    for claim in CLAIMS:
        rates = [f"{claim.name}, {rate}" for trial in claim.trials for rate in trial.rates]
        assert not rates or f"| layers | seeds | items | {' | '.join(rates)} |" in text
        assert not rates or f"\n| {claim.name} | " in text

"""Simulated studies have the truth they say, and the claims on them are seldom wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lensrl import open_study, verdict, write_report
from lensrl.judge import calibration, claims, odd, simulation
from lensrl.judge.calibration import calibrate, main, summary
from lensrl.judge.claims import CLAIMS, Claim
from lensrl.judge.counting import VERDICTS, cell, sources
from lensrl.judge.findings import Finding
from lensrl.judge.measurements import Measurements
from lensrl.judge.simulation import BASE_SCORE, FULL_GAIN, TRUTHS, Trial, simulate
from lensrl.measures.gains import Gains
from tests.judge.test_verdict import PUBLISHED
from tests.judge.test_verdict_of_studies import write_study

STUDIES = 30
INDEX = ["truth", "layers", "seeds", "items"]
KINDS = {"constant": (8, 3, 200), "hump": (8, 3, 300), "cliff": (28, 0, 0), "few": (28, 0, 0), "rough": (28, 0, 0)}
PROFILE = np.array([0.2, 0.9, 0.5])
HUMPS = {"hump", "slow rise", "flat top", "slope"}


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
    return {truth: cell(truth, *kind, STUDIES) for truth, kind in KINDS.items()}


@pytest.mark.parametrize("truth", KINDS)
def test_no_claim_is_wrongly_supported_or_denied_and_intervals_cover(
    rates: dict[str, dict[str, float]], truth: str
) -> None:
    found = rates[truth]
    studies = round(STUDIES * (1 - found["undefined"]))
    assert studies >= 25
    assert found["coverage"] > 0.9
    for claim in CLAIMS:
        for trial in claim.trials:
            name = f"{claim.name}, {trial.name}" if trial.name else claim.name
            for wrong in ("false support", "false contradiction"):
                count = round(found.get(f"{name}: {wrong}", 0.0) * studies)
                assert stats.binomtest(count, studies, 0.06, alternative="greater").pvalue > 0.002, name
    assert stats.binomtest(round(found["family"] * studies), studies, 0.06, alternative="greater").pvalue > 0.002


def test_claims_have_the_power_to_decide(rates: dict[str, dict[str, float]]) -> None:
    assert rates["hump"]["middle: supported"] > 0.8
    assert rates["hump"]["shape: supported"] > 0.5
    assert rates["rough"]["representation, own trend: supported"] > 0.8
    assert rates["rough"]["causal, own trend: supported"] > 0.8
    assert rates["cliff"]["not size, r 0: supported"] > 0.6
    assert rates["rough"]["not size, r -0.95: contradicted"] > 0.5
    assert rates["constant"]["concentration: contradicted"] > 0.9


def test_verdicts_of_a_trial_are_all_of_its_studies(rates: dict[str, dict[str, float]]) -> None:
    for found in rates.values():
        for claim in CLAIMS:
            for trial in claim.trials:
                name = f"{claim.name}, {trial.name}" if trial.name else claim.name
                verdicts = [found[f"{name}: {v}"] for v in VERDICTS if f"{name}: {v}" in found]
                assert not verdicts or sum(verdicts) == pytest.approx(1)


@pytest.mark.parametrize("kind", odd.ODD[:2], ids=lambda kind: kind.name)
def test_odd_studies_are_counted(kind: odd.Odd) -> None:
    found = odd.odd_coverage(kind, 40)
    assert 0.85 < float(str(found["coverage"])) <= 1


def test_unequal_seeds_are_warned_of_and_a_barely_certain_gain_is() -> None:
    rng = np.random.default_rng(4)
    unequal = [
        Gains.from_items(simulate(PROFILE, 3, 300, rng, full_spread=10**0.5).gains, ["a"] * 300) for _ in range(20)
    ]
    equal = [Gains.from_items(simulate(PROFILE, 3, 300, rng).gains, ["a"] * 300) for _ in range(20)]
    warned = [
        sum("times as much as layers do" in " ".join(gains.warnings()) for gains in part) for part in (unequal, equal)
    ]
    assert warned[0] > 9 > 5 > warned[1]
    few = Gains.from_items(0.04 + 0.3 * rng.normal(size=(4, 1, 200)), ["a"] * 200)
    certainty = float(few.contrast(np.eye(4)[-1]).value / few.contrast(np.eye(4)[-1]).error)
    assert any("barely certain" in said for said in few.warnings()) == (certainty < 3.5)


def test_the_same_seed_gives_the_same_rates() -> None:
    one, again, other = (cell("hump", 8, 2, 60, 4, seed) for seed in (0, 0, 1))
    assert one == again
    assert one["coverage"] != other["coverage"]


def test_one_seed_has_no_stability_to_judge() -> None:
    found = cell("constant", 8, 1, 80, 3)
    assert not any(name.startswith("stability") for name in found)


def test_the_truth_of_a_shape_is_that_of_its_definition() -> None:
    shape = next(claim.trials[0] for claim in CLAIMS if claim.name == "shape")
    rng = np.random.default_rng(0)
    drawn = {n: {name: truth(np.arange(n) / (n - 1), rng) for name, truth in TRUTHS.items()} for n in (8, 28, 36)}
    true = {n: {name for name, profile in of_n.items() if shape.is_true(name, profile)} for n, of_n in drawn.items()}
    humps = HUMPS | {"few"}
    chance = {"drift", "rough"}
    assert true[28] - chance == true[36] - chance == humps
    assert true[8] - chance == humps | {"odd ends", "close humps"}, "an end is a fifth, and no valley lies between"


def test_a_run_that_was_stopped_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(calibration, "TRUTHS", ["constant", "hump"])
    monkeypatch.setattr(calibration, "BLOCK", 2)
    file, kinds = tmp_path / "new" / "counts.jsonl", [(8, 0, 0)]
    whole = calibrate(4, kinds, file=file)
    assert whole["studies"].tolist() == [4, 4]
    assert whole.loc[("hump", 8, 0, 0), "middle: power"] == pytest.approx(
        np.mean([cell("hump", 8, 0, 0, 2, block)["middle: power"] for block in range(2)])
    )
    lines = file.read_text().splitlines()
    assert len(lines) == 4
    other_code = lines[1].replace(sources(), "0" * 12)
    file.write_text("\n".join([lines[0], other_code, lines[2], lines[3][:-30]]))
    pd.testing.assert_frame_equal(calibrate(4, kinds, file=file), whole)
    again = file.read_text().splitlines()
    assert again[:4] == [lines[0], other_code, lines[2], lines[3][:-30]]
    assert sorted(again[4:]) == sorted([lines[1], lines[3]]), "only the blocks that were lost or are of other code"


def made_up(studies: int, *, file: Path) -> pd.DataFrame:
    """Rates of two kinds of study under every truth, in place of the simulations."""
    assert (studies, file) == (7, Path("counts"))
    rows, index = [], []
    for seeds in (1, 3):
        for i, truth in enumerate(TRUTHS):
            row = {"coverage": 0.9 + 0.001 * i, "undefined": 0.01 * i, "family": 0.001 * i, "studies": 7}
            # a claim is true or false under a truth: the other rates are missing
            row["middle: power" if truth in HUMPS else "middle: false support"] = 0.01 * i
            row |= {"stability: false support": 0.0} if seeds > 1 else {}
            rows.append(row | {"shape: power": 0.5 if truth == "hump" else 0.04})
            index.append((truth, 8, seeds, 200))
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(index, names=INDEX))


def test_the_summary_names_the_worst_truth_and_ranges_over_those_with_power() -> None:
    tables = summary(made_up(7, file=Path("counts")))
    assert list(tables) == ["", *(claim.name for claim in CLAIMS)]
    names = list(TRUTHS)
    overall = tables[""].to_dict("records")[1]
    assert (overall["layers"], overall["seeds"], overall["items"]) == (8, 3, 200)
    last = len(names) - 1
    assert overall["coverage"] == f"0.900 … {0.9 + 0.001 * last:.3f}"
    assert overall["family"] == f"{0.001 * last:.3f} ({names[-1]})"
    row = tables["middle"].to_dict("records")[1]
    false = [i for i, name in enumerate(names) if name not in HUMPS]
    true = [i for i, name in enumerate(names) if name in HUMPS]
    assert row["false support"] == f"{0.01 * false[-1]:.3f} ({names[false[-1]]})"
    assert row["power"] == f"{0.01 * true[0]:.3f} … {0.01 * true[-1]:.3f}"
    assert tables["shape"]["power"].tolist() == ["0.040 … 0.500"] * 2
    assert tables["stability"]["false support"].tolist()[:2] == ["–", "0.000"]


@pytest.mark.slow
def test_the_tables_are_printed_as_markdown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "calibrate", made_up)
    monkeypatch.setattr(calibration, "ODD", odd.ODD[:1])
    monkeypatch.setattr("sys.argv", ["calibration", "7", "counts"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert sources() in lines[0]
    assert "| layers | seeds | items | studies | coverage | undefined | family |" in lines
    assert f"### {CLAIMS[0].name}" in lines
    for i, line in enumerate(lines):
        if line.startswith("| layers"):
            assert lines[i + 1] == "|---" * (line.count("|") - 1) + "|"
            assert [row.count("|") for row in lines[i + 2 : i + 4]] == [line.count("|")] * 2


@pytest.mark.slow
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
        (Trial(TRUTHS),),
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
        assert "a note of its own; " in said
        assert "no gain" in said
        assert judged.as_dict()["claims"][-1]["claim"] == "last layer"
    monkeypatch.setattr("lensrl.show.sections.judge", lambda _: of_table)
    with open_study(small_study_folder) as study:
        page = write_report(study, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The last layer gains.<br>" in page
    assert "a note of its own; " in page
    tested = [claim for claim in of_table.claims if not claim.reason]
    smallest = min(tested, key=lambda claim: min(claim.p_for, claim.p_against))
    assert smallest.p == pytest.approx(2 * min(smallest.p_for, smallest.p_against) * len(tested)), "Holm counts it"
    rates = cell("high", 8, 1, 80, 5)
    assert sum(rates[f"last layer: {name}"] for name in VERDICTS) == pytest.approx(1)
    table = pd.DataFrame([rates], index=pd.MultiIndex.from_tuples([("high", 8, 1, 80)], names=INDEX))
    assert summary(table)["last layer"]["power"].tolist() == [f"{rates['last layer: supported']:.3f}"]


def test_the_document_has_a_table_for_every_claim_with_every_trial() -> None:
    text = (Path(calibration.__file__).parent / "CALIBRATION.md").read_text(encoding="utf-8")
    for claim in CLAIMS:
        assert f"\n### {claim.name}\n" in text
        for trial in claim.trials:
            assert f"| {trial.name or 'the study'} |" in text
    for kind in calibration.ODD:
        assert f"| {kind.name} |" in text

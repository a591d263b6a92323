"""Every claim where it is planted true, planted false, and where nobody could tell; and Holm's correction by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lensrl.judge.claims import CLAIMS
from lensrl.judge.evidence import concentration, middle, shape
from lensrl.judge.findings import Finding, judge
from lensrl.judge.measurements import Measurements
from lensrl.judge.relations import convergence
from lensrl.judge.simulation import TRUTHS, drifting
from lensrl.measures.gains import Gains, Interval
from lensrl.measures.halves import BestReach
from lensrl.measures.profile import thirds

NINE = np.arange(9)
HUMP = 0.2 + 0.8 * np.exp(-(((NINE - 4) / 1.3) ** 2) / 2)


def measured(contribution: np.ndarray, *, noise: float = 0.3, items: int = 400, seed: int = 0) -> Gains:
    """Gains over three seeds, of which full RL's is 0.4."""
    rng = np.random.default_rng(seed)
    mean = 0.4 * np.append(contribution, 1.0)[:, None, None]
    jitter = rng.normal(0, 0.01, (*mean.shape[:1], 3, 1))
    return Gains.from_items(mean + jitter + rng.normal(0, noise, (len(mean), 3, items)), ["only"] * items)


def verdict(claim: Finding) -> str:
    return judge([claim])[0].verdict


def given(name: str, p_for: float, p_against: float) -> Finding:
    return Finding("a measure", 0.0, p_for=p_for, p_against=p_against, name=name)


def test_holms_correction_by_hand() -> None:
    """Two-sided 0.008, 0.03, 0.016, 0.8; times 4, 3, 2, 1 from the smallest up, never falling."""
    claims = [
        given("middle", 0.004, 0.996),
        given("shape", 0.985, 0.015),
        Finding(reason="not measured", name="causal"),
        given("not size", 0.992, 0.008),
        given("stability", 0.4, 0.6),
    ]
    judged = judge(claims)
    assert [c.p for c in judged] == pytest.approx([0.032, 0.06, math.nan, 0.048, 0.8], nan_ok=True)
    assert [c.verdict for c in judged] == [
        "supported",
        "undetermined",
        "undetermined",
        "contradicted",
        "undetermined",
    ]
    assert [c.name for c in judged] == [c.name for c in claims]


def test_a_corrected_p_never_falls_below_a_smaller_one_and_never_exceeds_one() -> None:
    judged = judge([given("middle", 0.01, 0.99), given("shape", 0.0101, 0.99), given("causal", 0.7, 0.7)])
    assert [c.p for c in judged] == pytest.approx([0.06, 0.06, 1.0])


def test_a_claim_without_evidence_is_undetermined_and_costs_the_others_nothing() -> None:
    one = given("middle", 0.02, 0.98)
    alone, *none = judge([one, Finding(reason="no grafts"), Finding(reason="one seed")])
    assert (alone.p, alone.verdict) == (pytest.approx(0.04), "supported")
    assert [(c.verdict, math.isnan(c.p)) for c in none] == [("undetermined", True)] * 2


def test_every_claim_has_a_name_needs_that_are_measurements_and_trials_that_are_truths() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        needs = [name for need in claim.needs for name in ((need,) if isinstance(need, str) else need)]
        assert {*needs} <= Measurements.__dataclass_fields__.keys()
        for trial in claim.trials:
            true = set() if callable(trial.true_under) else {*trial.true_under}
            assert {*true, *trial.either, *trial.only} <= TRUTHS.keys()
            assert not true & {*trial.either}
        assert claim.statement.endswith(".")
        assert claim.null


def test_a_claim_without_a_measurement_gives_the_reason_and_takes_its_own_words() -> None:
    profile = Measurements(NINE, 9, measured(HUMP), missing={"halves": "no seeds", "sizes": "no deltas"})
    found = {claim.name: claim.find(profile) for claim in CLAIMS}
    for claim in CLAIMS:
        assert (found[claim.name].name, found[claim.name].statement) == (claim.name, claim.statement)
    assert found["not size"].reason == "no deltas"
    assert found["stability"].reason == "no seeds"
    assert found["causal"].reason == "not measured"
    assert found["middle"].reason == ""


def test_one_wording_says_value_interval_note_and_the_hypothesis_that_was_rejected() -> None:
    found = Finding("a measure", -0.001, -0.5, 0.25, 0.001, 0.9, note="a note", statement="S.", null="nothing",
                    counter="something")  # fmt: skip
    (supported,) = judge([found])
    assert supported.evidence() == "a measure: 0.00 [-0.50, 0.25]; a note; rejected: nothing"
    assert supported.sentence() == (
        "Supported: S. A measure: 0.00 [-0.50, 0.25]; a note; rejected: nothing; p = 0.002 (Holm)."
    )
    (contradicted,) = judge([replace(found, p_for=0.9, p_against=0.001)])
    assert contradicted.evidence().endswith("; rejected: something")
    (open_,) = judge([replace(found, p_for=0.4)])
    assert open_.evidence().endswith("; rejected: neither 'nothing' nor 'something'")
    place = Finding("peak at layer", 13.04, 9.0, 17.0, null="a step", at_layer=True)
    assert place.evidence() == "peak at layer 13 [9, 17]; not rejected: a step"
    assert Finding(reason="one seed", statement="S.").sentence() == "Undetermined: S. Not tested: one seed."


def reached(p: float, contribution: float = 1.0) -> BestReach:
    return BestReach(0, contribution, p)


def test_few_layers_carry_the_gain_or_most_do_or_nobody_can_tell() -> None:
    few = concentration(measured(np.where(NINE < 2, 1.1, 0.1), noise=0.1), reached(0.001, 1.1))
    assert verdict(few) == "supported"
    assert few.value == pytest.approx(2.9**2 / (2 * 1.21 + 7 * 0.01), rel=0.1)
    assert few.low < few.value < few.high < 4.5
    assert "the best layer, chosen on a third of items and seeds, recovers 1.10 on the rest" in few.note
    alone = concentration(
        Gains.with_errors(np.where(DEPTH < 2, 1.1, 0.1), np.full(28, 0.05))
    )  # without items: by the highest of all layers
    assert verdict(alone) == "supported"
    assert "the highest C_l is 1.1" in alone.note
    most = concentration(measured(np.where(NINE < 8, 1.1, 0.4)), reached(0.001))
    assert verdict(most) == "contradicted"
    assert most.counter == "the effective number is half of the layers or less"
    assert most.low > 4.5


def test_one_condition_that_fails_is_enough_against_a_concentration() -> None:
    none = concentration(measured(np.where(NINE < 2, 0.6, 0.02), noise=0.1), reached(0.9, 0.6))
    assert none.high < 4.5, "few layers carry what there is"
    assert (verdict(none), none.counter) == ("contradicted", "some layer recovers 0.8 or more")
    equal = concentration(measured(np.full(9, 0.2), noise=0.1), reached(0.99, 0.2))
    assert verdict(equal) == "contradicted"
    short = concentration(measured(np.where(NINE < 2, 0.85, 0.1), noise=0.1), reached(0.3, 0.85))
    assert verdict(short) == "undetermined"


def test_a_mean_approach_is_no_more_certain_than_layers_are_independent() -> None:
    """Around 0 and drifting over depth: its interval holds 0 nearly as often as it says."""
    rng = np.random.default_rng(0)

    def covered(approaches: list[np.ndarray]) -> float:
        claims = [convergence(np.arange(28), rng.normal(size=28), approach) for approach in approaches]
        means = [claim.details["mean approach"] for claim in claims]
        return float(np.mean([isinstance(mean, Interval) and 0.0 in mean for mean in means]))

    approaches = [drifting(28, rng) for _ in range(400)]
    assert covered(approaches) > 0.88  # 0.67 with layers taken for independent
    independent = [rng.normal(size=28) for _ in range(400)]
    assert covered(independent) == pytest.approx(0.95, abs=0.035)


def test_the_middle_third_recovers_more_or_less_or_nobody_can_tell() -> None:
    hump = middle(measured(HUMP), NINE, 9)
    assert verdict(hump) == "supported"
    means = [HUMP[:3].mean(), HUMP[3:6].mean(), HUMP[6:].mean()]
    assert [hump.details[name] for name in ("first", "middle", "last")] == pytest.approx(means, abs=0.05)
    assert hump.low < means[1] - max(means[0], means[2]) < hump.high
    assert hump.low > 0
    dip = middle(measured(1.2 - HUMP), NINE, 9)
    assert (verdict(dip), dip.high < 0) == ("contradicted", True)
    flat = middle(measured(np.full(9, 0.7)), NINE, 9)
    assert verdict(flat) == "undetermined"
    assert flat.low < 0 < flat.high


def test_more_than_one_third_is_not_enough_for_the_middle() -> None:
    cliff = middle(measured(np.where(NINE < 6, 0.9, 0.3)), NINE, 9)
    assert verdict(cliff) == "undetermined"
    assert cliff.p_for > 0.05
    rise = middle(measured(0.1 + 0.1 * NINE), NINE, 9)  # over the first, but under the last
    assert (verdict(rise), rise.value) == ("contradicted", pytest.approx(-0.3, abs=0.05))


def test_the_outer_thirds_of_depth_are_of_one_size() -> None:
    assert [part.sum() for part in thirds(np.arange(28), 28)] == [9, 10, 9]
    assert [part.sum() for part in thirds(np.arange(8), 8)] == [3, 2, 3]
    for n_layers in range(3, 100):
        first, mid, last = thirds(np.arange(n_layers), n_layers)
        assert (first | mid | last).all()
        assert np.array_equal(first, last[::-1])
        assert max(first.sum(), mid.sum()) - min(first.sum(), mid.sum()) <= 1
    first, mid, last = thirds(np.array([0, 9, 10, 27]), 28)
    assert (first.tolist(), mid.tolist(), last.tolist()) == (
        [True, False, False, False],
        [False, True, True, False],
        [False, False, False, True],
    )


def test_a_third_without_layers_leaves_the_middle_open() -> None:
    claim = middle(measured(np.full(4, 0.5)), np.arange(4), 9)
    assert claim.reason == "a third of depth has no layer with a contribution"


def table(profile: np.ndarray, noise: float, seed: int = 0) -> Gains:
    return Gains.from_profile(profile + np.random.default_rng(seed).normal(0, noise, len(profile)))


DEPTH = np.arange(28)
WIDE_HUMP = 0.3 + 0.6 * np.exp(-(((DEPTH - 13) / 4) ** 2) / 2)


def test_a_hump_rises_and_falls_a_rise_does_not_and_a_constant_tells_nothing() -> None:
    hump = shape(table(WIDE_HUMP, 0.06), DEPTH)
    assert verdict(hump) == "supported"
    rise, fall = hump.details["rise"], hump.details["fall"]
    assert isinstance(rise, Interval)
    assert isinstance(fall, Interval)
    assert hump.value == min(rise.value, fall.value)
    assert hump.note.startswith(f"rise {rise.value:.2f} [")
    rises = shape(table(0.2 + 0.03 * DEPTH, 0.04), DEPTH)
    assert (verdict(rises), rises.counter) == ("contradicted", "a fall of 0.05 or more")
    falls = shape(table(1.0 - 0.03 * DEPTH, 0.04), DEPTH)
    assert (verdict(falls), falls.counter) == ("contradicted", "a rise of 0.05 or more")
    assert verdict(shape(table(np.full(28, 0.7), 0.06, seed=1), DEPTH)) == "undetermined"
    few = shape(Gains.exactly(np.arange(5.0)), np.arange(5))
    assert few.reason == "5 layers have a contribution: a rise and a fall need at least 6"

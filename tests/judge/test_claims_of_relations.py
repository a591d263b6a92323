"""Claims on relations and stability: size, predictors, convergence, seeds and other studies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensrl.judge.evidence import stability
from lensrl.judge.measurements import PairedProfiles
from lensrl.judge.relations import control, convergence, not_size, tracks
from lensrl.judge.simulation import drifting
from lensrl.judge.verdict import verdict as judge
from tests.judge.test_claims import DEPTH, NINE, verdict


def drawn(seed: int, n: int = 28) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


C = 0.6 + 0.2 * drawn(0)


def test_c_l_that_is_size_or_is_not_or_may_be() -> None:
    for sign in (1, -1):  # a size that goes the other way explains as much
        size = not_size(C, {"full": sign * C + 0.05 * drawn(1), "single": drawn(2)})
        assert (verdict(size), size.value > 0.8) == ("contradicted", True)  # one size that explains it is enough
        assert size.counter == '"full" explains half of the variance or less'
    apart = not_size(C, {"full": drawn(3), "single": drawn(2)})
    assert verdict(apart) == "supported"
    assert apart.high < 0.5
    half = not_size(C[:8], {"full": C[:8] + 0.3 * drawn(4)[:8]})
    assert verdict(half) == "undetermined"
    unsure = not_size(C, {"full": drawn(3), "single": drawn(2)}, reliability=0.05)
    assert verdict(unsure) == "undetermined", "C_l is nearly all error: what it hides cannot be told"
    unsure = not_size(C, {"full": drawn(3), "single": drawn(2)}, of_sizes={"full": 0.05})
    assert verdict(unsure) == "undetermined", "and so where a size is nearly all error"


def test_a_size_that_explains_c_l_through_depth_is_not_ruled_out() -> None:
    falling = 1 - 0.03 * DEPTH
    claim = not_size(falling + 0.02 * drawn(5), {"full": falling + 0.02 * drawn(6)})
    assert claim.p_for > 0.5
    assert verdict(claim) != "supported"


def test_predictors_go_with_c_l_all_of_them_or_not() -> None:
    related, also, unrelated = C + 0.05 * drawn(7), C + 0.1 * drawn(8), drawn(9)
    assert verdict(tracks(DEPTH, C, {"growth": related})) == "supported"
    both = tracks(DEPTH, C, {"sufficiency": related, "necessity": also})
    assert verdict(both) == "supported"
    assert both.measure.startswith("smallest correlation, ")
    assert "no rival was measured" in both.note
    one = tracks(DEPTH, C, {"sufficiency": related, "necessity": unrelated})
    assert verdict(one) == "undetermined"
    assert one.value == pytest.approx(tracks(DEPTH, C, {"necessity": unrelated}).value)
    opposite = tracks(DEPTH, C, {"sufficiency": related, "necessity": -also})
    assert (verdict(opposite), opposite.high < 0) == ("contradicted", True)
    assert verdict(tracks(DEPTH, C, {"growth": unrelated})) == "undetermined"


def test_a_relation_in_a_verdict_is_plain_values_in_json() -> None:
    relation = tracks(DEPTH, C, {"growth": C + 0.05 * drawn(7)}, rivals={"norms": drawn(9)})
    whole = judge(Path(__file__).parents[2] / "runs" / "published" / "qwen3-1.7b-grpo-math.csv")
    claims = [replace(whole.claims[0], details=relation.details), *whole.claims[1:]]
    (of_growth,) = json.loads(json.dumps(replace(whole, claims=claims).as_dict()))["claims"][0]["details"].values()
    assert of_growth["rival"] == "norms"
    assert of_growth["beyond"]["coefficient"] == relation.value
    assert of_growth["given"].keys() == of_growth["beyond"].keys()


def test_what_depth_explains_does_not_track() -> None:
    trend = 0.9 - 0.02 * DEPTH
    claim = tracks(DEPTH, trend + 0.05 * drawn(10), {"growth": trend + 0.05 * drawn(11)})
    assert verdict(claim) == "undetermined"
    assert np.corrcoef(trend + 0.05 * drawn(10), trend + 0.05 * drawn(11))[0, 1] > 0.9


def test_a_relation_survives_the_rival_that_hurts_it_most_and_names_it() -> None:
    rival, own = drawn(30), drawn(31)
    c = 0.6 + 0.1 * rival + 0.1 * own
    rivals = {"bypass": rival + 0.1 * drawn(32), "gradient": drawn(33)}
    taken = tracks(DEPTH, c, {"growth": rival + 0.2 * drawn(34)}, rivals=rivals)
    assert verdict(tracks(DEPTH, c, {"growth": rival + 0.2 * drawn(34)})) == "supported"
    assert verdict(taken) == "undetermined"
    assert "given bypass, the rival that hurts most" in taken.note
    kept = [tracks(DEPTH, c, {"growth": own + 0.2 * drawn(seed)}, rivals=rivals) for seed in range(40, 50)]
    assert [verdict(found) for found in kept].count("supported") >= 7
    itself = control(DEPTH, rival, c, {"bypass": rival})
    assert (itself.rival, itself.p_above, itself.p_below) == ("bypass", 1.0, 1.0)
    assert (
        "bypass, the rival that hurts most, leaves nothing"
        in tracks(DEPTH, c, {"x": rival}, rivals={"bypass": rival}).note
    )


def test_a_predictor_without_enough_layers_gives_the_reason() -> None:
    known = np.where(DEPTH < 6, C, np.nan)
    reason = "growth: 6 layers with both values: beyond a trend in depth at least 24 are needed"
    assert tracks(DEPTH, C, {"growth": known}).reason == reason
    few = np.where(DEPTH < 5, C, np.nan)
    assert (
        not_size(C, {"full": drawn(1), "alone": few}).reason
        == "alone: 5 layers with both values: at least 6 are needed"
    )
    assert convergence(DEPTH, C, np.where(DEPTH < 2, C, np.nan)).reason.startswith("approach: 2 layers")


def test_convergence_needs_an_approach_and_its_relation() -> None:
    with_c = 0.4 + C - C.mean() + 0.03 * drawn(12)
    near = convergence(DEPTH, C, with_c)
    assert verdict(near) == "supported"
    mean = near.details["mean approach"]
    assert mean == pytest.approx((with_c.mean(), *np.array(mean)[1:]))
    away = convergence(DEPTH, C, with_c - 0.9)  # the relation holds, but on average layers lead away
    assert verdict(away) == "contradicted"
    alone = convergence(DEPTH, C, 0.4 + 0.1 * drawn(13))  # all approach, whatever their contribution
    assert verdict(alone) == "undetermined"
    backwards = convergence(DEPTH, C, 0.4 - (C - C.mean()) + 0.03 * drawn(12))
    assert verdict(backwards) == "contradicted"


def test_seeds_that_agree_beyond_a_step_or_do_not() -> None:
    step, rng = np.where(NINE < 5, 0.9, 0.4), np.random.default_rng(1)
    wiggle = np.array([0.3, -0.2, 0.1, -0.3, 0.1, 0.2, -0.2, 0.25, -0.25])
    alike = step[:, None] + wiggle[:, None] + rng.normal(0, 0.03, (2, 9, 3))
    claim = stability(alike)
    assert (verdict(claim), claim.value > 0.5) == ("supported", True)
    found = []
    for _ in range(40):
        unlike = step[:, None] + rng.normal(0, 0.1, (1, 9, 3)) + rng.normal(0, 0.03, (2, 9, 3))
        found.append(verdict(stability(unlike)))
    assert found.count("supported") <= 4, "one in forty is what chance gives"
    assert stability(alike[:, :5]).reason == "fewer than 6 layers with every seed"


DEEP = (DEPTH + 0.5) / 28
WIGGLE = 0.15 * drawn(20)


def of_seeds(profile: np.ndarray, seeds: int = 3) -> np.ndarray:
    rng = np.random.default_rng(21)
    return profile[:, None] + rng.normal(0, 0.03, (1, 28, seeds)) + rng.normal(0, 0.03, (2, 28, seeds))


def test_the_ranking_holds_across_studies_or_turns_around_or_nobody_can_tell() -> None:
    step = np.where(DEPTH < 18, 0.9, 0.4)
    mine, halves = step + WIGGLE, of_seeds(step + WIGGLE)
    alike = PairedProfiles(DEEP, mine, 0.5 + 0.3 * DEEP + WIGGLE + 0.03 * drawn(22))
    claim = stability(halves, {"other": alike})
    assert (verdict(claim), claim.measure) == (
        "supported",
        "smallest correlation between studies beyond a trend in depth",
    )
    assert claim.low > 0.5
    opposed = PairedProfiles(DEEP, mine, step - WIGGLE + 0.03 * drawn(22))
    claim = stability(halves, {"alike": alike, "opposed": opposed})  # one that disagrees is enough
    assert (verdict(claim), claim.high < 0) == ("contradicted", True)
    assert list(claim.details) == ["alike", "opposed", "between seeds beyond a step", "chance"]
    unlike = PairedProfiles(DEEP, mine, step + 0.15 * drawn(23))
    assert verdict(stability(halves, {"alike": alike, "unlike": unlike})) == "undetermined"


def test_seeds_that_do_not_agree_are_not_made_up_for_by_another_study() -> None:
    rng = np.random.default_rng(24)
    halves = 0.6 + rng.normal(0, 0.1, (1, 28, 3)) + rng.normal(0, 0.03, (2, 28, 3))
    mine = halves.mean(axis=(0, 2))
    claim = stability(halves, {"other": PairedProfiles(DEEP, mine, mine + 0.02 * drawn(25))})
    assert (claim.value > 0.8, verdict(claim)) == (True, "undetermined")


def test_one_seed_or_a_table_has_other_studies_to_agree_with() -> None:
    beside = {"other": PairedProfiles(DEEP, WIGGLE, WIGGLE + 0.03 * drawn(26))}
    for halves in (of_seeds(WIGGLE, 1), None):
        claim = stability(halves, beside)
        assert verdict(claim) == "supported"
        assert claim.measure.endswith("; seeds are not compared")
    few = {"other": PairedProfiles(DEEP[:6], WIGGLE[:6], WIGGLE[:6])}
    assert (
        stability(None, few).reason
        == "other: 6 layers with both values: beyond a trend in depth at least 24 are needed"
    )


@pytest.mark.parametrize("n", [28, 36])
@pytest.mark.parametrize("kind", ["step", "trend"])
def test_studies_that_share_a_step_or_a_trend_and_nothing_else_seldom_agree(kind: str, n: int) -> None:
    rng, depth = np.random.default_rng([27, n]), (np.arange(n) + 0.5) / n
    shared = np.where(depth < 0.66, 0.95, 0.4) if kind == "step" else 0.25 + 0.7 * depth
    supported, raw = 0, []
    for _ in range(100):
        one, other = (shared + 0.06 * drifting(n, rng) for _ in range(2))
        supported += verdict(stability(None, {"other": PairedProfiles(depth, one, other)})) == "supported"
        raw.append(np.corrcoef(one, other)[0, 1])
    assert np.mean(raw) > 0.8
    assert supported <= 8

"""A rise and a fall over depth: planted shapes are judged, what is none seldom passes for one, and units do not matter.

At full length (`make calibrate`) the rates stand in `lensrl/judge/CALIBRATION.md`.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from lensrl.measures.rise_and_fall import LEAST, rise_and_fall

DEEP = np.arange(28)
X = DEEP / 27
CAREFUL = 0.025


def bell(peak: float, width: float, x: np.ndarray = X) -> np.ndarray:
    return np.exp(-(((x - peak) / width) ** 2) / 2)


HUMPS = {
    "symmetric": 0.3 + 0.65 * bell(0.5, 0.17),
    "slow rise": 0.3 + 0.65 * np.where(X < 0.65, bell(0.65, 0.3), bell(0.65, 0.1)),
    "flat top": 0.35 + 0.6 * ((X > 0.2) & (X < 0.7)),
    "slope": 0.2 + 0.3 * X + 0.5 * bell(0.5, 0.15),
    "published, asymmetric": np.interp(DEEP, [0, 15, 20, 27], [0.84, 0.96, 0.36, 0.36]),
}
OTHERS = {
    "constant": np.full(28, 0.7),
    "rise": 0.25 + 0.7 * X,
    "sigmoid": 0.95 - 0.6 * expit((X - 0.65) / 0.06),
    "cliff": np.where(X < 0.66, 0.95, 0.4),
    "dip": 0.9 - 0.5 * bell(0.5, 0.17),
    "two humps": 0.3 + 0.6 * (bell(0.22, 0.08) + bell(0.78, 0.08)),
}


def rates(truth: np.ndarray, noise: float, studies: int = 50, memory: float = 0.0) -> tuple[float, float]:
    """How often the claim is supported and contradicted."""
    rng, found = np.random.default_rng(len(truth)), []
    for _ in range(studies):
        errors = rng.normal(size=len(truth))
        for layer in range(1, len(truth)):
            errors[layer] = memory * errors[layer - 1] + np.sqrt(1 - memory**2) * errors[layer]
        found.append(rise_and_fall(np.arange(len(truth)), truth + noise * errors))
    return float(np.mean([f.p_for < CAREFUL for f in found])), float(np.mean([f.p_against < CAREFUL for f in found]))


@pytest.mark.parametrize("name", HUMPS)
def test_a_hump_of_any_form_is_never_contradicted(name: str) -> None:
    supported, contradicted = rates(HUMPS[name], 0.08)
    assert contradicted <= 0.06
    if name in ("symmetric", "flat top", "slow rise"):
        assert supported > 0.6


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("noise", [0.05, 0.12])
def test_a_one_way_fall_a_dip_and_two_humps_are_no_hump(name: str, noise: float) -> None:
    supported, contradicted = rates(OTHERS[name], noise)
    assert supported <= 0.06
    if name == "rise" and noise == 0.05:
        assert contradicted > 0.6


@pytest.mark.parametrize("memory", [0.6, 0.9])
def test_errors_that_drift_make_neither(memory: float) -> None:
    supported, contradicted = rates(OTHERS["constant"], 0.1, 80, memory)
    assert supported <= 0.06
    assert contradicted <= 0.06


def test_rise_and_fall_hold_the_truth_and_their_place() -> None:
    rng, truth, held = np.random.default_rng(0), HUMPS["symmetric"], 0
    blocks = [truth[i : i + 6].mean() for i in range(23)]
    largest = max(blocks) - blocks[0]
    for _ in range(40):
        found = rise_and_fall(DEEP, truth + rng.normal(0, 0.06, 28))
        held += found.rise.low < largest < found.rise.high
        held += found.fall.low < largest < found.fall.high
        assert 8 <= found.top[0] <= found.top[1] <= 19
    assert held >= 74


def test_an_error_that_is_known_widens_and_one_that_is_given_replaces() -> None:
    profile = HUMPS["symmetric"] + np.random.default_rng(1).normal(0, 0.03, 28)
    plain, wide = rise_and_fall(DEEP, profile), rise_and_fall(DEEP, profile, error=0.3)
    assert wide.scatter == 0.3
    assert wide.rise.high - wide.rise.low > 3 * (plain.rise.high - plain.rise.low)
    assert wide.p_for > 0.1 > CAREFUL > plain.p_for
    assert rise_and_fall(DEEP, profile, scatter=0.2).scatter == 0.2


def test_a_profile_turned_around_has_its_rise_and_fall_exchanged() -> None:
    profile = HUMPS["slow rise"] + np.random.default_rng(2).normal(0, 0.05, 28)
    one, other = rise_and_fall(DEEP, profile), rise_and_fall(DEEP, profile[::-1])
    assert one.rise.value == pytest.approx(other.fall.value)
    assert one.fall.value == pytest.approx(other.rise.value)
    assert one.scatter == pytest.approx(other.scatter)


def test_a_shift_changes_nothing_and_layers_only_name_the_place() -> None:
    profile = HUMPS["flat top"] + np.random.default_rng(3).normal(0, 0.05, 28)
    one, other = rise_and_fall(DEEP, profile), rise_and_fall(2 * DEEP, profile + 5)
    assert one.p_for == pytest.approx(other.p_for)
    assert one.rise == pytest.approx(other.rise)
    assert (2 * one.top[0], 2 * one.top[1]) == other.top


def test_a_profile_without_noise_is_judged_by_the_least_change() -> None:
    assert rise_and_fall(DEEP, 0.5 + 1.2 * LEAST * bell(0.5, 0.2)).p_for > CAREFUL, "its stretches differ by less"
    assert rise_and_fall(DEEP, 0.5 + 4 * LEAST * bell(0.5, 0.2)).p_for < CAREFUL
    assert rise_and_fall(DEEP, np.full(28, 0.7)).p_against < CAREFUL


def test_five_layers_are_too_few() -> None:
    with pytest.raises(ValueError, match="5 layers: a rise and a fall need at least 6"):
        rise_and_fall(np.arange(5), np.arange(5.0))

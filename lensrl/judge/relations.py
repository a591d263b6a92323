"""The tests of the claims about relations between C_l and other measures of the layers.

A relation that a trend in depth explains, or a rival, is none: see `lensrl.measures.trend`. Rivals are baselines that
are known before RL. Each rival is controlled for by itself, together with depth. A claim must survive the rival that
hurts it most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lensrl.compare.predictors import PREDICTORS
from lensrl.judge.findings import Finding, numbers
from lensrl.judge.measurements import Predictors
from lensrl.measures.correlation import explained_share
from lensrl.measures.gains import Estimate, Interval
from lensrl.measures.trend import Detrended, correlate_detrended, effective_size

NO_RIVALS: Predictors = {}
NO_ERRORS: Mapping[str, float] = {}


@dataclass(frozen=True)
class Controlled:
    """The relation of a predictor with C_l beyond depth, and given depth and the rival that hurts it most.

    `rival` is the name of that rival; `given` is the correlation given depth and this rival. Without rivals, `rival` is
    empty and `given` is `beyond`. `p_above` and `p_below` are the largest p, with no rival and with each of them.
    """

    beyond: Detrended
    rival: str
    given: Detrended
    p_above: float
    p_below: float


def control(
    layers: np.ndarray, x: Float[np.ndarray, " layer"], y: Float[np.ndarray, " layer"], rivals: Predictors = NO_RIVALS
) -> Controlled:
    """Correlate x with y beyond depth, and given depth and each rival.

    The rival that hurts most leaves the correlation that is nearest to 0, or of the other sign. A rival that leaves
    nothing of x or of y explains it wholly: the p are then 1.
    """
    beyond = correlate_detrended(layers, x, y)
    sign = math.copysign(1.0, beyond.coefficient)
    given = {name: correlate_detrended(layers, x, y, given=rival) for name, rival in rivals.items()}
    if beyond.reason or not given:
        return Controlled(beyond, "", beyond, beyond.p_above, beyond.p_below)

    def left(name: str) -> float:
        return -2.0 if given[name].reason else sign * given[name].coefficient

    worst = min(given, key=left)
    all_of_them = (beyond, *given.values())
    return Controlled(
        beyond,
        worst,
        given[worst],
        p_above=max(1.0 if result.reason else result.p_above for result in all_of_them),
        p_below=max(1.0 if result.reason else result.p_below for result in all_of_them),
    )


def not_size(
    contribution: Float[np.ndarray, " layer"],
    sizes: Predictors,
    *,
    reliability: float = 1.0,
    of_sizes: Mapping[str, float] = NO_ERRORS,
) -> Finding:
    """Test that no measure of how much a layer moved explains half of C_l's variance, whatever the sign.

    Both sides are about the same number, the explained share r^2 (`explained_share`). For the claim: every measure
    explains less than half. Against it: one measure explains more than half. `reliability` is that of C_l, and
    `of_sizes` holds those of the sizes, by name; 1 where none is known.
    """
    found = {
        name: explained_share(x, contribution, reliability=reliability, reliability_of_x=of_sizes.get(name, 1.0))
        for name, x in sizes.items()
    }
    undefined = next((f"{name}: {result.reason}" for name, result in found.items() if result.reason), "")
    if undefined:
        return Finding(reason=undefined)
    most = max(found, key=lambda name: found[name].share)
    against = min(found, key=lambda name: found[name].p_half_or_less)
    return Finding(
        measure="largest explained share",
        value=found[most].share,
        low=found[most].low,
        high=found[most].high,
        p_for=max(result.p_half_or_more for result in found.values()),
        p_against=min(1.0, len(found) * found[against].p_half_or_less),
        note=f"by {_named(most)}, r {found[most].correlation:.2f}",
        counter=f"{_named(against)} explains half of the variance or less",
        details=dict(found),
    )


def _named(predictor: str) -> str:
    """Return a predictor as the tables of predictors name it, in quotation marks."""
    return f'"{PREDICTORS.get(predictor, predictor)}"'


def tracks(
    layers: np.ndarray,
    contribution: Float[np.ndarray, " layer"],
    predictors: Predictors,
    *,
    rivals: Predictors = NO_RIVALS,
    p_second_condition: float | None = None,
    p_against_second_condition: float = 1.0,
    second_counter: str = "",
    details: Mapping[str, object] | None = None,
) -> Finding:
    """Test that every predictor has a positive correlation with C_l beyond depth, and given depth and each rival.

    `p_second_condition` and `p_against_second_condition` are p for and against a second condition that must also hold
    (convergence: the mean approach is above 0). `second_counter` is the hypothesis that the latter rejects.
    """
    found = {label: control(layers, x, contribution, rivals) for label, x in predictors.items()}
    undefined = next(
        (f"{label}: {result.beyond.reason}" for label, result in found.items() if result.beyond.reason), ""
    )
    if undefined:
        return Finding(reason=undefined)
    least = min(found, key=lambda label: found[label].beyond.coefficient)
    against = {f"a correlation of {label} with C_l of 0 or more": result.p_below for label, result in found.items()}
    against |= {} if p_second_condition is None else {second_counter: p_against_second_condition}
    counter = min(against, key=lambda name: against[name])
    shown = found[least]
    return Finding(
        measure=f"{'correlation' if len(found) == 1 else f'smallest correlation, {least},'} beyond a trend in depth",
        value=shown.beyond.coefficient,
        low=shown.beyond.low,
        high=shown.beyond.high,
        p_for=max(p_second_condition or 0.0, *(result.p_above for result in found.values())),
        p_against=min(1.0, len(against) * against[counter]),
        note=f"{_rival(shown)}; {shown.beyond.with_ends:.2f} with the end layers kept",
        counter=counter,
        details={**(details or {}), **found},
    )


def convergence(
    layers: np.ndarray,
    contribution: Float[np.ndarray, " layer"],
    approach: Float[np.ndarray, " layer"],
    *,
    rivals: Predictors = NO_RIVALS,
) -> Finding:
    """Test that the approach to full RL's representations is above 0 on average, and correlates with C_l.

    approach_l = 1 - (sum over sites from l on of 1 - CKA(layer-l, full)) / (the same sum for the base)

    The error of the mean over layers allows for the resemblance of neighbouring layers (`effective_size`).
    """
    known = approach[np.isfinite(approach)]
    if len(known) < 3:
        return tracks(layers, contribution, {"approach": approach})  # gives the reason
    n = effective_size(known)
    error = float(known.std(ddof=1)) / math.sqrt(n)
    mean = Estimate(np.asarray(known.mean()), np.asarray(error), np.asarray(max(n - 1.0, 1.0)))
    return tracks(
        layers,
        contribution,
        {"approach": approach},
        rivals=rivals,
        p_second_condition=float(mean.p_above()),
        p_against_second_condition=float(mean.p_below()),
        second_counter="a mean approach of 0 or more",
        details={"mean approach": mean.interval()},
    )


def _rival(found: Controlled) -> str:
    """Say in words what the rival that hurts most leaves."""
    if not found.rival:
        return "no rival was measured"
    if found.given.reason:
        return f"{found.rival}, the rival that hurts most, leaves nothing"
    left = numbers(Interval(found.given.coefficient, found.given.low, found.given.high))
    return f"{left} given {found.rival}, the rival that hurts most"

"""The tests of the claims: from arrays to a finding with the evidence for and against a claim.

A claim with several conditions needs all of them: its `p_for` is the largest (Berger 1982). One condition that fails is
enough against it: its `p_against` is the smallest, times their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from lensrl.judge.findings import LEVEL, Finding
from lensrl.judge.measurements import PairedProfiles, Predictors
from lensrl.measures.correlation import Detrended, correlate_detrended, effective_size
from lensrl.measures.gains import Estimate, Gains
from lensrl.measures.profile import gini, gini_of_equals, partial_conjunction, seed_agreement, simes, thirds
from lensrl.measures.shapes import FEWEST_LAYERS, ShapeTest

MOST = 0.8  # of full RL's gain: a layer above it carries the gain alone
HALF = math.sqrt(0.5)  # the correlation that explains half of the variance


def concentration(gains: Gains) -> Finding:
    """Test that few layers carry the gain, from the gains of the layers and, last, of full RL.

    The measure is the share of layers with C_l >= 0.8. Its interval comes from simultaneous (Bonferroni) intervals of
    all layers. Three conditions speak for the claim. Some layer lies above 0.8 (Simes 1986,
    doi:10.1093/biomet/73.3.751). Some layer differs from the mean of all layers (smallest p times their number). More
    than half of the layers lie below 0.8. Against the claim: half of the layers or more reach 0.8 (partial conjunction;
    Benjamini and Heller 2008, doi:10.1111/j.1541-0420.2007.00984.x).
    """
    # contrasts of every layer with the mean of all layers, and with 0.8 of full RL
    n = len(gains.mean) - 1
    layers = np.eye(n, n + 1)
    from_mean = layers - np.append(np.full(n, 1 / n), 0.0)
    from_most = layers - MOST * np.eye(n + 1)[-1]
    differ, reach = gains.contrast(from_mean), gains.contrast(from_most)

    # the three conditions
    p_unequal = min(1.0, 2 * n * float(np.min(np.minimum(differ.p_above(), differ.p_below()))))
    p_some = simes(reach.p_above())  # not by the highest value: the highest of many is measured too high
    p_few = partial_conjunction(reach.p_below(), n // 2 + 1)

    intervals = gains.ratios(1 - LEVEL / n)
    return Finding(
        measure="share of layers with C_l >= 0.8",
        value=float(np.mean(gains.contributions >= MOST)),
        low=float(np.mean([i.low >= MOST for i in intervals])),
        high=float(np.mean([i.high >= MOST for i in intervals])),
        p_for=max(p_some, p_unequal, p_few),
        p_against=partial_conjunction(reach.p_above(), (n + 1) // 2),
        details={"gini": float(gini(gains.contributions)), "gini of equal layers": gini_of_equals(gains),
                 "p": p_unequal},
    )  # fmt: skip


def middle(gains: Gains, layers: np.ndarray, n_layers: int) -> Finding:
    """Test that the middle third of depth (see `thirds`) recovers more than the first third, and than the last third.

    The measure is the smaller of the two differences of mean C_l.
    """
    parts = dict(zip(("first", "middle", "last"), thirds(layers, n_layers), strict=True))
    if not all(part.any() for part in parts.values()):
        return Finding(reason="a third of depth has no layer with a contribution")
    first, mid, last = (np.append(part / part.sum(), 0.0) for part in parts.values())  # weights of mean gains
    over_first, over_last = mid - first, mid - last
    contrast = gains.contrast(np.stack([over_first, over_last]))
    ratios = gains.combined(np.stack([over_first, over_last, np.eye(len(gains.mean))[-1]])).ratios()
    least = min(ratios, key=lambda ratio: ratio.value)
    means = {
        name: float(weights @ gains.mean / gains.mean[-1])
        for name, weights in zip(parts, (first, mid, last), strict=True)
    }
    return Finding(
        measure="the smaller of the two differences of mean C_l",
        value=least.value,
        low=least.low,
        high=least.high,
        p_for=float(max(contrast.p_above())),
        p_against=min(1.0, 2 * float(min(contrast.p_below()))),
        note=f"the thirds: {', '.join(f'{name} {mean:.2f}' for name, mean in means.items())}",
        details=means | {"middle - first": ratios[0], "middle - last": ratios[1]},
    )


def shape(test: ShapeTest | None) -> Finding:
    """Test that the contribution over depth is a hump (see `lensrl.measures.shapes`).

    The value is the change point or the peak of the shape that predicts unseen layers best.
    """
    assert test is not None  # the claim needs it
    best = test.fits[test.best]
    way = ("rises" if best.rise else "falls") if test.best in ("step", "monotone") else ""
    article = {"constant": "a constant", "monotone": "a monotone curve", "step": "a step", "hump": "a hump"}[test.best]
    place = {"step": ", change point at layer", "hump": ", peak at layer"}.get(test.best, "")
    return Finding(
        measure=f"best out of sample: {article}{f' that {way}' if way else ''}{place}",
        value=best.where,
        low=best.low,
        high=best.high,
        p_for=max(test.p_hump_over.values()),
        p_against=test.p_over_hump,
        details={"best": test.best, "direction": way, "leave-one-out error": best.error, "explained": best.explained},
        at_layer=bool(place),
    )


def not_size(layers: np.ndarray, contribution: Float[np.ndarray, " layer"], sizes: Predictors) -> Finding:
    """Test that no measure of how much a layer moved explains C_l, from the correlations raw and beyond depth.

    For the claim: each measure explains less than half of the variance (Fisher's z against sqrt(1/2)). Against the
    claim: one measure has a positive correlation with C_l beyond depth.
    """
    found = {name: correlate_detrended(layers, x, contribution) for name, x in sizes.items()}
    undefined = _why_undefined(found)
    if undefined:
        return Finding(reason=undefined)
    p_for = [result.p_at_least(HALF) for result in found.values()]
    p_for += [_p_raw_at_least_half(x, contribution) for x in sizes.values()]
    closest = max(found.values(), key=lambda result: result.coefficient)
    return Finding(
        measure="largest correlation beyond depth",
        value=closest.coefficient,
        low=closest.low,
        high=closest.high,
        p_for=max(p_for),
        p_against=min(1.0, len(found) * min(result.p_above for result in found.values())),
        details=dict(found),
    )


def tracks(
    layers: np.ndarray,
    contribution: Float[np.ndarray, " layer"],
    predictors: Predictors,
    *,
    p_second_condition: float | None = None,
    p_against_second_condition: float = 1.0,
    details: Mapping[str, object] | None = None,
) -> Finding:
    """Test that every predictor has a positive correlation with C_l beyond a quadratic in depth.

    `p_second_condition` and `p_against_second_condition` are p for and against a second condition that must also hold
    (convergence: the mean approach is above 0).
    """
    found = {label: correlate_detrended(layers, x, contribution) for label, x in predictors.items()}
    undefined = _why_undefined(found)
    if undefined:
        return Finding(reason=undefined)
    least = min(found.values(), key=lambda result: result.coefficient)
    against = [result.p_below for result in found.values()]
    against += [] if p_second_condition is None else [p_against_second_condition]
    return Finding(
        measure="correlation beyond depth" if len(found) == 1 else "smallest correlation beyond depth",
        value=least.coefficient,
        low=least.low,
        high=least.high,
        p_for=max(p_second_condition or 0.0, *(result.p_above for result in found.values())),
        p_against=min(1.0, len(against) * min(against)),
        details={**(details or {}), **found},
    )


def convergence(
    layers: np.ndarray, contribution: Float[np.ndarray, " layer"], approach: Float[np.ndarray, " layer"]
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
        p_second_condition=float(mean.p_above()),
        p_against_second_condition=float(mean.p_below()),
        details={"mean approach": mean.interval()},
    )


def stability(
    halves: Float64[np.ndarray, "half layer seed"] | None,
    contribution: Float[np.ndarray, " layer"],
    beside: Mapping[str, PairedProfiles] | None = None,
) -> Finding:
    """Test that the ranking of layers holds across seeds, and across every other study that is given.

    `halves` holds every seed's contributions on two halves of the items (`seed_agreement`). `beside` holds the profiles
    of other studies by name (`correlate_detrended` with a step). With one seed, or from a table (`halves` is None),
    only the other studies are compared: they were trained with other seeds. Two studies that share a step or a trend
    and nothing else agreed in at most 4.2 % of 500 simulated pairs (7 to 36 layers, rough deviations that differ
    between the studies).
    """
    found = None
    if halves is not None and halves.shape[2] > 1 and halves.shape[1] >= FEWEST_LAYERS:
        found = seed_agreement(halves, contribution)

    # without other studies, the seeds alone decide
    if not beside:
        if halves is None or halves.shape[2] < 2:
            return Finding(reason="one seed: whether another would rank the layers alike cannot be known")
        if found is None:
            return Finding(reason=f"fewer than {FEWEST_LAYERS} layers with every seed")
        return Finding(
            measure="correlation between seeds beyond a step",
            value=found.agreement,
            p_for=found.p_above,
            p_against=found.p_below,
            details={"Spearman of whole profiles": found.spearman, "chance": found.chance},
        )

    # with other studies, all of them and the seeds must agree
    across = {name: correlate_detrended(*pair, step=True) for name, pair in beside.items()}
    undefined = _why_undefined(across)
    if undefined:
        return Finding(reason=undefined)
    least = min(across.values(), key=lambda result: result.coefficient)
    p_for = [result.p_above for result in across.values()]
    p_against = [result.p_below for result in across.values()]
    details: dict[str, object] = dict(across)
    if found is not None:
        p_for.append(found.p_above)
        p_against.append(found.p_below)
        details |= {"between seeds beyond a step": found.agreement, "chance": found.chance}
    seeds = "" if found is not None else "; seeds are not compared"
    return Finding(
        measure=f"smallest correlation between studies beyond depth and a step{seeds}",
        value=least.coefficient,
        low=least.low,
        high=least.high,
        p_for=max(p_for),
        p_against=min(1.0, len(p_against) * min(p_against)),
        details=details,
    )


def _p_raw_at_least_half(x: Float[np.ndarray, " layer"], y: Float[np.ndarray, " layer"]) -> float:
    """Return one-sided p, by Fisher's z, of a raw correlation of sqrt(1/2) or more."""
    finite = np.isfinite(x) & np.isfinite(y)
    r = float(np.clip(np.corrcoef(x[finite], y[finite])[0, 1], -1 + 1e-12, 1 - 1e-12))
    return float(stats.norm.cdf((math.atanh(r) - math.atanh(HALF)) * math.sqrt(max(finite.sum() - 3, 1e-9))))


def _why_undefined(found: Mapping[str, Detrended]) -> str:
    return next((f"{label}: {result.reason}" for label, result in found.items() if result.reason), "")

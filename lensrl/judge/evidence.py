"""The tests of the claims about a profile: from arrays to a finding with the evidence for and against a claim.

A claim with several conditions needs all of them: its `p_for` is the largest (Berger 1982). One condition that fails is
enough against it: its `p_against` is the smallest, times their number. The tests of the claims about relations between
C_l and other measures are in `lensrl.judge.relations`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from lensrl.judge.findings import Finding, numbers
from lensrl.judge.measurements import MOST, PairedProfiles
from lensrl.measures.gains import Gains
from lensrl.measures.halves import BestReach
from lensrl.measures.profile import effective_layers, seed_agreement, simes, thirds
from lensrl.measures.rise_and_fall import FEWEST_LAYERS, LEAST, rise_and_fall
from lensrl.measures.trend import correlate_detrended

OWN_LUCK = "each seed differs from the best step by luck of its own"
LUCKY = "seeds agree at least as well as by luck of their own"


def concentration(gains: Gains, best: BestReach | None = None) -> Finding:
    """Test that few layers carry the gain, from the gains of the layers and, last, of full RL.

    Two conditions speak for the claim. The best layer recovers 0.8: chosen on a third of items and seeds, it does so on
    the rest (`best_reaches`); without items, some layer does (Simes 1986, doi:10.1093/biomet/73.3.751). And the
    effective number of layers is below half of them (`effective_layers`). Against the claim: every layer is below 0.8,
    or the effective number is above half.
    """
    n = len(gains.mean) - 1
    reach = gains.contrast(np.eye(n, n + 1) - MOST * np.eye(n + 1)[-1])
    spread = effective_layers(gains)
    p_none = float(reach.p_below().max())
    highest = float(gains.contributions.max())
    note = (
        f"the highest C_l is {highest:.2f}" if best is None
        else f"the best layer, chosen on a third of items and seeds, recovers {best.contribution:.2f} on the rest"
    )  # fmt: skip
    p_failed, counter = min(
        (p_none, "some layer recovers 0.8 or more"),
        (spread.p_half_or_less, "the effective number is half of the layers or less"),
    )
    return Finding(
        measure=f"effective number of {n} layers",
        value=spread.number.value,
        low=spread.number.low,
        high=spread.number.high,
        p_for=max(simes(reach.p_above()) if best is None else best.p, spread.p_half_or_more),
        p_against=min(1.0, 2 * p_failed),
        note=note,
        counter=counter,
        details={"highest C_l": highest, "p that no layer reaches 0.8": p_none},
    )


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
    p_below = contrast.p_below()
    return Finding(
        measure="the smaller of the two differences of mean C_l",
        value=least.value,
        low=least.low,
        high=least.high,
        p_for=float(max(contrast.p_above())),
        p_against=min(1.0, 2 * float(min(p_below))),
        note=f"the thirds: {', '.join(f'{name} {mean:.2f}' for name, mean in means.items())}",
        counter=f"the middle third recovers at least as much as the {('first', 'last')[int(np.argmin(p_below))]}",
        details=means | {"middle - first": ratios[0], "middle - last": ratios[1]},
    )


def shape(gains: Gains, layers: np.ndarray, *, error: float = 0.0) -> Finding:
    """Test that C_l rises over depth and then falls, each by at least 0.05 (`lensrl.measures.rise_and_fall`).

    A valley that shows leaves the claim without support. The measure is the smaller of the rise and the fall. `error`
    is the known standard error of one layer's C_l.
    """
    n = len(layers)
    if n < FEWEST_LAYERS:
        return Finding(reason=f"{n} layers have a contribution: a rise and a fall need at least {FEWEST_LAYERS}")
    found = rise_and_fall(layers, gains.contributions, error=error)
    least = min(found.rise, found.fall, key=lambda part: part.value)
    no_rise = found.p_no_rise < found.p_no_fall
    top = f"; most above both sides: layers {found.top[0]} to {found.top[1]}" if least.value > 0 else ""
    valley = f"; a valley may lie at layers {found.valley[0]} to {found.valley[1]}" if found.valley else ""
    return Finding(
        measure="the smaller of rise and fall",
        value=least.value,
        low=least.low,
        high=least.high,
        p_for=found.p_for,
        p_against=found.p_against,
        note=f"rise {numbers(found.rise)}, fall {numbers(found.fall)}{top}{valley}",
        counter=f"a {'rise' if no_rise else 'fall'} of {LEAST} or more",
        details={"rise": found.rise, "fall": found.fall, "scatter": found.scatter,
                 "autocorrelation": found.autocorrelation, "top": list(found.top),
                 "valley": list(found.valley or [])},
    )  # fmt: skip


def stability(
    halves: Float64[np.ndarray, "half layer seed"] | None,
    beside: Mapping[str, PairedProfiles] | None = None,
) -> Finding:
    """Test that the ranking of layers holds across seeds, and across every other study that is given.

    `halves` holds every seed's contributions on two halves of the items (`seed_agreement`). `beside` holds the profiles
    of other studies by name (`correlate_detrended`). With one seed, or from a table (`halves` is None), only the other
    studies are compared: they were trained with other seeds.
    """
    found = None
    if halves is not None and halves.shape[2] > 1 and halves.shape[1] >= FEWEST_LAYERS:
        found = seed_agreement(halves)

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
            note=f"by chance {numbers(found.chance)}; Spearman of whole profiles {found.spearman:.2f}",
            null=OWN_LUCK,
            counter=LUCKY,
            details={"Spearman of whole profiles": found.spearman, "chance": found.chance},
        )

    # with other studies, all of them and the seeds must agree
    across = {name: correlate_detrended(*pair) for name, pair in beside.items()}
    undefined = next((f"{name}: {result.reason}" for name, result in across.items() if result.reason), "")
    if undefined:
        return Finding(reason=undefined)
    least = min(across, key=lambda name: across[name].coefficient)
    p_for = [result.p_above for result in across.values()]
    p_against = {f"a correlation with {name} of 0 or more": result.p_below for name, result in across.items()}
    details: dict[str, object] = dict(across)
    if found is not None:
        p_for.append(found.p_above)
        p_against[LUCKY] = found.p_below
        details |= {"between seeds beyond a step": found.agreement, "chance": found.chance}
    seeds = "" if found is not None else "; seeds are not compared"
    counter = min(p_against, key=lambda name: p_against[name])
    return Finding(
        measure=f"smallest correlation between studies beyond a trend in depth{seeds}",
        value=across[least].coefficient,
        low=across[least].low,
        high=across[least].high,
        p_for=max(p_for),
        p_against=min(1.0, len(p_against) * p_against[counter]),
        note=f"with {least}",
        null=f"no relation between studies beyond a trend in depth{'' if found is None else f', or {OWN_LUCK}'}",
        counter=counter,
        details=details,
    )

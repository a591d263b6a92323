"""The claims of the middle-layer account, each a function from measurements to evidence for and against it.

A claim is stated before its numbers. Its evidence is a statistic with a 95 % interval and two one-sided p: `p_for` is
small when the data speak for the claim, `p_against` when they speak against it. Claims with several conditions need
all of them (`p_for` is the largest; Berger 1982), and one that fails is enough against them (`p_against` is the
smallest, times their number). `judge` corrects the two-sided p of all claims together (Holm 1979) and gives each its
verdict: supported, contradicted, or undetermined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from lensrl.measures.correlation import Detrended, correlate_detrended, effective_size
from lensrl.measures.gains import Estimate, Gains
from lensrl.measures.profile import gini, gini_of_equals, partial_conjunction, seed_agreement, simes
from lensrl.measures.shapes import DRAWS, FEWEST_LAYERS, ShapeTest, compare_shapes

LEVEL = 0.05
MOST = 0.8  # of full RL's gain: what a layer must recover to carry it alone
HALF = math.sqrt(0.5)  # the correlation that explains half of the variance

STATEMENTS = {
    "concentration": "Few layers carry the gain: some recover 80 % of it alone, fewer than half do, and they differ.",
    "middle": "The middle third of the layers recovers more than the first third, and more than the last third.",
    "shape": "Over depth the contribution is a hump with its peak in the middle.",
    "not size": "C_l is not explained by how much the layer's weights moved (less than half of its variance is).",
    "representation": "Where RL changes the representation most (growth of 1 - CKA), layers contribute more.",
    "causal": "Layers whose grafts recover more, and whose removal loses more, contribute more.",
    "convergence": "Training layer l alone brings later layers nearer to full RL's, and more so where C_l is high.",
    "stability": "The ranking of layers holds across seeds, and across studies where several are given, beyond a step.",
}
NULLS = {
    "concentration": "equal contributions with the measured errors",
    "middle": "equal thirds",
    "shape": "the best constant, monotone and step profiles with their scatter",
    "not size": "size explains half of the variance of C_l, raw or beyond depth",
    "representation": "no relation beyond a quadratic in depth",
    "causal": "no relation beyond a quadratic in depth",
    "convergence": "no approach on average; no relation beyond a quadratic in depth",
    "stability": "noise of seeds and of shared items around the best step; between studies, no relation beyond depth",
}

Beside = Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # depth, one profile there, the other


@dataclass(frozen=True)
class Claim:
    """A claim with its evidence; `p` is two-sided and Holm-corrected once it is judged.

    `reason` says why there is no evidence; `details` are further numbers by name.
    """

    name: str
    measure: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_for: float = math.nan
    p_against: float = math.nan
    reason: str = ""
    details: Mapping[str, object] = field(default_factory=dict)
    p: float = math.nan
    verdict: str = "undetermined"

    @property
    def statement(self) -> str:
        return STATEMENTS[self.name]

    @property
    def null(self) -> str:
        return NULLS[self.name]


def judge(claims: Sequence[Claim]) -> list[Claim]:
    """Every claim with its Holm-corrected two-sided p, min(1, 2 min(p_for, p_against)), and its verdict."""
    both = {claim.name: min(1.0, 2 * min(claim.p_for, claim.p_against)) for claim in claims if not claim.reason}
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(both, key=lambda name: both[name])):
        largest = max(largest, min(1.0, (len(both) - rank) * both[name]))
        corrected[name] = largest
    judged = []
    for claim in claims:
        p = corrected.get(claim.name, math.nan)
        verdict = "undetermined"
        if p < LEVEL:
            verdict = "supported" if claim.p_for < claim.p_against else "contradicted"
        judged.append(replace(claim, p=p, verdict=verdict))
    return judged


def concentration(gains: Gains) -> Claim:
    """Claim 1, from the gains of the layers and, last, of full RL.

    The share of layers with C_l >= 0.8, its interval from simultaneous (Bonferroni) intervals of all layers. For: some
    layer lies above 0.8 (Simes 1986, doi:10.1093/biomet/73.3.751), some layer differs from the mean of all (smallest p
    times their number), and more than half lie below 0.8. Against: half of them or more reach 0.8 (partial conjunction;
    Benjamini and Heller 2008, doi:10.1111/j.1541-0420.2007.00984.x).
    """
    n = len(gains.mean) - 1
    layers = np.eye(n, n + 1)
    from_mean = layers - np.append(np.full(n, 1 / n), 0.0)
    from_most = layers - MOST * np.eye(n + 1)[-1]
    differ, reach = gains.contrast(from_mean), gains.contrast(from_most)
    p_unequal = min(1.0, 2 * n * float(np.min(np.minimum(differ.p_above(), differ.p_below()))))
    p_some = simes(reach.p_above())  # not by the highest value: the highest of many is measured too high
    p_few = partial_conjunction(reach.p_below(), n // 2 + 1)
    simultaneous = 1 - LEVEL / n
    intervals = gains.ratios(simultaneous)
    contribution = gains.mean[:-1] / gains.mean[-1]
    return Claim(
        "concentration",
        "share of layers with C_l >= 0.8",
        float(np.mean(contribution >= MOST)),
        float(np.mean([i.low >= MOST for i in intervals])),
        float(np.mean([i.high >= MOST for i in intervals])),
        max(p_some, p_unequal, p_few),
        partial_conjunction(reach.p_above(), (n + 1) // 2),
        details={"gini": float(gini(contribution)), "gini of equal layers": gini_of_equals(gains), "p": p_unequal},
    )


def middle(gains: Gains, layers: np.ndarray, n_layers: int) -> Claim:
    """Claim 2: mean C_l of the middle third of depth minus that of the first, and minus that of the last (`thirds`)."""
    first, mid, last = thirds(layers, n_layers)
    if not (first.any() and mid.any() and last.any()):
        return Claim("middle", reason="a third of depth has no layer with a contribution")
    means = [np.append(part / part.sum(), 0.0) for part in (first, mid, last)]
    over_first, over_last = means[1] - means[0], means[1] - means[2]
    contrast = gains.contrast(np.stack([over_first, over_last]))
    ratios = gains.combined(np.stack([over_first, over_last, np.eye(len(gains.mean))[-1]])).ratios()
    least = min(ratios, key=lambda ratio: ratio.value)
    means_of = {name: float(w @ gains.mean / gains.mean[-1]) for name, w in zip(_THIRDS, means, strict=True)}
    return Claim(
        "middle", "the smaller of the two differences of mean C_l", *least,
        float(max(contrast.p_above())), min(1.0, 2 * float(min(contrast.p_below()))),
        details=means_of | {"middle - first": ratios[0], "middle - last": ratios[1]},
    )  # fmt: skip


_THIRDS = ("first", "middle", "last")


def thirds(layers: np.ndarray, n_layers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which layers have their centre, (l + 1/2) / n, in the first, middle and last third of depth.

    The two ends are of one size: 3, 2 and 3 of 8 layers; 9, 10 and 9 of 28.
    """
    third = 3 * (2 * np.asarray(layers) + 1) // (2 * n_layers)
    return third == 0, third == 1, third == 2


def shape(
    contribution: Float[np.ndarray, " layer"], layers: np.ndarray, n_layers: int, *, draws: int = DRAWS
) -> tuple[Claim, ShapeTest | None]:
    """Claim 3, and the fitted shapes."""
    if len(contribution) < FEWEST_LAYERS:
        reason = f"{len(contribution)} layers have a contribution: shapes need at least {FEWEST_LAYERS}"
        return Claim("shape", reason=reason), None
    test = compare_shapes(layers, contribution, n_layers, draws=draws)
    best = test.fits[test.best]
    way = {"step": "rises" if best.rise else "falls", "monotone": "rises" if best.rise else "falls"}.get(test.best, "")
    described = f"best out of sample: {_ARTICLES[test.best]}{f' that {way}' if way else ''}"
    place = {"step": ", change point at layer", "hump": ", peak at layer"}.get(test.best, "")
    claim = Claim(
        "shape", described + place, best.where, best.low, best.high, max(test.p_hump_over.values()), test.p_over_hump,
        details={"best": test.best, "direction": way, "leave-one-out error": best.error, "explained": best.explained},
    )  # fmt: skip
    return claim, test


_ARTICLES = {"constant": "a constant", "monotone": "a monotone curve", "step": "a step", "hump": "a hump"}


def not_size(
    layers: np.ndarray, contribution: Float[np.ndarray, " layer"], sizes: Mapping[str, Float[np.ndarray, " layer"]]
) -> Claim:
    """Claim 4: for every measure of how much a layer moved, its correlation with C_l, raw and beyond depth.

    For: each explains less than half of the variance (Fisher's z against sqrt(1/2)); against: one goes with C_l beyond
    depth, upwards.
    """
    found = {name: correlate_detrended(layers, x, contribution) for name, x in sizes.items()}
    missing = _missing(found)
    if missing:
        return Claim("not size", reason=missing)
    p_for = [result.p_at_least(HALF) for result in found.values()]
    p_for += [_p_raw_at_least_half(x, contribution) for x in sizes.values()]
    closest = max(found.values(), key=lambda result: result.coefficient)
    return Claim(
        "not size", "largest correlation beyond depth", closest.coefficient, closest.low, closest.high,
        max(p_for), min(1.0, len(found) * min(result.p_above for result in found.values())), details=dict(found),
    )  # fmt: skip


def tracks(
    name: str,
    layers: np.ndarray,
    contribution: Float[np.ndarray, " layer"],
    predictors: Mapping[str, Float[np.ndarray, " layer"]],
    *,
    p_also: float | None = None,
    p_also_against: float = 1.0,
    details: Mapping[str, object] | None = None,
) -> Claim:
    """Claims 5 to 7: every predictor goes with C_l, upwards, beyond a quadratic in depth; `p_also` is another
    condition's.
    """
    found = {label: correlate_detrended(layers, x, contribution) for label, x in predictors.items()}
    missing = _missing(found)
    if missing:
        return Claim(name, reason=missing)
    least = min(found.values(), key=lambda result: result.coefficient)
    against = [*(result.p_below for result in found.values()), *([] if p_also is None else [p_also_against])]
    return Claim(
        name, "correlation beyond depth" if len(found) == 1 else "smallest correlation beyond depth",
        least.coefficient, least.low, least.high, max(p_also or 0.0, *(result.p_above for result in found.values())),
        min(1.0, len(against) * min(against)), details={**(details or {}), **found},
    )  # fmt: skip


def convergence(
    layers: np.ndarray, contribution: Float[np.ndarray, " layer"], approach: Float[np.ndarray, " layer"]
) -> Claim:
    """Claim 7: the approach to full RL's representations is above 0 on average, and goes with C_l.

    approach_l = 1 - sum over sites from l on of (1 - CKA(layer-l, full)) / the same sum for the base.

    The error of its mean over layers allows for how much neighbours resemble each other (`effective_size`).
    """
    known = approach[np.isfinite(approach)]
    if len(known) < 3:
        return tracks("convergence", layers, contribution, {"approach": approach})
    n = effective_size(known)
    error = float(known.std(ddof=1)) / math.sqrt(n)
    found = Estimate(np.asarray(known.mean()), np.asarray(error), np.asarray(max(n - 1.0, 1.0)))
    p_also, p_also_against = float(found.p_above()), float(found.p_below())
    return tracks(
        "convergence", layers, contribution, {"approach": approach},
        p_also=p_also, p_also_against=p_also_against, details={"mean approach": found.interval()},
    )  # fmt: skip


def stability(
    halves: Float64[np.ndarray, "half layer seed"] | None,
    contribution: Float[np.ndarray, " layer"],
    beside: Beside | None = None,
) -> Claim:
    """Claim 8: seeds agree (`seed_agreement`, from every seed's contributions on two halves of the items), and so does
    every other study that is given (`correlate_detrended` without a step).

    `beside`: by name, depths and the contributions there of this study and of the other. With one seed, or from a
    table (`halves` is None), the others alone are asked: they were trained with seeds of their own. Two studies that
    share a step or a trend and nothing else agreed in at most 4.2 % of 500 simulated pairs (7 to 36 layers,
    rough deviations of their own).
    """
    found = None
    if halves is not None and halves.shape[2] > 1 and halves.shape[1] >= FEWEST_LAYERS:
        found = seed_agreement(halves, contribution)
    if not beside:
        if halves is None or halves.shape[2] < 2:
            return Claim("stability", reason="one seed: whether another would rank the layers alike cannot be known")
        if found is None:
            return Claim("stability", reason=f"fewer than {FEWEST_LAYERS} layers with every seed")
        return Claim(
            "stability", "correlation between seeds beyond a step", found.agreement, math.nan, math.nan,
            found.p_above, found.p_below,
            details={"Spearman of whole profiles": found.spearman, "chance": found.chance},
        )  # fmt: skip
    across = {name: correlate_detrended(*pair, step=True) for name, pair in beside.items()}
    missing = _missing(across)
    if missing:
        return Claim("stability", reason=missing)
    least = min(across.values(), key=lambda result: result.coefficient)
    p_for = [result.p_above for result in across.values()]
    p_against = [result.p_below for result in across.values()]
    details: dict[str, object] = dict(across)
    if found is not None:
        p_for.append(found.p_above)
        p_against.append(found.p_below)
        details |= {"between seeds beyond a step": found.agreement, "chance": found.chance}
    seeds = "" if found is not None else "; seeds are not compared"
    return Claim(
        "stability", f"smallest correlation between studies beyond depth and a step{seeds}",
        least.coefficient, least.low, least.high, max(p_for), min(1.0, len(p_against) * min(p_against)),
        details=details,
    )  # fmt: skip


def _p_raw_at_least_half(x: Float[np.ndarray, " layer"], y: Float[np.ndarray, " layer"]) -> float:
    finite = np.isfinite(x) & np.isfinite(y)
    r = float(np.clip(np.corrcoef(x[finite], y[finite])[0, 1], -1 + 1e-12, 1 - 1e-12))
    return float(stats.norm.cdf((math.atanh(r) - math.atanh(HALF)) * math.sqrt(max(finite.sum() - 3, 1e-9))))


def _missing(found: Mapping[str, Detrended]) -> str:
    return next((f"{label}: {result.reason}" for label, result in found.items() if result.reason), "")

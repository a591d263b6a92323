"""Layer contribution and patching recovery: ratios of paired gains, with their intervals.

Both are the share of a change that one intervention recovers:

    C_l      = (S_l - S_base) / (S_full - S_base)                    ("Is One Layer Enough?", arXiv 2607.01232)
    recovery = (M(patched) - M(into)) / (M(from) - M(into))

Both are ratios of noisy differences over the same items and seeds; `lensrl.measures.gains` computes their intervals.
A ratio whose denominator may be zero has no meaning. So the ratio is *undefined*, with the reason, if the interval of
the denominator contains 0.

The module takes arrays of scores. It neither scores models nor reads runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from lensrl.measures.gains import CONFIDENCE, Gains, Interval

Key = TypeVar("Key")


@dataclass(frozen=True)
class GainRatio:
    """`ratio` = `numerator` / `denominator`, each with its interval.

    `status` is `defined` or `undefined`. An undefined ratio is NaN, and `reason` says why; otherwise `reason` is empty.
    """

    ratio: Interval
    numerator: Interval
    denominator: Interval
    status: str
    reason: str


def gain_ratios(
    before: Float[np.ndarray, "seed item"],
    after: Float[np.ndarray, "seed item"],
    parts: Mapping[Key, Float[np.ndarray, "seed item"]],
    benchmark: Sequence[str],
    *,
    gain: str = "after - before",
    confidence: float = CONFIDENCE,
) -> dict[Key, GainRatio]:
    """Compute (part - before) / (after - before) for every part, with Fieller's interval over items and seeds.

    `before`, `after` and every part hold one metric per seed and item, (seed, item), with the items in the same order.
    `benchmark` names the benchmark of each item. A score is the mean over benchmarks of the mean over the benchmark's
    items. `gain` names the denominator in the reason of an undefined ratio.

    With several seeds the intervals include the differences between seeds. One seed shows no such differences: the
    intervals are then over items alone.

    Returns one `GainRatio` per part, by the part's key. Raises ValueError if shapes differ or a value is not finite,
    and LensrlError if a benchmark has a single item.
    """
    arrays = {"before": before, "after": after} | {f"part {key!r}": part for key, part in parts.items()}
    for name, array in arrays.items():
        if array.shape != (before.shape[0], len(benchmark)):
            raise ValueError(f"{name} has shape {array.shape}, expected {(before.shape[0], len(benchmark))}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
    gains = Gains.from_items(np.stack([*parts.values(), after]).astype(np.float64) - before, benchmark)
    *numerators, denominator = (gains.contrast(row).interval(confidence) for row in np.eye(len(parts) + 1))
    if 0 in denominator:
        interval = f"{denominator.value:.3g} [{denominator.low:.3g}, {denominator.high:.3g}]"
        status, reason = "undefined", f"the interval of {gain} contains 0: {interval}"
        ratios = [Interval(*[float("nan")] * 3)] * len(parts)
    else:
        status, reason, ratios = "defined", "", gains.ratios(confidence)
    return {
        key: GainRatio(ratio, numerator, denominator, status, reason)
        for key, ratio, numerator in zip(parts, ratios, numerators, strict=True)
    }

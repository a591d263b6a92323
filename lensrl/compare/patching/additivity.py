"""Additivity: do the recoveries of single layers sum to the recovery of all layers together?

For a metric M, with R(S) the recovery when the layers S are patched,

    R(S) = (M(S patched) - M(into)) / (M(from) - M(into)),        interaction = R(all layers) - sum over l of R({l})

An interaction of 0 means that the layers' changes act independently. Below 0 the layers are redundant: several layers
bring the same gain, and the sum of single recoveries counts it more than once. Above 0 the layers need each other: the
recovery of a single layer understates its part. Layers also look redundant where a metric saturates (a score near 1, a
log-probability near 0). The logit difference does not saturate: read it beside such a metric. Neither term includes
the parts outside the layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from lensrl.compare.patching.shares import stored
from lensrl.measures.contribution import Interval, gain_ratios
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.patch import METRICS, PatchComponent, PatchKey, PatchResult, Sets, What
from lensrl.store.study import Study

PerItem = Float[np.ndarray, " item"]
ALL_AT_ONCE: tuple[Sets, ...] = ("together", "bottom", "top")  # the sets that can hold all layers


@dataclass(frozen=True)
class Additivity:
    """The sum of single recoveries, the recovery of all layers together, and the interaction: together - sum.

    `status` is `defined` or `undefined`. When undefined, `reason` says why, and the three numbers are NaN.
    """

    single_sum: Interval
    together: Interval
    interaction: Interval
    status: str
    reason: str


def additivity(
    into: PerItem, donor: PerItem, singles: Mapping[int, PerItem], together: PerItem, benchmark: Sequence[str]
) -> Additivity:
    """Compare single layers with all layers together. Each array holds one metric per item of one model.

    A sum of recoveries is itself a ratio with the same denominator. So all three numbers have intervals over the same
    items. Raises ValueError when shapes differ or a value is not finite.
    """
    gain = np.sum([patched - into for patched in singles.values()], axis=0)
    parts = {"single_sum": into + gain, "together": together, "interaction": together - gain}
    ratios = gain_ratios(
        into[None], donor[None], {name: values[None] for name, values in parts.items()}, benchmark,
        gain="M(from) - M(into)",
    )  # fmt: skip
    one = ratios["together"]
    return Additivity(**{name: found.ratio for name, found in ratios.items()}, status=one.status, reason=one.reason)


def additivity_table(
    study: Study,
    from_run: str = FULL,
    into_run: str = BASE,
    seed: int | None = None,
    component: PatchComponent = "block",
) -> pd.DataFrame:
    """Compute additivity from the results that `patch` has stored: one row per kind and metric.

    Columns: what, metric; single_sum, together and interaction, each with `_low` and `_high`; status, reason. A kind
    has no rows until `patch` has stored every layer alone and all layers at once. `seed=None`: see
    `lensrl.store.runs.Runs`.
    """
    seed = study.runs.shared_seed(from_run, into_run, scored=True) if seed is None else seed
    rows: list[dict[str, object]] = []
    kinds: tuple[What, ...] = ("weights", "activations")
    for what in kinds:
        found = _singles_and_together(study, what=what, component=component, donor=from_run, into=into_run, seed=seed)
        if found is None:
            continue
        singles, together = found
        measured = set.intersection(*({*result.metrics} for result in (together, *singles)))
        for metric in (name for name in METRICS if name in measured):
            into, donor, patched = together.metrics[metric]
            alone = {result.key.layer: result.metrics[metric][2] for result in singles}
            result = asdict(additivity(into, donor, alone, patched, together.benchmark))
            row: dict[str, object] = {"what": what, "metric": metric}
            for name in ("single_sum", "together", "interaction"):
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), result[name], strict=True))
            rows.append(row | {"status": result["status"], "reason": result["reason"]})
    return pd.DataFrame(rows, columns=ADDITIVITY_COLUMNS)


ADDITIVITY_COLUMNS = [
    "what", "metric", "single_sum", "single_sum_low", "single_sum_high", "together", "together_low", "together_high",
    "interaction", "interaction_low", "interaction_high", "status", "reason",
]  # fmt: skip


def _singles_and_together(
    study: Study, *, what: What, component: PatchComponent, donor: str, into: str, seed: int
) -> tuple[list[PatchResult], PatchResult] | None:
    """Return the stored results of every layer alone, and of all layers at once. None while one of them is missing."""
    layers = tuple(range(study.n_layers))
    whole_key = PatchKey(what=what, component=component, layers=layers, donor=donor, into=into, seed=seed)
    together = (stored(study, replace(whole_key, sets=sets)) for sets in ALL_AT_ONCE)
    whole = next((result for result in together if result is not None), None)
    if whole is None:
        return None
    singles = [stored(study, replace(whole_key, layers=(layer,))) for layer in layers]
    known = [result for result in singles if result is not None]
    return (known, whole) if len(known) == len(layers) else None

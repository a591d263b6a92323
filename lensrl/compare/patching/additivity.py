"""Additivity: whether what layers recover one by one is what they recover together.

For a metric M, with R(S) the recovery when the layers S are patched,

    R(S) = (M(S patched) - M(into)) / (M(from) - M(into)),        interaction = R(all layers) - sum over l of R({l})

An interaction of 0 means that the layers' changes act independently. Below 0 they are redundant: several layers bring
the same gain, and a sum of single recoveries counts it more than once. Above 0 they need each other: a single layer's
recovery understates it. A metric that saturates (a score near 1, a log-probability near 0) looks redundant by itself:
read the logit difference, which has no such end, beside it. The parts outside the layers are in neither term.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from lensrl.compare.patching.patch import stored
from lensrl.measures.contribution import Interval, gain_ratios
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.patch import METRICS, PatchComponent, PatchKey, PatchResult, Sets, What
from lensrl.store.study import Study

PerItem = Float[np.ndarray, " item"]
ALL_AT_ONCE: tuple[Sets, ...] = ("together", "bottom", "top")  # of which a set can hold all layers


@dataclass(frozen=True)
class Additivity:
    """The sum of single recoveries, the recovery of all layers together, and the difference of the two.

    `status` is `defined`, or `undefined` with the `reason`; the three are then NaN.
    """

    single_sum: Interval
    together: Interval
    interaction: Interval
    status: str
    reason: str


def additivity(
    into: PerItem, donor: PerItem, singles: Mapping[int, PerItem], together: PerItem, benchmark: Sequence[str]
) -> Additivity:
    """Compare single layers with all of them, from one metric per item of each patched model.

    A sum of recoveries is itself a ratio over the same denominator, so that all three have intervals over the
    same items. Raises ValueError when shapes differ or a value is not finite.
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
    """Additivity from what `patch` has stored: one row per kind and metric.

    Columns: what, metric, single_sum, together and interaction, each with `_low` and `_high`, status, reason. A kind
    is left out until every layer has been patched alone, and all of them at once. `seed=None`: see
    `lensrl.store.runs.Runs`.
    """
    seed = study.runs.shared_seed(from_run, into_run, scored=True) if seed is None else seed
    rows: list[dict[str, object]] = []
    kinds: tuple[What, ...] = ("weights", "activations")
    for what in kinds:
        found = _singles_and_together(study, what, component, from_run, into_run, seed)
        if found is None:
            continue
        singles, together = found
        for metric in (name for name in METRICS if name in together.metrics):
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
    study: Study, what: What, component: PatchComponent, donor: str, into: str, seed: int
) -> tuple[list[PatchResult], PatchResult] | None:
    layers = tuple(range(study.n_layers))
    together = (stored(study, PatchKey(what, component, layers, donor, into, seed, sets)) for sets in ALL_AT_ONCE)
    whole = next((result for result in together if result is not None), None)
    if whole is None:
        return None
    singles = [stored(study, PatchKey(what, component, (layer,), donor, into, seed)) for layer in layers]
    known = [result for result in singles if result is not None]
    return (known, whole) if len(known) == len(layers) else None

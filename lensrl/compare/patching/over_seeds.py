"""Recoveries over training seeds: the results of one patch, measured with several seeds, as one result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from lensrl.compare.patching.patch import share_of
from lensrl.errors import StoreError
from lensrl.measures.contribution import gain_ratios
from lensrl.measures.score import mean_score
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.patch import METRICS, PatchKey, PatchResult, read_patch
from lensrl.store.study import Study

ALL_SEEDS = "all"  # in the column `seed`
COLUMNS = [*PatchResult.COLUMNS, "seeds", "contribution", "share_of"]


class _Place(NamedTuple):
    """What is patched, whatever the seed: a set of layers, and the head where heads are patched alone."""

    key: PatchKey  # of the first seed
    name: str  # of the patched model in the file

    @property
    def head(self) -> int | None:
        return int(self.name.removeprefix("head-")) if self.key.component == "head" else None


BySeed = Mapping[int, Float[np.ndarray, "model=3 item"]]  # into, donor, patched


def over_seeds(study: Study) -> pd.DataFrame:
    """Return the recoveries over all seeds of every patch that is stored with more than one seed.

        recovery = mean over seeds of (M(patched) - M(into)) / mean over seeds of (M(from) - M(into))

    Intervals are Fieller's over items and seeds, as those of the contribution. The columns are those of
    `Study.patches`, with `all` as the seed, and `seeds`, the number of seeds; `contribution`, C_l over all seeds, NaN
    beside sets of layers; `share_of`, see `lensrl.compare.patching.patch.share_of`. A layer that some seeds lack has
    the value of the others, and a reason that says so. Results of runs that were made again are left out.
    """
    kinds: dict[tuple[str, ...], list[PatchResult]] = defaultdict(list)
    current = {run.run_id for run in study.runs.values()}
    for file in sorted((study.path / PATCH_FOLDER).glob("*.h5")):
        try:
            result = read_patch(file)
        except StoreError:  # listed by `Study.patches`
            continue
        if current.issuperset(result.sources.values()):
            key = result.key
            kinds[key.what, key.component, key.donor, key.into, key.sets].append(result)
    rows = [row for results in kinds.values() for row in _rows(results)]
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in ("contribution", "share_of")])
    known: dict[int, float] = {}
    if rows and FULL in study and study.layers and study[BASE].has_scores:
        means = study.contributions()
        known = dict(zip(means["layer"], means["contribution"], strict=True))
    beside = [known.get(layer, np.nan) if sets == "single" else np.nan
              for layer, sets in zip(table["layer"], table["sets"], strict=True)]  # fmt: skip
    table = table.assign(contribution=np.array(beside, float), share_of=share_of(table).to_numpy())
    return table.sort_values(["what", "component", "into", "layer"], ignore_index=True)


def _rows(results: Sequence[PatchResult]) -> Iterator[dict[str, object]]:
    """Yield the rows of one kind of patch. None where all results have one seed."""
    if len({result.key.seed for result in results}) < 2:
        return
    for metric in METRICS:
        found: dict[tuple[str, str], tuple[_Place, dict[int, np.ndarray]]] = {}
        for result in (result for result in results if metric in result.metrics):
            into, donor, *patched = result.metrics[metric]
            for name, values in zip(result.patched, patched, strict=True):
                _, by_seed = found.setdefault((result.key.layer_names, name), (_Place(result.key, name), {}))
                by_seed[result.key.seed] = np.stack([into, donor, values])
        yield from _of_metric(metric, list(found.values()), results[0].benchmark)


def _of_metric(
    metric: str, found: Sequence[tuple[_Place, BySeed]], benchmark: Sequence[str]
) -> Iterator[dict[str, object]]:
    """Yield one row per place. Places with the same seeds enter together: they show how much the gain varies."""
    most = max((len(by_seed) for _, by_seed in found), default=0)
    for seeds in sorted({tuple(sorted(by_seed)) for _, by_seed in found}):
        here = [(place, by_seed) for place, by_seed in found if {*seeds} <= {*by_seed}]
        values = np.stack([[by_seed[seed] for seed in seeds] for _, by_seed in here])  # (place, seed, model, item)
        into, donor, patched = np.moveaxis(values, 2, 0)
        ratios = gain_ratios(np.zeros_like(into[0]), (donor - into).mean(axis=0), dict(enumerate(patched - into)),
                             benchmark, gain="M(from) - M(into)")  # fmt: skip
        for i, (place, by_seed) in enumerate(here):
            if len(by_seed) > len(seeds):
                continue
            key, ratio = place.key, ratios[i]
            few = f"{len(seeds)} of {most} seeds" if len(seeds) < most else ""
            ends = [mean_score(part[i].mean(axis=0), benchmark) for part in (into, donor, patched)]
            yield {
                "layer": key.layer, "layers": key.layer_names, "sets": key.sets, "head": place.head,
                "what": key.what, "component": key.component, "from": key.donor, "into": key.into,
                "seed": ALL_SEEDS, "metric": metric, "recovery": ratio.ratio.value, "low": ratio.ratio.low,
                "high": ratio.ratio.high, "into_value": ends[0], "from_value": ends[1], "patched_value": ends[2],
                "status": ratio.status, "reason": ratio.reason or few, "seeds": len(seeds),
            }  # fmt: skip

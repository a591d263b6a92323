"""`patch`: put layers of one run into another, by weights and by activations, and store what it recovers."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.sets import check_component, layer_sets
from lensrl.errors import LensrlError
from lensrl.recipe.layers import LayerSpec, parse_layers
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.names import PATCH_FOLDER
from lensrl.store.origin import provenance
from lensrl.store.patch import PatchComponent, PatchKey, PatchResult, Sets, What, read_patch, write_patch
from lensrl.store.study import Study


def patch(
    study: Study,
    *,
    layers: LayerSpec = "all",
    from_run: str = FULL,
    into_run: str = BASE,
    reverse: bool = False,
    what: What | Literal["both"] = "both",
    component: PatchComponent = "block",
    sets: Sets = "single",
    seed: int | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Patch each of `layers`, alone or in sets, from one run into another, and measure the recovery.

    Sufficiency by default: the RL-trained layer in the base. `reverse` swaps the two, which asks for necessity: with
    the base's layer in the RL model, a recovery of 1 means that the whole gain is lost.

    - `weights`: the layer's weights are grafted; metrics `score` (the study's sampled score) and `reference_logprob`.
    - `activations`: what the layer adds to the residual stream is patched on the same tokens; `reference_logprob` and
      `logit_difference`.

    `component` narrows the layer to its attention (`attn`) or MLP (`mlp`). For activations only: `head`, each head
    alone, and `stream`, the whole residual stream after the layer, which recovers what the donor computed up to there
    by construction.

    `sets` patches several layers at once: `bottom`, 0 ... l for each layer l, and `top`, l ... n - 1, are cumulative;
    `pairs`, every two of `layers`; `together`, all of them. Parts outside the layers stay the receiving run's; so
    where a set holds all layers and whole blocks are grafted, a last row, `everything`, takes those parts along. It
    is the donor, weight by weight, and recovers exactly 1: what is missing to 1 in the row before it is theirs.

    Returns one row per set, kind and metric (`PatchResult.COLUMNS`, and `contribution`, C_l, beside single layers).
    Results are stored under `patches/` in the study and reused while the runs that they came from are unchanged.

    Raises LensrlError for layers or runs that are not there, and for a component that `what` or `sets` cannot patch.
    """
    check_component(component, what, sets)
    chosen = parse_layers(layers, study.n_layers)
    training_seed = study.runs.shared_seed(from_run, into_run, scored=True) if seed is None else seed
    donor, into = (study.runs.find_scored(name, training_seed) for name in (from_run, into_run))
    if reverse:
        donor, into = into, donor
    if donor.run_id == into.run_id:
        raise LensrlError(f"--from and --into both name {donor.name!r}: there is nothing to recover")
    kinds: list[What] = ["weights", "activations"] if what == "both" else [what]
    keys = [
        PatchKey(kind, component, unit, donor.name, into.name, training_seed, named)
        for kind in kinds
        for named, unit in layer_sets(
            sets, chosen, study.n_layers, everything=kind == "weights" and component == "block"
        )
    ]
    results = {key: found for key in keys if (found := stored(study, key))}
    missing = [key for key in keys if key not in results]
    if missing:
        from lensrl.compare.patching.measure import Patcher  # torch and transformers, only where there is work for them

        patcher = Patcher(study, donor, into)
        sources = {"donor": donor.run_id, "into": into.run_id}
        record = provenance(device=patcher.device, dtypes={"masters": "float32"})
        for kind in kinds:
            todo = [key for key in missing if key.what == kind]
            for key, metrics, patched in patcher.measure(todo, on_progress) if todo else ():
                benchmark = into.items["benchmark"].tolist()
                results[key] = PatchResult(key, metrics, benchmark, sources, record, patched)
                write_patch(study.path / PATCH_FOLDER, results[key])
    return with_contributions(pd.DataFrame([row for key in keys for row in results[key].rows()]), study)


def with_contributions(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add the contribution C_l of each single layer, measured with the row's seed; NaN where there is none."""
    measured: dict[tuple[int, int], float] = {}
    for seed in rows["seed"].unique():
        if (FULL, seed) in study and study.layers:
            table = study.contributions(int(seed))
            measured |= {(seed, layer): c for layer, c in zip(table["layer"], table["contribution"], strict=True)}
    return rows.assign(
        contribution=[
            measured.get((seed, layer), np.nan) if sets == "single" else np.nan
            for seed, layer, sets in zip(rows["seed"], rows["layer"], rows["sets"], strict=True)
        ]
    )


def stored(study: Study, key: PatchKey) -> PatchResult | None:
    """The stored result of a patch; None when there is none, or when one of its runs has been replaced since."""
    path = study.path / PATCH_FOLDER / key.file_name
    if not path.exists():
        return None
    result = read_patch(path)
    current = {"donor": study[key.donor, key.seed].run_id, "into": study[key.into, key.seed].run_id}
    return result if result.sources == current else None

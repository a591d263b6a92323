"""The controls of an activation patch: the donor's activations on another item, and the receiver's own.

    wrong(i) = the next item after i in a random cycle through the items with as many tokens in prompt and reference

If the wrong item's activations recover as much as the right item's, then the patch hands over what all items share, as
the form of an answer is, and nothing about the item. A recovery below 0 means that the item is lost.

The receiver's own activations in their own place change nothing: this recovery is 0, unless patching itself does harm.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.activations import FORCED_METRICS, Patch, patch_activations
from lensrl.compare.patching.measure import Patcher
from lensrl.compare.patching.sets import check_component
from lensrl.errors import LensrlError
from lensrl.measures.contribution import gain_ratios
from lensrl.models.bridge import boot
from lensrl.models.prompts import Prompts
from lensrl.recipe.layers import LayerSpec, parse_layers
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.patch import PatchComponent
from lensrl.store.study import Study
from lensrl.tasks import Item

COLUMNS = [
    "layer", "component", "from", "into", "seed", "metric", "right", "right_low", "right_high",
    "wrong", "wrong_low", "wrong_high", "own", "status", "reason", "items", "left_out",
]  # fmt: skip


def wrong_item_patches(
    study: Study,
    *,
    layers: LayerSpec = "all",
    from_run: str = FULL,
    into_run: str = BASE,
    component: PatchComponent = "block",
    seed: int | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Patch activations of the donor on the right item and on a wrong one: one row per layer and metric.

    Columns: layer, component, from, into, seed, metric; right and wrong, the recoveries, each with its 95 % interval
    over items (`_low`, `_high`); own, the recovery by the receiver's own activations on the right item; status and
    reason of a recovery that is not defined; items, the number of items that enter; left_out, the number of items that
    share their numbers of tokens with no other. All recoveries are of the same items, with the denominator
    M(from) - M(into) on the right items. Wrong items are drawn once, by a fixed seed. Nothing is stored.

    Raises LensrlError for layers or runs that do not exist, for a run that diverged, for the component `head`, and
    where fewer than two items have a partner.
    """
    check_component(component, "activations", "single")
    if component == "head":
        raise LensrlError("wrong items are patched by whole layers: --component block, attn, mlp, direct or stream")
    chosen = parse_layers(layers, study.n_layers)
    training_seed = study.runs.shared_seed(from_run, into_run, scored=True) if seed is None else seed
    patcher = Patcher(study, *(study.runs.find_scored(name, training_seed) for name in (from_run, into_run)))
    partner = draw_partners(kinds(patcher.base.prompts, patcher.items))
    kept = np.flatnonzero(partner != np.arange(len(partner)))
    if not len(kept):
        raise LensrlError(
            f"no two items of {study.name} have as many tokens in prompt and reference: none can be swapped"
        )
    items, others = ([patcher.items[i] for i in places] for places in (kept, partner[kept]))
    bridges = {
        role: boot(patcher.base.reading(weights, device=patcher.device), patcher.base.tokenizer)
        for role, weights in patcher.weights.items()
    }
    patches = [Patch((layer,)) for layer in chosen]
    (before, after, right), (_, _, wrong), (_, _, own) = (
        patch_activations(
            bridges["into"], bridges[giver], patcher.base, items, patches, component, donor_items=read,
            on_batch=None if on_progress is None else partial(on_progress, name),
        )
        for name, giver, read in (
            ("right items", "donor", None), ("wrong items", "donor", others), ("own activations", "into", None),
        )
    )  # fmt: skip
    benchmark = [item.benchmark for item in items]
    ratios = {}
    for i, metric in enumerate(FORCED_METRICS):
        kinds_of_patch = {"right": right, "wrong": wrong, "own": own}
        values = {(kind, patch): of[patch][i][None] for kind, of in kinds_of_patch.items() for patch in patches}
        ratios[metric] = gain_ratios(before[i][None], after[i][None], values, benchmark, gain="M(from) - M(into)")
    rows = [
        (patch.layers[0], component, from_run, into_run, training_seed, metric, *found["right", patch].ratio,
         *found["wrong", patch].ratio, found["own", patch].ratio.value, found["right", patch].status,
         found["right", patch].reason, len(items), len(partner) - len(items))
        for patch in patches
        for metric, found in ratios.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def kinds(prompts: Prompts, items: Sequence[Item]) -> list[tuple[str, list[bool]]]:
    """Return the kind of each item: its benchmark, and for each token of the text whether the model writes it."""
    return [(item.benchmark, prompts.forced(item)[1]) for item in items]


def draw_partners(kinds: Sequence[object]) -> np.ndarray:
    """Return for each item another item of the same kind, each once: a random cycle through the items of each kind.

    An item that is alone in its kind keeps itself. The draw is the same every time.

    >>> draw_partners(["a", "b", "a"]).tolist()
    [2, 1, 0]
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, kind in enumerate(kinds):
        places[repr(kind)].append(place)
    partner, rng = np.arange(len(kinds)), np.random.default_rng(0)
    for group in places.values():
        cycle = rng.permutation(group)
        partner[cycle] = np.roll(cycle, -1)
    return partner

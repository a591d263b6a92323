"""The control of a graft: a random direction of the layer's norm in the place of the trained delta.

Each parameter of the layer gets W + R || D || / || R ||, with D its delta and R of independent normal numbers. If this
recovers as much as the trained layer, then its size recovers, and not its direction.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.graft import graft_logprobs
from lensrl.compare.patching.measure import Patcher
from lensrl.errors import LensrlError
from lensrl.measures.contribution import gain_ratios
from lensrl.measures.score import mean_score
from lensrl.recipe.layers import LayerSpec, parse_layers
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.study import Study

COLUMNS = ["layer", "draw", "from", "into", "seed", "recovery", "low", "high", "log_p", "status", "reason"]


def random_grafts(
    study: Study,
    *,
    layers: LayerSpec = "all",
    from_run: str = FULL,
    into_run: str = BASE,
    seed: int | None = None,
    draws: int = 3,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Graft random deltas of each layer's norms, and measure the recovery of log p: one row per layer and draw.

    Columns: layer, draw, from, into, seed; recovery with its 95 % interval over items, as in `lensrl.patch`; log_p, of
    the references, in nats per token; status, reason. The random numbers follow from layer and draw alone. Nothing is
    stored. Layers that the runs have in common are left out.

    Raises LensrlError for layers or runs that do not exist, and for a run that diverged.
    """
    chosen = parse_layers(layers, study.n_layers)
    if draws < 1:
        raise LensrlError(f"draws is {draws}; at least one is needed")
    training_seed = study.runs.shared_seed(from_run, into_run, scored=True) if seed is None else seed
    patcher = Patcher(study, *(study.runs.find_scored(name, training_seed) for name in (from_run, into_run)))
    into, donor, base = patcher.weights["into"], patcher.weights["donor"], patcher.base
    moved = {
        layer: [n for n in into if base.blocks.part(n) == layer and not torch.equal(into[n], donor[n])]
        for layer in chosen
    }
    keys = [(layer, draw) for layer in chosen if moved[layer] for draw in range(draws)]
    grafts = [
        {n: _random(into[n], donor[n], layer, draw, i) for i, n in enumerate(moved[layer])} for layer, draw in keys
    ]
    model = base.reading(into, device=patcher.device).eval()
    measured = graft_logprobs(
        model, base, patcher.items, [{}, {n: donor[n] for n in donor if not torch.equal(into[n], donor[n])}, *grafts],
        batch=study.recipe.evaluation.batch,
        on_graft=(lambda done, of: on_progress("random log p", done, of)) if on_progress else None,
    )  # fmt: skip
    before, after, *values = (each.astype(np.float64)[None] for each in measured)
    if not keys:
        return pd.DataFrame(columns=COLUMNS)
    ratios = gain_ratios(before, after, dict(enumerate(values)), patcher.benchmark, gain="log p(from) - log p(into)")
    rows = [
        (layer, draw, from_run, into_run, training_seed, *ratios[i].ratio, mean_score(values[i][0], patcher.benchmark),
         ratios[i].status, ratios[i].reason)
        for i, (layer, draw) in enumerate(keys)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _random(into: torch.Tensor, donor: torch.Tensor, layer: int, draw: int, place: int) -> torch.Tensor:
    """Return `into` plus a random delta with the norm of donor - into."""
    noise = np.random.default_rng([layer, draw, place]).standard_normal(tuple(into.shape))
    norm = float((donor.double() - into.double()).norm())
    return into + torch.from_numpy(noise * (norm / np.linalg.norm(noise))).to(into.dtype)

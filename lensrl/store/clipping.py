"""How often and how much gradients were clipped: a confounder of C_l, where one limit clips full RL and few layers.

A gradient g with norm || g || above `rl.max_grad_norm` = m is scaled by m / (|| g || + 1e-6), as torch does, else by 1.
With `"per-parameter-count"`, m is sqrt(n / N): n counts the parameters that changed. It is not known of LoRA.
With one update per rollout, the training curve has the norm of every gradient. With several, it has their root mean
square, and what was clipped is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lensrl.recipe.runs import BASE, run_layer
from lensrl.store.names import order
from lensrl.store.run import Run
from lensrl.store.runs import Runs

if TYPE_CHECKING:
    import pandas as pd

CLIP_COLUMNS = ["run", "layer", "seed", "clipped_share", "mean_factor"]


def clipped_steps(runs: Runs, seed: int | None = None) -> pd.DataFrame:
    """Return one row per run that was trained here: how much its gradients were clipped.

    Columns: run; layer, <NA> for other runs than single layers; seed; clipped_share, the share of steps whose gradient
    was clipped; mean_factor, the mean over all steps of the factor that scaled the gradient. The last two are NaN with
    several updates per rollout, and where the limit is not known. `seed=None`: all seeds.
    """
    import pandas as pd

    known = runs.recipe.rl.updates_per_rollout == 1
    rows = []
    for run in sorted(runs.values(), key=lambda run: order(run.name, run.seed)):
        if run.name == BASE or seed not in (None, run.seed) or not run.has_training:
            continue
        norm, limit = run.grad_norm(), _limit(runs, run)
        share, factor = float(np.mean(norm > limit)), float(np.minimum(limit / (norm + 1e-6), 1.0).mean())
        rows.append(
            (
                run.name,
                run_layer(run.name),
                run.seed,
                *((share, factor) if known and not np.isnan(limit) else (np.nan, np.nan)),
            )
        )
    return pd.DataFrame(rows, columns=CLIP_COLUMNS).astype({"layer": "Int64"})


def _limit(runs: Runs, run: Run) -> float:
    """Return the norm above which gradients of a run were scaled; NaN where it is not known."""
    rl = runs.recipe.rl
    if rl.max_grad_norm != "per-parameter-count":
        return rl.gradient_limit(1, 1)
    table = run.delta_norms()
    trained = float(table.loc[table["changed_share"] > 0, "size"].sum())
    adapter = run.layer_set is not None and run.layer_set.lora is not None
    return np.nan if adapter or not trained else rl.gradient_limit(trained, float(table["size"].sum()))

"""Rivals: baselines that are known before RL.

The base model alone may say which layers RL can use: a layer that the base cannot do without, or a layer with a steep
objective before the first step. A measure that is taken after RL (weight delta, CKA, graft) explains the layer
contribution only when it does better than the rivals.

Three of `RIVALS` need a trained run. `rl_gradient_norm` takes the RL gradient at the base from the first training
step. `first_order_single` and `first_order_full` take the delta of the run, and the gradient at the base.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from lensrl.compare.cluster import Cluster
from lensrl.compare.patching import OnProgress
from lensrl.compare.progress import with_bar
from lensrl.recipe.runs import BASE, FULL, layer_run
from lensrl.store.file.atomic import new_file
from lensrl.store.origin import provenance
from lensrl.store.study import Study

RIVALS = {
    "bypass_logprob": "bypass cost (nats per token)",
    "bypass_score": "bypass cost (score)",
    "gradient_norm": "log p gradient / weight norm",
    "rl_gradient_norm": "RL gradient share / norm",
    "first_order_single": "first-order change, alone",
    "first_order_full": "first-order change, full RL",
    "parameters": "parameters of the layer",
    "weight_norm": "weight norm in the base",
}
COLUMNS = ["layer", *RIVALS]

RIVALS_FILE = "rivals.json"
RIVALS_FORMAT = "lensrl-rivals"
RIVALS_VERSION = 1  # of the file; raise it when a column changes its meaning, so that older files are made again


class _Kept(BaseModel):
    """The content of the file: the table, and the runs that it was made from."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    format_version: int
    sources: dict[str, str]  # run file -> run_id
    columns: dict[str, list[float | None]]  # null where there is no number
    provenance: dict[str, object]


@with_bar("base model")
def base_rivals(
    study: Study, *, sampled: bool = False, cluster: Cluster | None = None, on_progress: OnProgress | None = None
) -> pd.DataFrame:
    """Measure the rivals (see `lensrl.compare.rivals`): one row per layer l of the model.

    M is the mean log-probability of the reference answers of the held-out items, in nats per token
    (`lensrl.compare.sensitivity`). Columns, with w_l the base's weights of layer l:

    - `layer`;
    - `bypass_logprob`: M(base) - M(base without block l), where the residual stream skips the block;
    - `bypass_score`: the same for the sampled score. NaN unless `sampled`: a model without a block often does not stop,
      and one evaluation per layer then costs more than all other columns together;
    - `gradient_norm`: || dM/dw_l ||_F / || w_l ||_F at the base, from one backward pass over the held-out items;
    - `rl_gradient_norm`: (|| g_l || / || g ||) / || w_l ||_F, with g the RL gradient before clipping in the first step
      of full RL, which starts at the base, and g_l its part in layer l; mean over seeds. NaN for a checkpoint;
    - `first_order_single`, `first_order_full`: <dM/dw_l, d_l>, the change of M if M were linear, in nats per token, for
      the layer's delta d_l when trained alone and in full RL; mean over seeds;
    - `parameters`: the number of the layer's parameters;
    - `weight_norm`: || w_l ||_F.

    The workers of a `cluster` share the layers that are left out (`lensrl.compare.cluster`). There is no estimate of
    the time that `sampled` takes: an evaluation for each layer, in which many completions have the largest length.

    A number is NaN where the study lacks the run that it needs. The table is kept as `rivals.json` in the study's
    folder. It is measured again when one of its runs was added or replaced, and when the file is damaged. Raises
    LensrlError when the study has no base, and when the base model cannot be loaded or is a different model.
    """
    path, sources = study.path / RIVALS_FILE, _sources(study)
    table = stored_rivals(study)
    if table is not None and not (sampled and table["bypass_score"].isna().all()):
        return table
    from lensrl.compare.sensitivity import measure_layers, pick_device  # torch, only where it is needed

    table = measure_layers(study, sampled=sampled, cluster=cluster, on_progress=on_progress)
    table["rl_gradient_norm"] = _first_step_shares(study) / table["weight_norm"]
    table = table[COLUMNS].astype({name: int if name in ("layer", "parameters") else float for name in COLUMNS})
    record = provenance(device=pick_device(), dtypes={"masters": "float32", "gradients": "float32"})
    _write(path, table, sources, record)
    return table


def stored_rivals(study: Study) -> pd.DataFrame | None:
    """Return the table that `base_rivals` kept. None when it was not measured for these runs."""
    return _read(study.path / RIVALS_FILE, _sources(study), study.n_layers)


def _sources(study: Study) -> dict[str, str]:
    """Map the file of each run that the table needs to its run_id: base, full RL and every layer alone, not sets."""
    names = (BASE, FULL, *map(layer_run, study.layers))
    return {run.path.name: run.run_id for name in names for run in study.runs.of(name).values()}


def _first_step_shares(study: Study) -> pd.Series:
    """Return || g_l || / || g || at the first step of full RL, by layer; a mean over seeds with a gradient above 0."""
    columns = [f"grad_norm_{layer}" for layer in range(study.n_layers)]
    shares = [
        curve[columns].iloc[0].to_numpy() / curve["grad_norm"].iloc[0]
        for run in study.runs.of(FULL).values()
        if run.has_training and len(curve := run.training()) and curve["grad_norm"].iloc[0] > 0
    ]
    return pd.DataFrame(shares, columns=range(study.n_layers), dtype=float).mean()


def _read(path: Path, sources: dict[str, str], n_layers: int) -> pd.DataFrame | None:
    """Read the table in the file. None when the file is missing, damaged or foreign, or was made from other runs."""
    try:
        kept = _Kept.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    if (kept.format, kept.format_version, kept.sources) != (RIVALS_FORMAT, RIVALS_VERSION, sources):
        return None
    whole = {name: kept.columns.get(name) for name in ("layer", "parameters")}
    if list(kept.columns) != COLUMNS or {len(column) for column in kept.columns.values()} != {n_layers}:
        return None
    if whole["layer"] != list(range(n_layers)) or None in (whole["parameters"] or [None]):
        return None
    return pd.DataFrame(kept.columns).astype({name: int if name in whole else float for name in COLUMNS})


def _write(path: Path, table: pd.DataFrame, sources: dict[str, str], record: dict[str, object]) -> None:
    columns = {
        name: [None if np.isnan(value) else value for value in column]
        for name, column in table.to_dict(orient="list").items()
    }
    kept = _Kept.model_validate(
        {"format": RIVALS_FORMAT, "format_version": RIVALS_VERSION, "sources": sources, "columns": columns,
         "provenance": record}
    )  # fmt: skip
    with new_file(path) as partial:
        partial.write_text(kept.model_dump_json(indent=1) + "\n", encoding="utf-8")

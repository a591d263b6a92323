"""What any account of the layer contribution has to beat: what the base model already says about its layers.

A layer that the base cannot do without, or at which the objective is steep before the first step, may be the layer
that RL can use, whatever RL then does inside. So whatever is measured after RL (weight deltas, CKA, grafts) stands
beside these numbers, most of which are there before RL begins: `RIVALS` says which are not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from lensrl.compare.patching import OnProgress
from lensrl.recipe.runs import BASE, FULL, run_layer
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
RIVALS_VERSION = 1  # of the file; to be raised when a column changes its meaning, so that older files are made again


class _Kept(BaseModel):
    """The file: the table, and the runs that it was made from."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    format_version: int
    sources: dict[str, str]  # run file -> run_id
    columns: dict[str, list[float | None]]  # null where there is no number
    provenance: dict[str, object]


def base_rivals(study: Study, *, sampled: bool = False, on_progress: OnProgress | None = None) -> pd.DataFrame:
    """One row per layer of the model: layer, and

    - `bypass_logprob`: M(base) - M(base without block l), with M the mean log-probability of the reference answers of
      the held-out items in nats per token (`lensrl.compare.sensitivity`); without a block, the residual stream is
      handed through. `bypass_score`: the same for the sampled score, NaN unless `sampled`: a model without a block
      often does not stop, and one evaluation per layer then costs more than all that stands beside it;
    - `gradient_norm`: || dM/dw_l ||_F / || w_l ||_F at the base; the held-out items, one backward pass;
    - `rl_gradient_norm`: (|| g_l || / || g ||) / || w_l ||_F, with g the RL gradient (before clipping) of the first
      step of full RL, that is at the base, g_l the part of it in layer l; mean over seeds;
    - `first_order_single`, `first_order_full`: <dM/dw_l, d_l>, the change of M that a linear M would show, for the
      layer's delta when trained alone and in full RL; mean over seeds; in nats per token;
    - `parameters` (how many the layer has) and `weight_norm` (|| w_l ||_F).

    NaN where a study has no run to take a number from. Kept as `rivals.json` in the study's folder, and made again
    when a run that it rests on was added or replaced, or when the file does not hold what it should. Raises
    LensrlError when the study has no base, or the base model cannot be loaded or is another one.
    """
    path, sources = study.path / RIVALS_FILE, _sources(study)
    table = stored_rivals(study)
    if table is not None and not (sampled and table["bypass_score"].isna().all()):
        return table
    from lensrl.compare.sensitivity import measure_layers, pick_device  # torch, only where there is work for it

    table = measure_layers(study, sampled=sampled, on_progress=on_progress)
    table["rl_gradient_norm"] = _first_step_shares(study) / table["weight_norm"]
    table = table[COLUMNS].astype({name: int if name in ("layer", "parameters") else float for name in COLUMNS})
    record = provenance(device=pick_device(), dtypes={"masters": "float32", "gradients": "float32"})
    _write(path, table, sources, record)
    return table


def stored_rivals(study: Study) -> pd.DataFrame | None:
    """The table that `base_rivals` kept, None when there is none for these runs."""
    return _stored(study.path / RIVALS_FILE, _sources(study), study.n_layers)


def _sources(study: Study) -> dict[str, str]:
    """The runs that the table rests on: base, full RL and every layer alone. Sets of layers do not enter."""
    return {
        run.path.name: run.run_id
        for (name, _), run in study.runs.items()
        if name in (BASE, FULL) or run_layer(name) is not None
    }


def _first_step_shares(study: Study) -> pd.Series:
    """|| g_l || / || g || at the first step of full RL, by layer; mean over the seeds whose gradient is not zero."""
    columns = [f"grad_norm_{layer}" for layer in range(study.n_layers)]
    shares = [
        curve[columns].iloc[0].to_numpy() / curve["grad_norm"].iloc[0]
        for run in study.runs.of(FULL).values()
        if len(curve := run.training) and curve["grad_norm"].iloc[0] > 0
    ]
    return pd.DataFrame(shares, columns=range(study.n_layers), dtype=float).mean()


def _stored(path: Path, sources: dict[str, str], n_layers: int) -> pd.DataFrame | None:
    """The table in the file; None when there is none, it is of other runs, or the file is not one of ours."""
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

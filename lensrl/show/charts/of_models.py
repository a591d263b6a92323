"""Charts of models: weight deltas, representations, patches. None where a study has nothing for one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lensrl.recipe.runs import BASE, FULL, run_layer
from lensrl.show.charts.chart import EVERY, Chart
from lensrl.show.charts.vega import heat, layer_axis, level, profile, tooltips
from lensrl.show.figures.layers import MATRICES, MEASURES, short_names
from lensrl.show.tables import norms_by_seed, stored_norms, with_intervals
from lensrl.show.words import METRIC_LABELS, SET_LABELS
from lensrl.store.study import Study


def delta_norms(study: Study, table: pd.DataFrame) -> Chart | None:
    """Return the relative weight-delta norm of every layer, in full RL and trained alone. `table`: `predictors`."""
    kinds = {"full": "in full RL", "single": "trained alone"}
    if not len(table) or not {"relative_delta_full", "relative_delta_single"} <= {*table}:
        return None
    means = table[["layer"]].assign(seed=EVERY, **{kind: table[f"relative_delta_{kind}"] for kind in kinds})
    single = norms_by_seed(study, table["layer"].tolist()) if len(study.seeds) > 1 else means[:0]
    rows = pd.concat([means, single.assign(seed=single["seed"].astype(str))]).melt(
        ["layer", "seed"], [*kinds], "trained"
    )
    rows["trained"] = rows["trained"].replace(kinds)
    columns = {"layer": "layer", "trained": "trained", "seed": "seed", "value": "‖ΔW‖ / ‖W‖"}
    colour = {"color": {"field": "trained", "type": "nominal", "title": None, "sort": None}}
    spec = profile(study.n_layers, "value", MEASURES["relative"], tooltips(columns), levels=False, extra=colour)
    spec["layer"] = [layer for layer in spec["layer"] if "y2" not in layer["encoding"]]
    rows["shift"] = rows["trained"].map({kinds["full"]: -0.12, kinds["single"]: 0.18})
    return Chart(rows[[*columns, "shift"]], spec, columns, {"seed": "seeds"}, table=False)


def matrices(study: Study) -> Chart | None:
    """Return a map of the change of every matrix of every layer, for full RL and the runs of sets."""
    found = []
    for run in study.runs.values():
        if run_layer(run.name) is None and run.name != BASE and run.has_deltas and len(run.layers) > 1:
            table = stored_norms(run, "parameter")
            if len(table):
                found.append(table.assign(run=run.name, seed=str(run.seed), matrix=short_names(table["parameter"])))
    if not found:
        return None
    rows = pd.concat(found)
    rows = rows.sort_values("run", key=lambda names: names != FULL, kind="stable")
    names = rows["matrix"].unique()
    order = [name for name in MATRICES if name in names] + [name for name in names if name not in MATRICES]
    columns = {"layer": "layer", "matrix": "matrix", "relative": "‖ΔW‖ / ‖W‖", "frobenius": "‖ΔW‖"}
    rows = rows.assign(layer=rows["layer"].astype(int))[[*columns, "run", "seed"]]
    x = {"field": "layer", "type": "ordinal", "axis": {"labelAngle": 0, "labelOverlap": True}}
    spec = heat(x, {"field": "matrix", "type": "nominal", "sort": order, "title": None}, "relative", "‖ΔW‖ / ‖W‖",
                tooltips(columns), height=26 * len(order) + 20, zero=True)  # fmt: skip
    return Chart(rows, spec, columns, {"run": "run", "seed": "seed"}, table=False)


def cka(study: Study, tables: Mapping[int, pd.DataFrame]) -> Chart | None:
    """Return CKA of the base and full RL after every layer. `tables`: seed -> `lensrl.compare_activations`."""
    if not tables:
        return None
    columns = {"layer": "layer", "seed": "seed", "cka": "CKA", "low": "low", "high": "high",
               "relative_l2": "relative L2", "cosine": "cosine"}  # fmt: skip
    spec = profile(study.n_layers, "cka", "linear CKA, debiased", tooltips(columns), levels=False)
    spec["layer"].insert(0, level(1, "one"))
    rows = pd.concat([table.assign(seed=str(seed)) for seed, table in tables.items()])
    return Chart(rows[[*columns]], spec, columns, {"seed": "seed"}, digits=4)


def cka_map(maps: Mapping[int, np.ndarray]) -> Chart | None:
    """Return CKA of every layer of the base with every layer of full RL. `maps`: seed -> `lensrl.compare_layers`."""
    if not maps:
        return None
    found = []
    for seed, values in maps.items():
        base, full = (place.ravel() for place in np.indices(values.shape))
        found.append(pd.DataFrame({"base": base, "full": full, "value": values.ravel(), "seed": str(seed)}))
    columns = {"base": "layer of the base", "full": "layer of full RL", "value": "CKA"}
    down, across = (
        {"field": field, "type": "ordinal", "title": columns[field], "axis": {"labelAngle": 0, "labelOverlap": True}}
        for field in ("base", "full")
    )
    spec = heat(across, down, "value", "CKA", tooltips(columns), height=420, domain=[0, 1])
    return Chart(pd.concat(found), spec, columns, {"seed": "seed"}, square=True, table=False)


def patching(study: Study, rows: pd.DataFrame) -> Chart | None:
    """Return the recovery of every metric by layer beside C_l, to choose by patch, seed and kind.

    `rows` are `with_context(study.patches(), study)`, below those of `over_seeds(study)`: the mean of the seeds, with
    each of them as a small point beside it, is then the first choice. Heads and pairs of layers are maps, and left to
    pictures.
    """
    rows = rows[rows["head"].isna() & rows["sets"].isin(("single", "bottom", "top"))]
    if rows.empty:
        return None
    rows = with_intervals(study, rows).assign(
        patch=[f"{part} of {donor} into {into}" + (f", {SET_LABELS[sets]}" if sets in SET_LABELS else "")
               for part, donor, into, sets in zip(rows["component"], rows["from"], rows["into"], rows["sets"],
                                                  strict=True)],
        seed=rows["seed"].astype(str), metric=rows["metric"].replace(METRIC_LABELS),
        note=[": ".join(filter(None, row)) for row in zip(rows["status"], rows["reason"], strict=True)],
    )  # fmt: skip
    # whole blocks put into the base come first
    rows = rows.sort_values(
        ["component", "into", "sets", "what"], key=lambda names: ~names.isin(("block", BASE, "single", "weights"))
    )
    beside = rows[rows["contribution"].notna()].drop_duplicates(["patch", "seed", "layer", "what"])
    beside = beside[["patch", "seed", "layer", "what"]].assign(
        recovery=beside["contribution"], low=beside["contribution_low"], high=beside["contribution_high"]
    )
    both = pd.concat([rows, beside.assign(metric="Cₗ, trained alone", layers=beside["layer"].astype(str), note="")])
    metrics = [*METRIC_LABELS.values(), "Cₗ, trained alone"]
    offset = {name: 0.18 * (i - 1.5) for i, name in enumerate(metrics)}
    both["x"] = both["layer"] + both["metric"].map(offset)
    columns = {"layers": "layer", "seed": "seed", "metric": "metric", "recovery": "recovery", "low": "low",
               "high": "high", "into_value": "into", "patched_value": "patched", "from_value": "from",
               "note": "status"}  # fmt: skip
    encoding = {
        "x": layer_axis(study.n_layers), "tooltip": tooltips(columns),
        "color": {"field": "metric", "type": "nominal", "title": None, "sort": metrics,
                  "scale": {"domain": [name for name in metrics if (both["metric"] == name).any()]}},
    }  # fmt: skip
    y = {"field": "recovery", "type": "quantitative", "title": "recovery", "scale": {"zero": False}}
    shapes = ["circle", "square", "triangle-up", "diamond"][: len(encoding["color"]["scale"]["domain"])]
    points = encoding | {"y": y, "shape": encoding["color"] | {
        "scale": {"range": shapes, "domain": encoding["color"]["scale"]["domain"]}}}  # fmt: skip
    spec = {"params": [{"name": "seed", "value": EVERY}, {"name": "dot", "value": 60}], "height": 320, "layer": [
        level(0, "zero"), level(1, "one"),
        {"transform": [{"filter": "datum.seed != seed"}, {"calculate": "datum.x - 0.09", "as": "x"}],
         "mark": {"type": "point", "filled": True, "size": {"expr": "dot / 3"}, "opacity": 0.45}, "encoding": points},
        {"transform": [{"filter": "datum.seed == seed && isValid(datum.low)"}],
         "mark": {"type": "rule", "strokeWidth": 1.2},
         "encoding": encoding | {"y": y | {"field": "low"}, "y2": {"field": "high"}}},
        {"transform": [{"filter": "datum.seed == seed"}],
         "mark": {"type": "point", "filled": True, "size": {"expr": "dot * 0.7"}, "opacity": 1}, "encoding": points},
    ]}  # fmt: skip
    return Chart(both[[*columns, "patch", "what", "x"]], spec, columns,
                 {"patch": "patch", "seed": "seeds", "what": "by"}, named="metric")  # fmt: skip

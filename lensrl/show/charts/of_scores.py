"""Charts of scores and of training: C_l, curves, predictors, overlaps. None where a study has nothing for one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from lensrl.compare.predictors import PREDICTORS
from lensrl.errors import LensrlError
from lensrl.judge.verdict import Verdict
from lensrl.measures.shapes import best_shape
from lensrl.recipe.runs import BASE, FULL, layer_run, run_layer
from lensrl.show.charts.chart import EVERY, Chart
from lensrl.show.charts.vega import heat, layer_axis, profile, tooltips
from lensrl.show.figures.style import depth_colours
from lensrl.show.figures.training import COLUMNS as CURVES
from lensrl.show.tables import training_curves
from lensrl.show.words import score_in_words
from lensrl.store.scored_by import ALL_BENCHMARKS
from lensrl.store.study import Study

POINTS = 100  # of a training curve: means of neighbouring steps
MARKS = 6000  # of all curves together: many curves have fewer points each, so that the page stays small
SMOOTH = 5  # steps of a running mean, as in the picture of the curves
MOST = 12  # lines of layers that are drawn at first
NAMED = 5  # lines with their names at their ends
OWN = "the study's score"
C_L = "contribution Cₗ"


def contributions(study: Study) -> Chart | None:
    """Return C_l over layers, to choose by benchmark, score and seed.

    A single seed can be chosen for the study's own benchmarks.
    """
    names = study.benchmarks()["benchmark"].tolist()
    others = [*names, ALL_BENCHMARKS] if len(names) > 1 else []
    seeds = [None, *study.seeds] if len(study.seeds) > 1 else [None]
    asked = [(None, kind, seed) for kind in study.possible_scores() for seed in seeds]
    asked += [(name, kind, None) for name in others for kind in study.possible_scores(benchmark=name)]
    found = []
    for benchmark, score, seed in asked:
        try:
            table = study.contributions(seed, benchmark=benchmark, score=score)
        except LensrlError:  # this seed has no full RL, or this benchmark has no such score
            continue
        found.append(table.assign(
            benchmark={None: OWN, ALL_BENCHMARKS: "all benchmarks"}.get(benchmark, benchmark),
            metric=score_in_words(None, score), seed=EVERY if seed is None else str(seed),
            note=[": ".join(filter(None, row)) for row in zip(table["status"], table["reason"], strict=True)],
        ))  # fmt: skip
    if not found:
        return None
    columns = {
        "layer": "layer", "seed": "seed", "contribution": "Cₗ", "low": "low", "high": "high",
        "numerator": "gain of the layer", "denominator": "gain of full RL", "note": "status",
    }  # fmt: skip
    return Chart(
        pd.concat(found)[[*columns, "benchmark", "metric"]],
        profile(study.n_layers, "contribution", C_L, tooltips(columns)),
        columns, {"benchmark": "benchmark", "metric": "score", "seed": "seeds"},
    )  # fmt: skip


def scores(study: Study) -> Chart | None:
    """Return score, tokens per completion and cut completions of every single layer, between the base and full RL."""
    table = study.scores()
    table = table[table["score"].notna()]
    measures = {"score": "score", "length": "tokens per completion", "truncated": "share of completions cut"}
    rows = table.melt(["run", "seed"], [*measures], "measure").dropna(subset=["value"])
    for name in study.benchmarks()["benchmark"] if len(study.benchmarks()) > 1 else []:
        of_one = study.scores(benchmark=name)[["run", "seed", "score"]].dropna()
        rows = pd.concat([rows, of_one.rename(columns={"score": "value"}).assign(measure=f"score, {name}")])
    rows["measure"] = rows["measure"].replace(measures)
    rows["layer"] = [run_layer(run) for run in rows["run"]]
    rows = rows[rows["layer"].notna() | rows["run"].isin((BASE, FULL))]
    if rows["layer"].isna().all():
        return None
    means = rows.groupby(["measure", "run", "layer"], dropna=False, as_index=False, sort=False)["value"].mean()
    of_seeds = rows.assign(seed=rows["seed"].astype(str)) if len(study.seeds) > 1 else rows[:0]
    both = pd.concat([means.assign(seed=EVERY), of_seeds])
    columns = {"run": "run", "seed": "seed", "value": "value"}
    spec = profile(study.n_layers, "value", "mean over the items", tooltips(columns), levels=False)
    ends = [{"filter": f"datum.seed == seed && (datum.run == '{BASE}' || datum.run == '{FULL}')"}]
    y = {"field": "value", "type": "quantitative"}
    named = {"x": {"value": "width"}, "y": y, "text": {"field": "run"}}
    spec["layer"] = [
        {"transform": ends, "mark": {"type": "rule", "style": "zero"},
         "encoding": {"y": y, "tooltip": tooltips(columns)}},
        {"transform": ends, "mark": {"type": "text", "align": "right", "dy": -7, "style": "muted"}, "encoding": named},
        *spec["layer"],
    ]  # fmt: skip
    return Chart(both[[*columns, "measure", "layer"]], spec, columns, {"measure": "measure"}, table=False)


def training(study: Study) -> Chart | None:
    """Return the training curves, to choose by measure, seed and runs. A long curve is shortened to means."""
    curves = {seed: training_curves(study, seed) for seed in study.seeds}
    points = min(POINTS, max(MARKS // max(sum(map(len, curves.values())), 1), 20))
    found = []
    for seed, of_seed in curves.items():
        for name, curve in of_seed:
            known = [
                column for column in [*CURVES, "kl", "entropy", "sampler_mismatch", "clipped_share"] if column in curve
            ]
            every = max(-(-len(curve) // points), 1)
            smooth = curve[known].rolling(SMOOTH, min_periods=1).mean().assign(step=curve["step"])
            means = smooth.groupby(np.arange(len(curve)) // every).mean()
            long = means.melt("step", known, "measure").dropna(subset=["value"])
            found.append(long.assign(run=name, seed=str(seed)))
    if not found:
        return None
    rows = pd.concat(found)
    rows["measure"] = [CURVES.get(name, name.replace("_", " ")) for name in rows["measure"]]
    runs = rows["run"].unique().tolist()
    layers = [run for run in runs if run_layer(run) is not None]
    first = runs
    if (
        len(layers) > MOST
    ):  # more lines than can be told apart: full RL, and the layers that end best, in the middle, worst
        ends = rows[rows["measure"] == rows["measure"].iloc[0]].groupby(["run", "seed"])["value"].last()
        ranked = ends.groupby("run").mean()[layers].sort_values()
        first = [FULL, ranked.index[-1], ranked.index[len(ranked) // 2], ranked.index[0]]
    columns = {"run": "run", "seed": "seed", "step": "step", "value": "value"}
    named = {  # a few lines have their names at their ends; of more, the names would overlap
        "transform": [
            {"joinaggregate": [{"op": "max", "field": "step", "as": "end"}], "groupby": ["run", "seed"]},
            {"joinaggregate": [{"op": "distinct", "field": "run", "as": "runs"}]},
            {"filter": f"datum.step == datum.end && datum.runs <= {NAMED}"},
        ],
        "mark": {"type": "text", "align": "left", "dx": 6, "fontWeight": 600},
        "encoding": {"text": {"field": "run"}},
    }
    spec = {
        "height": 300,
        "layer": [{"mark": {"type": "line", "point": {"size": 12, "opacity": 0.01}}}, named],
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "axis": {"grid": False, "tickMinStep": 1}},
            "y": {"field": "value", "type": "quantitative", "title": "$measure", "scale": {"zero": False}},
            "detail": {"field": "seed"}, "tooltip": tooltips(columns),
        },
    }  # fmt: skip
    return Chart(rows[[*columns, "measure"]], spec, columns, {"measure": "measure", "seed": "seeds"}, several="run",
                 first=[run for run in first if run in runs], colours=run_colours(runs), table=False)  # fmt: skip


def run_colours(runs: list[str]) -> dict[str, str]:
    """Return a colour for each run: layers by their depth, full RL and sets of layers apart from them."""
    from matplotlib.colors import to_hex

    layers = [layer for run in runs if (layer := run_layer(run)) is not None]
    shade: Any = depth_colours(layers)
    apart = itertools.cycle(("#d97b29", "#8a63b3", "#b87f95"))
    found = {}
    for run in runs:
        layer = run_layer(run)
        found[run] = "#d14b46" if run == FULL else next(apart) if layer is None else to_hex(shade.to_rgba([layer])[0])
    return found


def predictors(table: pd.DataFrame) -> Chart | None:
    """Return C_l against one predictor, to choose. `table` is `lensrl.predictors(study)`."""
    shown = table[table["status"] == "defined"] if len(table) else table
    known = [name for name in PREDICTORS if name in shown and shown[name].nunique() > 1]
    if not known:
        return None
    rows = shown.melt(["layer", "contribution", "low", "high"], known, "predictor").dropna(subset=["value"])
    rows["predictor"] = rows["predictor"].replace(PREDICTORS)
    columns = {"layer": "layer", "predictor": "predictor", "value": "predictor's value", "contribution": "Cₗ",
               "low": "low", "high": "high"}  # fmt: skip
    encoding = {
        "x": {"field": "value", "type": "quantitative", "title": "$predictor", "scale": {"zero": False},
              "axis": {"tickCount": 6}},
        "tooltip": tooltips(columns),
    }  # fmt: skip
    depth = {"field": "layer", "type": "quantitative", "title": "layer",
             "legend": {"type": "gradient", "format": "d"}}  # fmt: skip
    y = {"field": "contribution", "type": "quantitative", "title": C_L, "scale": {"zero": False}}
    spec = {"height": 320, "layer": [
        {"mark": {"type": "rule", "style": "error"},
         "encoding": encoding | {"y": y | {"field": "low"}, "y2": {"field": "high"}}},
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
         "encoding": encoding | {"y": y, "color": depth}},
    ]}  # fmt: skip
    return Chart(rows[[*columns]], spec, columns, {"predictor": "predictor"}, table=False)


def coefficients(correlations: pd.DataFrame) -> Chart | None:
    """Return the correlation of every predictor with C_l, raw and beyond depth."""
    kinds = {"spearman": "raw (Spearman)", "detrended": "beyond depth"}
    if correlations.empty:
        return None
    rows = correlations[correlations["method"].isin(kinds) & correlations["coefficient"].notna()]
    if rows.empty:
        return None
    rows = rows.assign(method=rows["method"].replace(kinds), predictor=rows["predictor"].replace(PREDICTORS))
    order = rows[rows["method"] == kinds["spearman"]].sort_values("coefficient", ascending=False)["predictor"].tolist()
    columns = {"predictor": "predictor", "method": "method", "coefficient": "coefficient", "low": "low", "high": "high",
               "p": "p"}  # fmt: skip
    used = [kind for kind in kinds.values() if (rows["method"] == kind).any()]
    encoding = {
        "y": {"field": "predictor", "type": "nominal", "sort": order, "title": None},
        "yOffset": {"field": "method", "sort": used, "scale": {"paddingOuter": 0.6}}, "tooltip": tooltips(columns),
        "color": {"field": "method", "type": "nominal", "title": None, "scale": {"domain": used}},
    }  # fmt: skip
    x = {"field": "coefficient", "type": "quantitative", "title": "correlation with Cₗ", "scale": {"domain": [-1, 1]}}
    spec = {"height": 24 * len(order) + 20, "layer": [
        {"data": {"values": [{}]}, "mark": {"type": "rule", "style": "zero"}, "encoding": {"x": {"datum": 0}}},
        {"mark": "rule", "encoding": encoding | {"x": x | {"field": "low"}, "x2": {"field": "high"}}},
        {"mark": {"type": "point", "filled": True, "size": 55, "opacity": 1}, "encoding": encoding | {"x": x}},
    ]}  # fmt: skip
    return Chart(rows[[*columns]], spec, columns, {}, table=False)


def overlap(study: Study, table: pd.DataFrame) -> Chart | None:
    """Return a map of how far runs solve the same items. `table` is `lensrl.overlaps(study)`."""
    pairs = table[table["kind"].isin(("runs", "samples"))] if len(table) else table
    if pairs.empty:
        return None
    turned = pairs[pairs["kind"] == "runs"].rename(columns={
        "run": "other", "other": "run", "run_solves": "other_solves", "other_solves": "run_solves",
    })  # fmt: skip
    rows = pd.concat([pairs, turned])
    rows = rows.assign(seed=rows["seed"].astype(str))[rows["run"] != BASE]
    order = [run for run in (FULL, *map(layer_run, study.layers)) if (rows["run"] == run).any()]
    columns = {"run": "run", "other": "and", "overlap": "overlap", "low": "low", "high": "high",
               "run_solves": "the first solves", "other_solves": "the second solves"}  # fmt: skip
    axes = [{"field": field, "type": "nominal", "sort": order, "title": None,
             "axis": {"labelOverlap": True}} for field in ("other", "run")]  # fmt: skip
    axes[0]["axis"] = {"labelOverlap": True, "labelAngle": -60}
    cells = heat(axes[0], axes[1], "overlap", "overlap", tooltips(columns), height=440)
    return Chart(rows[[*columns, "seed"]], cells, columns, {"seed": "seed"}, square=True, table=False)


def shapes(verdict: Verdict) -> Chart | None:
    """Return C_l of a verdict with the shapes that were fitted: the hump, and the one that predicts best."""
    if not verdict.shapes:
        return None
    named = {shape.shape: shape for shape in (verdict.shapes.get("hump"), best_shape(verdict.shapes)) if shape}
    rows = verdict.profile.assign(seed=EVERY)
    columns = {"layer": "layer", "contribution": "Cₗ", "low": "low", "high": "high"}
    for name, fit in named.items():
        rows[name] = fit.curve
        columns[name] = name
    spec = profile(verdict.n_layers, "contribution", C_L, tooltips(columns))
    names = [C_L, *named]
    colour = {"scale": {"domain": names}, "title": None}
    curves = [
        {"mark": {"type": "line", "interpolate": "step" if name == "step" else "linear"},
         "encoding": {"x": layer_axis(verdict.n_layers, "layer"), "y": {"field": name, "type": "quantitative"},
                      "color": {"datum": name} | colour}}
        for name in named
    ]  # fmt: skip
    for part in spec["layer"][2:]:
        part["encoding"]["color"] = {"datum": C_L} | colour
    spec["layer"] = [*spec["layer"][:2], *curves, *spec["layer"][2:]]
    return Chart(rows, spec, columns, {}, table=False)

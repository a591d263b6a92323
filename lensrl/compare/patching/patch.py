"""`patch`: put layers of one run into another run, and measure and store the recovery."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import numpy as np
import pandas as pd

from lensrl.compare.cluster import Cluster
from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.sets import check_component, layer_sets
from lensrl.compare.patching.shares import GRAFT_METRICS, share_out, stored
from lensrl.compare.progress import with_bar
from lensrl.errors import LensrlError, did_you_mean
from lensrl.recipe.layers import LayerSpec, parse_layers
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.patch import Metric, PatchComponent, PatchKey, Sets, What
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.tasks import Texts, load_task

OF_ATTENTION = ("block", "attn", "head", "direct")  # components that are patched at the outputs of attention


@with_bar("patching")
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
    metric: Metric = "both",
    seed: int | None = None,
    workers: int = 1,
    cluster: Cluster | None = None,
    on_progress: OnProgress | None = None,
    on_estimate: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """Patch layers of one run into another run, alone or in sets, and measure the recovery of a metric M.

        recovery = (M(patched) - M(into)) / (M(from) - M(into))

    By default the RL-trained layer goes into the base: is the layer sufficient? `reverse` swaps the two runs and puts
    the base's layer into the RL model: is the layer necessary? A recovery of 1 then means that the whole gain is lost.

    `what` names the kinds of patching:

    - `weights` grafts the layer's weights. Metrics: `score` (the study's sampled score) and `reference_logprob`. A
      study that samples no scores has the second alone, of its texts.
    - `activations` replaces the layer's addition to the residual stream, on the same tokens. Metrics:
      `reference_logprob` and `logit_difference`.
    - `both` does the two, each with its own rows.

    `metric` chooses the metrics of grafts: `score`, `logprob` or `both`. A log-probability takes one forward pass of a
    part of the model, and a sampled score hours for a model of billions of parameters. Before the first score,
    `on_estimate` is given about how many seconds the scores take, and NaN with a `cluster`.

    `component` narrows the layer to its attention (`attn`) or its MLP (`mlp`). Three components are for activations
    only. `head` patches each attention head alone. `direct` patches the layer while every later layer that is not
    patched adds what it adds without the patch: the effect that no later layer passes on. `stream` patches the whole
    residual stream after the layer. The stream holds everything that the donor computed up to the layer, so its
    recovery grows with depth by construction.

    `sets` says which layers are patched at once:

    - `single`: each of `layers` alone;
    - `bottom`: layers 0 ... l, for each l of `layers`. For activations of whole blocks, the stream after l is then the
      donor's except for the embedding, so recovery grows with depth by construction;
    - `top`: layers l ... n - 1, for each l of `layers`;
    - `pairs`: every two of `layers`;
    - `together`: all of `layers`.

    The parts outside the layers (`embed`, `final_norm`, `lm_head`) stay the receiving run's. Where a set holds all
    layers and whole blocks are grafted, a last row, `everything`, also grafts these parts. The patched model is then
    the donor, weight for weight, and recovers exactly 1. The row before it lacks only the effect of these parts.

    `workers` processes share the patches. Where sampled scores are asked for, other processes that patch the same study
    share them, too (`lensrl.compare.patching.shares`). `cluster` names a Ray cluster, whose nodes measure the patches
    (`lensrl.compare.cluster.Cluster`).

    Returns one row per set, kind and metric, with `PatchResult.COLUMNS` and the three columns of `with_context`:
    `contribution`, `trained` and `share_of`. Results are stored under `patches/` in the study's folder. A stored
    result is used again until one of its two runs is replaced. `seed=None`: see `lensrl.store.runs.Runs`.

    Raises LensrlError for layers or runs that do not exist, for a run that diverged, for a component that `what` or
    `sets` cannot patch, and for activations of attention in a model with linear attention.
    """
    check_component(component, what, sets)
    if metric not in GRAFT_METRICS:
        raise LensrlError(f"metric={metric!r}: there is no such{did_you_mean(str(metric), GRAFT_METRICS)}")
    if isinstance(load_task(study.recipe), Texts):
        if metric == "score" and what != "activations":
            raise LensrlError(f"{study.path} samples no scores: its task is {study.recipe.task.name!r}; use logprob")
        metric = "logprob"
    chosen = parse_layers(layers, study.n_layers)
    training_seed = study.runs.shared_seed(from_run, into_run, scored=True) if seed is None else seed
    donor, into = (study.runs.find_scored(name, training_seed) for name in (from_run, into_run))
    if reverse:
        donor, into = into, donor
    if donor.run_id == into.run_id:
        raise LensrlError(f"--from and --into both name {donor.name!r}: there is nothing to recover")
    if what != "weights" and component in OF_ATTENTION and into.has_activations and "attn_out" not in into.activations:
        raise LensrlError(
            f"the activations of {component} are patched at the outputs of attention, and some layers of {study.model} "
            f"have none that is known (linear attention): patch --what weights, or --component mlp or stream"
        )
    # One key per result, in the order of the returned rows.
    kinds: list[What] = ["weights", "activations"] if what == "both" else [what]
    keys = [
        PatchKey(
            what=kind,
            component=component,
            layers=unit,
            donor=donor.name,
            into=into.name,
            seed=training_seed,
            sets=named,
        )
        for kind in kinds
        for named, unit in layer_sets(
            sets, chosen, study.n_layers, everything=kind == "weights" and component == "block"
        )
    ]
    # Stored results are read; only missing ones need the models.
    results = {key: found for key in keys if (found := stored(study, key, metric))}
    missing = [key for key in keys if key not in results]
    results |= share_out(study, missing, metric, workers, cluster, on_progress=on_progress, on_estimate=on_estimate)
    return with_context(pd.DataFrame([row for key in keys for row in results[key].rows()]), study)


def with_context(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add the columns that say how to read a recovery. `rows` come from `PatchResult.rows` or `Study.patches`.

    - `contribution`: the layer contribution C_l, measured with the row's seed, beside a single layer. NaN beside a
      set of layers, and where C_l is not defined.
    - `trained`: True where one of the two runs trained the patched component in at least one of the patched layers.
      Where False, both runs hold the base's weights there. A graft then changes nothing and its recovery says nothing
      about RL. Patched activations may still differ, because earlier layers changed.
    - `share_of`: `gain` or `loss`, see `share_of`.
    """
    contributions: dict[tuple[int, int], float] = {}
    for seed in rows["seed"].unique():
        if (FULL, seed) in study and study.layers and study[BASE].has_scores:
            table = study.contributions(int(seed))
            contributions |= {(seed, layer): c for layer, c in zip(table["layer"], table["contribution"], strict=True)}
    beside = [
        contributions.get((seed, layer), np.nan) if sets == "single" else np.nan
        for seed, layer, sets in zip(rows["seed"], rows["layer"], rows["sets"], strict=True)
    ]
    places = rows[["from", "into", "seed", "layers", "component"]]
    known = {place: _trained(study, *place) for place in places.drop_duplicates().itertuples(index=False, name=None)}
    trained = [known[place] for place in places.itertuples(index=False, name=None)]
    return rows.assign(
        contribution=np.array(beside, float), trained=np.array(trained, bool), share_of=share_of(rows).to_numpy()
    )


def share_of(rows: pd.DataFrame) -> pd.Series:
    """Return for each row whether its recovery is the share of a `gain` or of a `loss`.

    RL lowers a metric where the run that is not the base has the lower value. Recovery is then the share of that
    loss, in both directions. Empty where the recovery is not defined, and between two runs that are both trained.
    """
    trained_donor = (rows["from"] != BASE) & (rows["into"] == BASE)
    trained_receiver = (rows["from"] == BASE) & (rows["into"] != BASE)
    raised = (rows["from_value"] > rows["into_value"]) == trained_donor
    told = (rows["status"] == "defined") & (trained_donor | trained_receiver)
    return pd.Series(np.where(told, np.where(raised, "gain", "loss"), ""), index=rows.index, dtype=object)


def _trained(study: Study, donor: str, into: str, seed: int, layers: str, component: PatchComponent) -> bool:
    """Return whether one of two runs trained this component of these layers (`3`, `0-5`, or `everything`).

    The stream after layer l carries the outputs of the layers 0 ... l, so all of these count.
    """
    patched = parse_layers("all" if layers == "everything" else layers, study.n_layers)
    if component == "stream":
        patched = list(range(max(patched) + 1))
    return any(_trains(study.runs.find(name, int(seed)), patched, component) for name in (donor, into))


def _trains(run: Run, layers: Collection[int], component: PatchComponent) -> bool:
    """Return whether a run trained this component of any of the layers. A set may train one component alone."""
    if set(layers).isdisjoint(run.layers):
        return False
    part = "block" if run.layer_set is None else run.layer_set.component
    patched = {"head": "attn", "direct": "block"}.get(component, component)
    return part == "block" or patched in (part, "block", "stream")

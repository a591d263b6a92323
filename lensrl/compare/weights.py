"""Measure how training changed the weights of each layer, and how straight their path was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float64

from lensrl.compare.device import Device, algebra_on
from lensrl.compare.patching import OnProgress
from lensrl.compare.precision import Kinds, Stored, precision, stored_as
from lensrl.compare.progress import with_bar
from lensrl.compare.random_direction import random_direction
from lensrl.compare.side_by_side import side_by_side
from lensrl.errors import LensrlError
from lensrl.measures.algebra import LAPACK, Algebra
from lensrl.measures.joined import Pair, Weights
from lensrl.measures.trajectory import directness, directness_null, gram, linearity, linearity_null
from lensrl.measures.weights import (
    DeltaMetrics,
    EntryMetrics,
    SpectralMetrics,
    entry_metrics,
    join_metrics,
    medians,
    spectral_metrics,
)
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.file.exact import add
from lensrl.store.file.lazy import Deltas
from lensrl.store.origin import check_base
from lensrl.store.run import Run
from lensrl.store.study import Study

if TYPE_CHECKING:
    from lensrl.models.blocks import Blocks  # torch, which `compare_weights` alone needs

By = Literal["parameter", "component", "layer"]
HELD = 2**22  # entries of a row that is held in memory: 32 MB before and after
WEIGHT_COLUMNS = ["parameter", "layer", "component", *DeltaMetrics._fields]
PRECISION_COLUMNS = ["base_dtype", "trained_dtype", "rounding_norm"]
TRAJECTORY_COLUMNS = ["layer", "snapshots", "linearity", "linearity_null", "directness", "directness_null"]


@with_bar("weight deltas")
def compare_weights(
    study: Study,
    run: str = FULL,
    *,
    by: By = "parameter",
    seed: int | None = None,
    draws: int = 0,
    device: Device | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Measure how training changed the weights of a run. Columns: parameter, layer, component, and `DeltaMetrics`.

    `by` says what one row is:

    - `parameter`: one parameter that changed;
    - `component`: the attention, the MLP or the norms of a layer, where any weight changed;
    - `layer`: a layer in which any weight changed.

    A component or layer is measured as one vector, all its weights laid end to end. The measures that need singular
    values (`lensrl.measures.weights.SPECTRAL`) are medians over its changed matrices. A part outside the layers has a
    row of its own, with the name of the part as component. `table.attrs["by_svd"]` names the parameters with a measure
    that needed a full SVD: the Gram matrices, which serve elsewhere, would have lost it (`lensrl.measures.spectra`).

    With `draws`, each measure has a column beside it, `stable_rank_random`: its mean over as many random deltas with
    the same norm in each parameter (`lensrl.compare.random_direction`).

    Three columns follow: `base_dtype` and `trained_dtype`, the types in which the two are stored, and `rounding_norm`,
    the norm that rounding to them would give alone (`lensrl.compare.precision`). It is 0 for a run that was trained
    here, and NaN where a file does not say which parameter was stored in which type.

    The base is read from its files, the parts that changed as `lensrl.compare_models` reads them, and all of it once to
    know it by its sha256. `seed=None`: see `lensrl.store.runs.Runs`. `device="cuda"` or `"cpu"` computes the spectra
    with torch there, in float64; None with NumPy (`lensrl.compare.device`).

    Raises LensrlError for a run that diverged, when the base model is not the model that the run was trained from, and
    for `cuda` without a GPU.
    """
    from lensrl.models.base import fingerprint  # torch, only where weights are needed
    from lensrl.models.pair import open_base

    algebra = algebra_on(device)
    trained = study.runs.find_scored(run, study.runs.shared_seed(run, scored=True) if seed is None else seed)
    base, skeleton = open_base(study.recipe.model)
    check_base(trained, study.recipe.model, fingerprint(base))
    weights = _weights_of(trained, base, skeleton.blocks)
    kinds = _kinds(trained, base.dtypes)
    return weight_table(weights, by, kinds, on_progress, draws=draws, algebra=algebra)[0]


def _kinds(run: Run, own: Mapping[str, str]) -> Kinds:
    """Return the stored types of a base and of a run. Of a run that was trained here, the difference is exact."""
    if run.checkpoint is None or run.checkpoint.get("merged"):
        return Kinds(own, dict.fromkeys(own, "float32"), exact=True)
    others = dict(run.checkpoint.get("parameter_dtypes", {}))
    most = str(run.checkpoint["dtype"])
    most = most.split(" and ")[0] if "parameter_dtypes" in run.checkpoint else most
    return Kinds(own, {name: str(others.get(name, most)) for name in own})


def _weights_of(run: Run, base: Mapping[str, np.ndarray], blocks: Blocks) -> list[Weight]:
    """Return the weights of each part that a run changed, unread."""
    changed = {part: {*run.deltas[part]} for part in run.deltas}

    def read(name: str) -> Pair:
        part, inner, before = blocks.part(name), blocks.inner(name), base[name]
        if inner not in changed[part]:
            return before, before
        return before, add(before, run.deltas.exact_of(part, inner), in_place=True)

    rows = run.delta_norms().to_dict("records")
    places = [(row["parameter"], blocks.part(row["parameter"]), row["component"], row["size"]) for row in rows]
    return [Weight(*place, partial(read, place[0])) for place in places if place[1] in changed]


class Weight(NamedTuple):
    """A parameter before and after training, which is read each time that it is needed."""

    name: str
    part: int | str
    component: str  # empty outside the layers
    entries: int
    read: Callable[[], Pair]  # twice the very same array where the parameter did not change


class Row(NamedTuple):
    """A row of the table of `compare_weights`: the columns that name it."""

    parameter: str
    layer: int | None
    component: str


class Measured(NamedTuple):
    """What was measured of a parameter, or of a row: of its change, and of each random delta in its place."""

    entries: list[EntryMetrics]  # empty for a parameter that is no row of its own
    spectra: list[SpectralMetrics]  # empty for a row of several parameters, and where nothing changed
    stored: Stored = Stored()  # of a parameter


def weight_table(
    weights: Sequence[Weight], by: By, kinds: Kinds, on_progress: OnProgress | None = None, *, draws: int = 0,
    algebra: Algebra = LAPACK,
) -> tuple[pd.DataFrame, list[Stored]]:  # fmt: skip
    """Measure the change of every weight: the table of `compare_weights`, and how each weight is stored.

    Matrices are measured side by side, one on each core, the largest first. Each core holds one of them at a time. A
    row of several weights is one vector: it is read anew, weight by weight, for each of the passes over its entries.
    """
    rows: dict[Row, list[Weight]] = {}
    for weight in sorted(weights, key=lambda one: (isinstance(one.part, str), one.part)):
        rows.setdefault(_row_of(weight, by), []).append(weight)

    def measure(job: Weight | Row) -> Measured:
        if isinstance(job, Row):
            return _measure_row(rows[job], draws)
        return _measure_weight(job, kinds, draws, algebra, alone=len(rows[_row_of(job, by)]) == 1)

    sizes = {row: sum(weight.entries for weight in members) for row, members in rows.items() if len(members) > 1}
    sizes |= {weight: weight.entries for members in rows.values() for weight in members}
    jobs = sorted(sizes, key=lambda job: -sizes[job])
    on_done = None if on_progress is None else lambda done: on_progress("matrices", done, len(jobs))
    found = dict(zip(jobs, side_by_side(measure, jobs, on_done), strict=True))
    table, by_svd = [], []
    for row, members in rows.items():
        changed = [weight for weight in members if found[weight].spectra]
        if not changed:
            continue
        by_svd += [weight.name for weight in changed if found[weight].spectra[0].by_svd]
        entries = found[members[0] if len(members) == 1 else row].entries
        spectra = map(medians, zip(*(found[weight].spectra for weight in changed), strict=True))
        own, *drawn = map(join_metrics, entries, spectra)
        control = np.mean(drawn, axis=0) if drawn else ()
        table.append((*row, *own, *control, *precision([found[weight].stored for weight in members])))
    columns = WEIGHT_COLUMNS + [f"{name}_random" for name in DeltaMetrics._fields if draws] + PRECISION_COLUMNS
    joined = pd.DataFrame(table, columns=columns).astype({"layer": "Int64"})
    joined.attrs["by_svd"] = by_svd
    return joined, [found[weight].stored for members in rows.values() for weight in members]


def _row_of(weight: Weight, by: By) -> Row:
    layer = weight.part if isinstance(weight.part, int) else None
    if by == "parameter":
        return Row(weight.name, layer, weight.component)
    return Row("", layer, str(weight.part) if layer is None else weight.component if by == "component" else "")


def _measure_weight(weight: Weight, kinds: Kinds, draws: int, algebra: Algebra, *, alone: bool) -> Measured:
    """Measure a weight and random deltas in its place; its entries only where it is `alone` in its row."""
    pair = weight.read()
    stored = stored_as(weight.name, pair, kinds)
    if pair[0] is pair[1]:
        return Measured([], [], stored)
    entries, spectra = [], []
    for draw in (None, *range(draws)):
        drawn = _drawn(weight.name, pair, draw)
        spectra.append(spectral_metrics(*drawn, algebra))
        if alone:
            entries.append(entry_metrics(lambda drawn=drawn: [drawn]))
    return Measured(entries, spectra, stored)


def _measure_row(weights: Sequence[Weight], draws: int) -> Measured:
    """Measure the entries of several weights, laid end to end, and of random deltas in their place."""
    if all(before is after for before, after in (weight.read() for weight in weights)):
        return Measured([], [])
    return Measured([entry_metrics(_given(weights, draw)) for draw in (None, *range(draws))], [])


def _given(weights: Sequence[Weight], draw: int | None) -> Weights:
    """Return what gives the weights for each pass over their entries. Those of a small model are read once."""

    def given() -> Iterator[Pair]:
        return (_drawn(weight.name, weight.read(), draw) for weight in weights)

    if sum(weight.entries for weight in weights) > HELD:
        return given
    held = [*given()]
    return lambda: held


def _drawn(name: str, pair: Pair, draw: int | None) -> Pair:
    """Return a weight before and after training, or after a random delta of the same norm."""
    before, after = pair
    return pair if draw is None else (before, random_direction({name: before}, {name: after}, draw)[name])


def along_training(study: Study, run: str = FULL, *, seed: int | None = None) -> pd.DataFrame:
    """Measure how straight the path of each layer's weights was during training: one row per layer of the model.

    Columns: layer; snapshots, the number of known points of the path; linearity and directness, NaN for a layer that
    never moved (`lensrl.measures.trajectory`); linearity_null and directness_null, the values of a random walk with
    increments of the same length.

    The points are the snapshots that the recipe asked for, and the weights at the end. Of a checkpoint, the points are
    its snapshots alone: the step of its end is known only where it is one of them. Deltas are read one layer at a time.
    `seed=None`: see `lensrl.store.runs.Runs`. Raises LensrlError when fewer than two points are known.
    """
    trained = study.runs.find(run, study.runs.shared_seed(run, scored=True) if seed is None else seed)
    points = _points(trained)
    rows = []
    for layer in range(study.n_layers):
        products = _gram(list(points.values()), layer)
        rows.append((
            layer, len(points),
            linearity(list(points), products), linearity_null(list(points), products),
            directness(products), directness_null(products),
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=TRAJECTORY_COLUMNS)


def _points(run: Run) -> dict[int, Deltas]:
    """Map each known step to the deltas after it, in order. Raises LensrlError for fewer than two steps."""
    points = dict(run.snapshots)
    if run.has_scores and run.has_training:
        points[int(run.training()["step"].max())] = run.deltas
    if len(points) < 2 and run.checkpoint is not None:
        raise LensrlError(
            f"{run.path} has no path to follow (a checkpoint with {len(points)} snapshots): name two or more in the "
            f"recipe, checkpoints.{run.name}.snapshots = {{ 100 = 'FOLDER', 200 = 'FOLDER' }}, in a folder of its own"
        )
    if len(points) < 2:
        why = run.reason or ("the base is not trained" if run.name == BASE else "only its last weights were kept")
        raise LensrlError(
            f"{run.path} has no path to follow ({why}): put snapshots = [0.25, 0.5, 0.75, 1.0] under [store] in the "
            f"recipe, and run it into a folder of its own with --out"
        )
    return dict(sorted(points.items()))


def _gram(points: Sequence[Deltas], layer: int) -> Float64[np.ndarray, "snapshot snapshot"]:
    """Return the inner product of a layer's deltas at every two points.

    A parameter that has not moved yet adds nothing: its delta is zero there.
    """
    changes = [dict(deltas.exact(layer).values()) for deltas in points]
    products = np.zeros((len(points), len(points)))
    for name in dict.fromkeys(name for change in changes for name in change):
        moved = [i for i, change in enumerate(changes) if name in change]
        products[np.ix_(moved, moved)] += gram([changes[i][name].delta for i in moved])
    return products

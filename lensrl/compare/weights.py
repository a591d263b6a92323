"""Measure how training changed the weights of each layer, and how straight their path was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from lensrl.compare.device import Device, algebra_on
from lensrl.compare.patching import OnProgress
from lensrl.compare.precision import Kinds, Stored, add_precision, watch
from lensrl.compare.progress import with_bar
from lensrl.compare.random_direction import random_direction
from lensrl.compare.side_by_side import side_by_side
from lensrl.errors import LensrlError
from lensrl.measures.algebra import LAPACK, Algebra
from lensrl.measures.trajectory import directness, directness_null, gram, linearity, linearity_null
from lensrl.measures.weights import DeltaMetrics, SpectralMetrics, entry_metrics, join_metrics, spectral_metrics
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.file.exact import add
from lensrl.store.file.lazy import Deltas
from lensrl.store.origin import check_base
from lensrl.store.run import Run
from lensrl.store.study import Study

if TYPE_CHECKING:
    from lensrl.models.blocks import Blocks  # torch, which `compare_weights` alone needs

By = Literal["parameter", "component", "layer"]
WEIGHT_COLUMNS = ["parameter", "layer", "component", *DeltaMetrics._fields]
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
    stored: list[Stored] = []
    parts = watch(_parts_of(trained, base, skeleton.blocks), by, _kinds(trained, base.dtypes), stored)
    table = weight_table(parts, by, len(trained.deltas), on_progress, draws=draws, algebra=algebra)
    add_precision(table, by, stored)
    return table


def _kinds(run: Run, own: Mapping[str, str]) -> Kinds:
    """Return the stored types of a base and of a run. Of a run that was trained here, the difference is exact."""
    if run.checkpoint is None or run.checkpoint.get("merged"):
        return Kinds(own, dict.fromkeys(own, "float32"), exact=True)
    others = dict(run.checkpoint.get("parameter_dtypes", {}))
    most = str(run.checkpoint["dtype"])
    most = most.split(" and ")[0] if "parameter_dtypes" in run.checkpoint else most
    return Kinds(own, {name: str(others.get(name, most)) for name in own})


def _parts_of(run: Run, base: Mapping[str, np.ndarray], blocks: Blocks) -> Iterator[PartWeights]:
    """Read the weights of each part that a run changed, before and after."""
    components = run.delta_norms().set_index("parameter")["component"]
    for part in sorted(run.deltas, key=lambda part: isinstance(part, int)):  # the embeddings, often the largest, first
        before = {name: base[name] for name in components.index if blocks.part(name) == part}
        after = before | {name: add(before[name], change) for name, change in run.deltas.exact(part).values()}
        yield PartWeights(part, {name: components[name] for name in before}, before, after)


class PartWeights(NamedTuple):
    """The weights of a layer, or of a part outside the layers, before and after training."""

    part: int | str
    components: Mapping[str, str]  # parameter -> component; empty outside the layers
    before: Mapping[str, Float32[np.ndarray, "..."]]
    after: Mapping[str, Float32[np.ndarray, "..."]]  # the very array of `before` where a parameter did not change


def weight_table(
    parts: Iterable[PartWeights], by: By, total: int = 0, on_progress: OnProgress | None = None, *, draws: int = 0,
    algebra: Algebra = LAPACK,
) -> pd.DataFrame:  # fmt: skip
    """Measure the change of every part: the table of `compare_weights`.

    Parts are measured side by side, one on each core, and each is read when a core is free: give the largest first.
    `table.attrs["by_svd"]` names the parameters with a measure that needed an SVD (`lensrl.measures.spectra`).
    """
    found = side_by_side(
        lambda part: _measure_with_control(part, by, draws, algebra),
        parts,
        None if on_progress is None else lambda done: on_progress("parts", done, total),
    )
    measured = sorted(found, key=lambda one: (isinstance(one.part, str), one.part))
    columns = WEIGHT_COLUMNS + [f"{name}_random" for name in DeltaMetrics._fields if draws]
    table = pd.DataFrame([row for one in measured for row in one.rows], columns=columns)
    table.attrs["by_svd"] = [name for one in measured for name in one.by_svd]
    return table.astype({"layer": "Int64"})


class MeasuredPart(NamedTuple):
    """The rows of one part, and the parameters with a measure that needed an SVD."""

    part: int | str
    rows: list[tuple]
    by_svd: list[str]


def _measure_with_control(weights: PartWeights, by: By, draws: int, algebra: Algebra) -> MeasuredPart:
    """Measure a part, and as many random deltas in its place: their means stand at the end of each row."""
    found = _measure_part(weights, by, algebra)
    if not draws:
        return found
    drawn = [
        _measure_part(weights._replace(after=random_direction(weights.before, weights.after, draw)), by, algebra).rows
        for draw in range(draws)
    ]
    means = np.mean([[row[-len(DeltaMetrics._fields) :] for row in rows] for rows in drawn], axis=0)
    return found._replace(rows=[(*row, *control) for row, control in zip(found.rows, means, strict=True)])


def _measure_part(weights: PartWeights, by: By, algebra: Algebra) -> MeasuredPart:
    part, components, before, after = weights
    layer = part if isinstance(part, int) else None
    moved = [name for name in before if after[name] is not before[name]]
    spectra = {name: spectral_metrics(before[name], after[name], algebra) for name in moved}
    by_svd = [name for name in moved if spectra[name].by_svd]
    if by == "parameter":
        found = {name: join_metrics(entry_metrics(before[name], after[name]), spectra[name]) for name in moved}
        rows = [(name, layer, components[name], *metrics) for name, metrics in found.items()]
        return MeasuredPart(part, rows, by_svd)
    # The part as one group, or each of its components: one vector, and the medians over its changed matrices.
    rows = []
    groups = pd.Series([components[name] if by == "component" else "" for name in before], [*before])
    for component, names in groups.groupby(groups, sort=False).groups.items():
        changed = [name for name in names if name in moved]
        if not changed:
            continue
        joined = (_end_to_end([values[name] for name in names]) for values in (before, after))
        medians = pd.DataFrame([spectra[name][:-1] for name in changed]).median()
        metrics = join_metrics(entry_metrics(*joined), SpectralMetrics(*medians, by_svd=()))
        rows.append(("", layer, part if layer is None else component, *metrics))
    return MeasuredPart(part, rows, by_svd)


def _end_to_end(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Lay arrays end to end. A single array is not copied."""
    return weights[0].ravel() if len(weights) == 1 else np.concatenate([values.ravel() for values in weights])


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

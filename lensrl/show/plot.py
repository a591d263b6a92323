"""Figures of a study, as functions that return matplotlib Axes.

    >>> import lensrl
    >>> lensrl.plot.contributions(study)
    >>> figure, (left, right) = plt.subplots(1, 2)
    >>> lensrl.plot.contributions(study, ax=left)

Every function takes `ax`, the Axes to draw on. Without, it makes a figure of its own. `title` is the title; "" draws
none. The command line and the report use the same functions. `save` writes a figure with fonts that journals accept.

A study has no method `plot`: `lensrl.store` reads files and knows no figure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from matplotlib.axes import Axes

from lensrl.compare.activations import SITE, compare_activations, compare_layers
from lensrl.compare.patching.patch import with_context
from lensrl.compare.predictors import PREDICTORS
from lensrl.compare.predictors import predictors as predictor_table
from lensrl.errors import LensrlError, did_you_mean
from lensrl.judge.agreement import StudyAgreement
from lensrl.judge.agreement import agree as agree_studies
from lensrl.judge.correlate import correlate_study
from lensrl.judge.overlap import overlaps
from lensrl.judge.verdict import Verdict
from lensrl.judge.verdict import verdict as judge
from lensrl.recipe.runs import BASE, FULL, run_layer
from lensrl.show.figures import agreement as _agreement
from lensrl.show.figures import layers as _layers
from lensrl.show.figures import overlap as _overlap
from lensrl.show.figures import patching as _patching
from lensrl.show.figures import scatter as _scatter
from lensrl.show.figures import training as _training
from lensrl.show.figures import verdict as _verdict
from lensrl.show.figures.style import canvas, house_style, save_figure, width_for
from lensrl.show.tables import By, contributions_by_seed, norms_by_seed, stored_norms, training_curves, with_intervals
from lensrl.show.words import SET_LABELS, Look, score_in_words
from lensrl.store.patch import What
from lensrl.store.study import Study

__all__ = [
    "Look", "agreement", "cka", "cka_map", "completions_length", "contributions", "delta_norms", "deltas",
    "heads", "overlap", "patching", "patching_panels", "predictor_panels", "predictors", "save", "training", "verdict",
]  # fmt: skip


def contributions(
    source: Study | pd.DataFrame,
    *,
    seed: int | None = None,
    benchmark: str | None = None,
    score: str = "mean",
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw the contribution C_l of every layer with its 95 % interval; of several seeds, also the value of each.

    `source` is a study, or a table as `lensrl.read_contributions` gives it. `benchmark` and `score` are for a study.
    Raises LensrlError as `Study.contributions`.
    """
    seeds = None
    if isinstance(source, Study):
        table = source.contributions(seed, benchmark=benchmark, score=score)
        name = source.name if seed is None else f"{source.name}, seed {seed}"
        if benchmark is not None or score != "mean":
            name += f", {score_in_words(benchmark, score)}"
        if seed is None and len(source.seeds) > 1:
            seeds = contributions_by_seed(source, benchmark=benchmark, score=score)
        title = f"{name}: layer contribution, 95 % intervals" if title is None else title
    else:
        table = source.assign(**{"status": "defined", "reason": ""} | {c: source[c] for c in ("status", "reason")
                                                                       if c in source})  # fmt: skip
    axes = ax or _own(look, wide=width_for(len(table)))
    with _style(look):
        return _layers.draw_contributions(axes, table, seeds, title=title or "", look=look)


def training(
    study: Study,
    column: str = "reward_mean",
    *,
    seed: int | None = None,
    layers: Collection[int] | None = None,
    window: int = 5,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw a column of the training curves of all runs with one seed, by default the lowest: its mean over `window`
    steps.

    Up to 12 single layers have a line each. Of more, the figure shows the median, the spread and the best; `layers`
    names those to draw. Runs at other learning rates are left out. Raises LensrlError when no run has a curve.
    """
    seed = min(study.seeds, default=0) if seed is None else seed
    curves = training_curves(study, seed)
    if not any(column in curve for _, curve in curves):
        known = sorted({str(name) for _, curve in curves for name in curve} - {"step"})
        raise LensrlError(
            f"{study.path} has no curve {column!r}{did_you_mean(column, known)}" if known
            else f"{study.path} has no training curves with seed {seed}: runs from checkpoints have none"
        )  # fmt: skip
    if layers is not None and (unknown := {*layers} - {run_layer(name) for name, _ in curves}):
        raise LensrlError(f"{study.path} has no curve of layer {min(unknown)} with seed {seed}")
    title = f"{study.name}, seed {seed}" if title is None else title
    axes = ax or _own(look)
    with _style(look):
        return _training.draw_training(axes, curves, column, layers=layers, window=window, title=title, look=look)


def completions_length(study: Study, **options: Any) -> Axes:
    """Draw the mean number of tokens of a completion during training: `training` with another column."""
    return training(study, "completion_length", **options)


def deltas(
    source: Study | pd.DataFrame,
    run: str = FULL,
    *,
    by: By = "parameter",
    measure: str = "relative",
    seed: int | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw how much training changed the weights: a heat map of layers and matrices, or lines by component or layer.

    `source` is a study, of which the norms that are stored in its run files are drawn; or a table of
    `lensrl.compare_weights`, of which `measure` may be any measure (`stable_rank`, `left_angle`).
    """
    if isinstance(source, Study):
        found = source.runs.find_scored(run, seed)
        table = stored_norms(found, by)
        title = f"{source.name}: weight deltas of {run}, seed {found.seed}" if title is None else title
    else:
        table = source
    if measure not in table:
        raise LensrlError(f"no measure {measure!r} in this table{did_you_mean(measure, map(str, table))}")
    if not table["layer"].notna().any():
        raise LensrlError(f"{run if isinstance(source, Study) else 'training'} changed no layer: nothing to draw")
    count = int(table["layer"].max()) + 1
    axes = ax or _own(look, wide=width_for(count))
    with _style(look):
        return _layers.draw_weights(axes, table, measure, title=title or "", look=look)


def heads(table: pd.DataFrame, *, ax: Axes | None = None, title: str = "", look: Look | None = None) -> Axes:
    """Draw how much each attention head of one layer changed. `table` is `lensrl.compare_heads(study, layer)`.

    Raises LensrlError for the heads of several layers.
    """
    if table["layer"].nunique() != 1:
        raise LensrlError(f"heads are drawn for one layer, and the table has {table['layer'].nunique()}: choose one")
    axes = ax or _own(look, wide=5.6, high=2.4)
    with _style(look):
        return _layers.draw_heads(axes, table, title=title, look=look)


def delta_norms(
    study: Study, table: pd.DataFrame | None = None, *, ax: Axes | None = None, title: str | None = None,
    look: Look | None = None,
) -> Axes:  # fmt: skip
    """Draw the relative weight-delta norm of each layer, in full RL and when trained alone; of several seeds, each.

    `table` is `lensrl.predictors(study)`, where it is known already.
    """
    table = predictor_table(study) if table is None else table
    seeds = None
    if len(study.seeds) > 1:
        seeds = norms_by_seed(study, table["layer"].tolist())
    axes = ax or _own(look, wide=width_for(len(table)))
    title = f"{study.name}: weight deltas" if title is None else title
    with _style(look):
        return _layers.draw_delta_norms(axes, table, seeds, title=title, look=look)


def cka(
    source: Study | pd.DataFrame,
    one: str = BASE,
    other: str = FULL,
    *,
    site: str = SITE,
    seed: int | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw the debiased CKA of two runs after each layer, with its 95 % interval over sequences.

    `source` is a study, or a table of `lensrl.compare_activations`.
    """
    table = compare_activations(source, one, other, site=site, seed=seed) if isinstance(source, Study) else source
    if title is None and isinstance(source, Study):
        title = f"{source.name}: CKA of {one} and {other} at {site}"
    axes = ax or _own(look, wide=width_for(len(table)))
    with _style(look):
        return _layers.draw_cka(axes, table, title=title or "", look=look)


def cka_map(
    study: Study,
    one: str = BASE,
    other: str = FULL,
    *,
    site: str = SITE,
    seed: int | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw the debiased CKA of every layer of run `one` with every layer of run `other`."""
    values = compare_layers(study, one, other, site=site, seed=seed)
    title = f"{study.name}: CKA of all layers" if title is None else title
    axes = ax or _own(look, wide=5.2, high=4.4, square=True)
    with _style(look):
        return _layers.draw_cka_map(axes, values, one, other, title=title, look=look)


def overlap(
    study: Study,
    table: pd.DataFrame | None = None,
    *,
    benchmark: str | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw how far runs solve the same items, as a matrix of runs. `table` comes from `lensrl.overlaps`."""
    table = overlaps(study, benchmark=benchmark) if table is None else table
    title = f"{study.name}: overlap of solved items" if title is None else title
    side = 2.2 + 0.38 * table["run"].nunique()
    axes = ax or _own(look, wide=side + 1, high=side, square=True)
    with _style(look):
        return _overlap.draw_overlaps(axes, table, title=title, look=look)


def patching(
    study: Study,
    rows: pd.DataFrame | None = None,
    *,
    what: What = "weights",
    from_run: str = FULL,
    into_run: str = BASE,
    component: str = "block",
    sets: str = "single",
    seed: int | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw recoveries by patched weights or activations beside C_l; heads and pairs of layers as a map.

    `rows` are those of `lensrl.patch`; by default the stored results of this patch. A metric has the same place and
    colour in every such figure. Raises LensrlError when nothing of this kind was patched.
    """
    if rows is None:
        rows = with_context(study.patches(), study)
        seed = min(rows["seed"], default=0) if seed is None else seed
        wanted = {"from": from_run, "into": into_run, "component": component, "sets": sets, "seed": seed}
        rows = rows[(rows[[*wanted]] == pd.Series(wanted)).all(axis=1)]
    rows = rows[(rows["what"] == what) & (rows["sets"] != "everything")]  # everything: 1 by construction
    if rows.empty:
        raise LensrlError(
            f"{study.path}: no such patch of {what} is stored; lensrl patch {study.path} --layer all --what {what}"
        )
    first = rows.to_dict("records")[0]
    if title is None:
        title = f"{study.name}: {first['component']} of {first['from']} into {first['into']}, seed {first['seed']}"
        title += f", {SET_LABELS[first['sets']]}" if first["sets"] != "single" else ""
    as_map = _patching.is_map(rows)
    axes = ax or (
        _own(look, wide=5.2, high=4.4, square=True) if as_map else _own(look, wide=width_for(rows["layer"].nunique()))
    )
    with _style(look):
        if as_map:
            return _patching.draw_recovery_map(axes, rows, title=title, look=look)
        return _patching.draw_recoveries(axes, with_intervals(study, rows), title=title, look=look)


def patching_panels(
    study: Study, rows: pd.DataFrame, *, title: str | None = None, look: Look | None = None
) -> list[Axes]:
    """Draw the rows of one `lensrl.patch`: a panel for weights and a panel for activations, with one title."""
    kinds: list[What] = [kind for kind in get_args(What) if (rows["what"] == kind).any()]
    as_map = _patching.is_map(rows)
    wide = 5.2 if as_map else width_for(rows["layer"].nunique())
    drawn = canvas(look, wide=wide, high=(4.4 if as_map else 3.2) * len(kinds), rows=len(kinds), square=as_map)
    for axes, kind in zip(drawn, kinds, strict=True):
        first = kind == kinds[0]
        patching(study, rows, what=kind, ax=axes, title=title if first else "", look=look or Look())
    return drawn


def predictors(
    study: Study,
    name: str | None = None,
    *,
    table: pd.DataFrame | None = None,
    correlations: pd.DataFrame | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw C_l against one predictor; without a name, the correlation of every predictor with C_l, in one figure.

    `PREDICTORS` in `lensrl.compare.predictors` has the names. `table` and `correlations` are `lensrl.predictors(study)`
    and `lensrl.correlate_study(study)`, where they are known already. For small multiples see `predictor_panels`.
    """
    table = predictor_table(study) if table is None else table
    correlations = correlate_study(study, table) if correlations is None else correlations
    title = study.name if title is None else title
    if name is None:
        count = correlations["predictor"].nunique()
        axes = ax or _own(look, wide=6.4, high=max(2.2, 0.3 * count + 0.9))
        with _style(look):
            return _scatter.draw_coefficients(axes, correlations, PREDICTORS, title=title, look=look)
    if name not in table or name not in PREDICTORS:
        known = _scatter.drawable(table, PREDICTORS)
        raise LensrlError(
            f"no predictor {name!r} in {study.path}{did_you_mean(name, known)}; known: {', '.join(known)}"
        )
    axes = ax or _own(look, wide=4.6, high=3.6)
    with _style(look):
        return _scatter.draw_scatter(axes, table, name, PREDICTORS[name], correlations, title=title, look=look)


def predictor_panels(
    study: Study,
    names: Sequence[str] | None = None,
    *,
    table: pd.DataFrame | None = None,
    correlations: pd.DataFrame | None = None,
    look: Look | None = None,
) -> list[Axes]:
    """Draw C_l against several predictors, by default all that differ between layers, as small multiples."""
    table = predictor_table(study) if table is None else table
    correlations = correlate_study(study, table) if correlations is None else correlations
    names = _scatter.drawable(table, PREDICTORS) if names is None else names
    wide = 9.0 if look is None or look.width is None else look.width
    columns = max(1, min(len(names), int(wide / 2.9)))
    rows = -(-len(names) // columns)
    high = 2.7 * rows * (wide / columns / 3.0) ** 0.5
    drawn = canvas(look, wide=wide, high=high, rows=rows, columns=columns)
    with _style(look):
        for axes, name in zip(drawn, names, strict=False):
            _scatter.draw_scatter(axes, table, name, PREDICTORS[name], correlations, scale=False, look=look)
    for axes in drawn[len(names) :]:
        axes.remove()
    return drawn[: len(names)]


def verdict(
    source: Study | Verdict | str | Path, *, ax: Axes | None = None, title: str | None = None, look: Look | None = None
) -> Axes:
    """Draw the profile of a verdict with its fitted shapes. `source` is a verdict, or what `lensrl.verdict` judges."""
    found = source if isinstance(source, Verdict) else judge(source)
    title = f"{found.name}: the profile and its shapes" if title is None else title
    axes = ax or _own(look, wide=width_for(found.n_layers), high=3.6)
    with _style(look):
        return _verdict.draw_verdict(axes, found, title=title, look=look)


def agreement(
    source: StudyAgreement | Sequence[Study | str | Path],
    *,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw the rank correlation of every pair of studies. `source` is an agreement, or several studies or tables."""
    found = source if isinstance(source, StudyAgreement) else agree_studies(*source)
    title = "Agreement of layer contributions, 95 % intervals" if title is None else title
    side = 1.05 * len(found.studies)
    axes = ax or _own(look, wide=max(side + 3.4, 5.6), high=max(side + 1.9, 3.4))
    with _style(look):
        return _agreement.draw_agreement(axes, found, title=title, look=look)


def save(axes: Axes | Sequence[Axes], path: str | Path) -> None:
    """Save the figure of the Axes whole or not at all, as png, svg or pdf, with its title and description.

    Fonts are TrueType in PDF, and text in SVG. Raises LensrlError for another suffix, and when the disk is full.
    """
    first = axes if isinstance(axes, Axes) else axes[0]
    figure = first.get_figure(root=True)
    assert figure is not None
    save_figure(figure, path)


def _own(look: Look | None, *, wide: float = 7.2, high: float = 3.4, square: bool = False) -> Axes:
    """Return the Axes of a new figure."""
    return canvas(look, wide=wide, high=high, square=square)[0]


def _style(look: Look | None) -> AbstractContextManager[None]:
    """Return the project's style. On Axes of somebody else's, type keeps the size that is set there."""
    return house_style(None if look is None else look.points)

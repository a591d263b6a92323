"""Figures of scores and of training: C_l, curves, overlaps, and what a verdict or several studies say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from lensrl.errors import LensrlError, did_you_mean
from lensrl.judge.agreement import StudyAgreement
from lensrl.judge.agreement import agree as agree_studies
from lensrl.judge.overlap import overlaps
from lensrl.judge.verdict import Verdict
from lensrl.judge.verdict import verdict as judge
from lensrl.recipe.runs import run_layer
from lensrl.show.figures import agreement as _agreement
from lensrl.show.figures import layers as _layers
from lensrl.show.figures import overlap as _overlap
from lensrl.show.figures import training as _training
from lensrl.show.figures import verdict as _verdict
from lensrl.show.figures.style import width_for
from lensrl.show.plot.axes import own, styled
from lensrl.show.tables import contributions_by_seed, training_curves
from lensrl.show.words import Look, score_in_words
from lensrl.store.study import Study


def contributions(
    source: Study | pd.DataFrame,
    table: pd.DataFrame | None = None,
    *,
    seed: int | None = None,
    benchmark: str | None = None,
    score: str = "mean",
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw the contribution C_l of every layer with its 95 % interval; of several seeds, also the value of each.

    `source` is a study, or a table as `lensrl.read_contributions` gives it. What follows is for a study: `table` is its
    `contributions` with the same `seed`, `benchmark` and `score`, where they are there already. Raises LensrlError as
    `Study.contributions`.
    """
    seeds = None
    if isinstance(source, Study):
        table = source.contributions(seed, benchmark=benchmark, score=score) if table is None else table
        name = source.name if seed is None else f"{source.name}, seed {seed}"
        if benchmark is not None or score != "mean":
            name += f", {score_in_words(benchmark, score)}"
        if seed is None and len(source.seeds) > 1:
            seeds = contributions_by_seed(source, benchmark=benchmark, score=score)
        title = f"{name}: layer contribution, 95 % intervals" if title is None else title
    else:
        table = source.assign(**{"status": "defined", "reason": ""} | {c: source[c] for c in ("status", "reason")
                                                                       if c in source})  # fmt: skip
    axes = ax or own(look, wide=width_for(len(table)))
    with styled(look):
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
    axes = ax or own(look)
    with styled(look):
        return _training.draw_training(axes, curves, column, layers=layers, window=window, title=title, look=look)


def completions_length(study: Study, **options: Any) -> Axes:
    """Draw the mean number of tokens of a completion during training: `training` with another column."""
    return training(study, "completion_length", **options)


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
    side = min(2.2 + 0.38 * table["run"].nunique(), 8)
    axes = ax or own(look, wide=side + 1, high=side, square=True)
    with styled(look):
        return _overlap.draw_overlaps(axes, table, title=title, look=look)


def verdict(
    source: Study | Verdict | str | Path, *, ax: Axes | None = None, title: str | None = None, look: Look | None = None
) -> Axes:
    """Draw the profile of a verdict with its fitted shapes. `source` is a verdict, or what `lensrl.verdict` judges."""
    found = source if isinstance(source, Verdict) else judge(source)
    title = f"{found.name}: the profile and its shapes" if title is None else title
    axes = ax or own(look, wide=width_for(found.n_layers), high=3.6)
    with styled(look):
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
    axes = ax or own(look, wide=max(side + 3.4, 5.6), high=max(side + 1.9, 3.4), square=True)
    with styled(look):
        return _agreement.draw_agreement(axes, found, title=title, look=look)

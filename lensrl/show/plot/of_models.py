"""Figures of models: weight deltas, attention heads, representations."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lensrl.compare.activations import SITE, compare_activations, compare_layers
from lensrl.compare.predictors import predictors as predictor_table
from lensrl.errors import LensrlError, did_you_mean
from lensrl.recipe.runs import BASE, FULL
from lensrl.show.figures import layers as _layers
from lensrl.show.figures.style import width_for
from lensrl.show.plot.axes import own, styled
from lensrl.show.tables import By, norms_by_seed, stored_norms
from lensrl.show.words import Look
from lensrl.store.study import Study


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
    axes = ax or own(look, wide=width_for(count))
    with styled(look):
        return _layers.draw_weights(axes, table, measure, title=title or "", look=look)


def heads(table: pd.DataFrame, *, ax: Axes | None = None, title: str = "", look: Look | None = None) -> Axes:
    """Draw how much each attention head of one layer changed. `table` is `lensrl.compare_heads(study, layer)`.

    Raises LensrlError for the heads of several layers.
    """
    if table["layer"].nunique() != 1:
        raise LensrlError(f"heads are drawn for one layer, and the table has {table['layer'].nunique()}: choose one")
    axes = ax or own(look, wide=5.6, high=2.4)
    with styled(look):
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
    axes = ax or own(look, wide=width_for(len(table)))
    title = f"{study.name}: weight deltas" if title is None else title
    with styled(look):
        return _layers.draw_delta_norms(axes, table, seeds, title=title, look=look)


def cka(
    source: Study | pd.DataFrame,
    from_run: str = BASE,
    into_run: str = FULL,
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
    if isinstance(source, Study):
        table = compare_activations(source, from_run, into_run, site=site, seed=seed)
        title = f"{source.name}: CKA of {from_run} and {into_run} at {site}" if title is None else title
    else:
        table = source
    axes = ax or own(look, wide=width_for(len(table)))
    with styled(look):
        return _layers.draw_cka(axes, table, title=title or "", look=look)


def cka_map(
    source: Study | np.ndarray,
    from_run: str = BASE,
    into_run: str = FULL,
    *,
    site: str = SITE,
    seed: int | None = None,
    ax: Axes | None = None,
    title: str | None = None,
    look: Look | None = None,
) -> Axes:
    """Draw the debiased CKA of every layer of run `from_run` with every layer of run `into_run`.

    `source` is a study, or a matrix of `lensrl.compare_layers`.
    """
    if isinstance(source, Study):
        values = compare_layers(source, from_run, into_run, site=site, seed=seed)
        title = f"{source.name}: CKA of all layers" if title is None else title
    else:
        values = source
    axes = ax or own(look, wide=5.2, high=4.4, square=True)
    with styled(look):
        return _layers.draw_cka_map(axes, values, from_run, into_run, title=title or "", look=look)

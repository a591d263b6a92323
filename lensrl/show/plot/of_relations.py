"""Figures of explanations: patches beside C_l, and what correlates with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pandas as pd
from matplotlib.axes import Axes

from lensrl.compare.patching.over_seeds import ALL_SEEDS, over_seeds
from lensrl.compare.patching.patch import with_context
from lensrl.compare.predictors import PREDICTORS
from lensrl.compare.predictors import predictors as predictor_table
from lensrl.errors import LensrlError, did_you_mean
from lensrl.judge.correlate import correlate_study
from lensrl.recipe.runs import BASE, FULL
from lensrl.show.figures import patching as _patching
from lensrl.show.figures import scatter as _scatter
from lensrl.show.figures.style import canvas, name_in_file, width_for
from lensrl.show.plot.axes import own, styled
from lensrl.show.tables import with_intervals
from lensrl.show.words import Look
from lensrl.store.patch import What
from lensrl.store.study import Study


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

    `rows` are those of `lensrl.patch`; by default the stored results of this patch. Where several seeds are stored,
    their mean is drawn, with a small point for each seed beside it (a map has the mean alone); `seed` chooses one. A
    metric has the same place and colour in every such figure. Raises LensrlError when nothing of this kind was patched.
    """
    if rows is None:
        rows = with_context(study.patches(), study)
        over = over_seeds(study) if seed is None else rows[:0]
        rows = rows if seed is None else rows[rows["seed"] == seed]
        rows = pd.concat([over, rows]) if len(over) else rows
        wanted = {"from": from_run, "into": into_run, "component": component, "sets": sets}
        rows = rows[(rows[[*wanted]] == pd.Series(wanted)).all(axis=1)]
    rows = rows[(rows["what"] == what) & (rows["sets"] != "everything")]  # everything: 1 by construction
    if rows.empty:
        raise LensrlError(
            f"{study.path}: no such patch of {what} is stored; lensrl patch {study.path} --layer all --what {what}"
        )
    together = rows["seed"] == ALL_SEEDS
    seeds = with_intervals(study, rows[~together]) if together.any() else None
    if title is None:
        title = f"{study.name}: {_patching.named_patch(rows)}"
    rows = rows[together] if seeds is not None else rows
    as_map = _patching.is_map(rows)
    axes = ax or (
        own(look, wide=5.2, high=4.4, square=True) if as_map else own(look, wide=width_for(rows["layer"].nunique()))
    )
    with styled(look):
        if as_map:
            return _patching.draw_recovery_map(axes, rows, title=title, look=look)
        return _patching.draw_recoveries(axes, with_intervals(study, rows), seeds, title=title, look=look)


def patching_panels(
    study: Study, rows: pd.DataFrame, *, title: str | None = None, look: Look | None = None
) -> list[Axes]:
    """Draw the rows of one `lensrl.patch`: a panel for weights and a panel for activations, with one title.

    Rows of `over_seeds` may stand above those of the seeds: then the mean is drawn beside its seeds.
    """
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
        axes = ax or own(look, wide=6.4, high=max(2.2, 0.3 * count + 0.9))
        with styled(look):
            return _scatter.draw_coefficients(axes, correlations, PREDICTORS, title=title, look=look)
    if name not in table or name not in PREDICTORS:
        known = _scatter.drawable(table, PREDICTORS)
        raise LensrlError(f"no predictor {name!r} in {study.path}{did_you_mean(name, known)}")
    axes = ax or own(look, wide=4.6, high=3.6)
    with styled(look):
        return _scatter.draw_scatter(axes, table, name, PREDICTORS[name], correlations, title=title, look=look)


def predictor_panels(
    study: Study,
    names: Sequence[str] | None = None,
    *,
    table: pd.DataFrame | None = None,
    correlations: pd.DataFrame | None = None,
    look: Look | None = None,
) -> list[Axes]:
    """Draw C_l against several predictors, by default all that differ between layers, as small multiples.

    Raises LensrlError where none differs, as with a single layer.
    """
    table = predictor_table(study) if table is None else table
    correlations = correlate_study(study, table) if correlations is None else correlations
    names = _scatter.drawable(table, PREDICTORS) if names is None else names
    if not names:
        raise LensrlError(f"{study.path}: no predictor differs between layers with a contribution: nothing to draw")
    wide = 9.0 if look is None or look.width is None else look.width
    columns = max(1, min(len(names), int(wide / 2.9)))
    rows = -(-len(names) // columns)
    high = 2.7 * rows * (wide / columns / 3.0) ** 0.5
    drawn = canvas(look, wide=wide, high=high, rows=rows, columns=columns)
    with styled(look):
        for axes, name in zip(drawn, names, strict=False):
            _scatter.draw_scatter(axes, table, name, PREDICTORS[name], correlations, scale=False, look=look)
    for axes in drawn[len(names) :]:
        axes.remove()
    name_in_file(drawn[0], f"{study.name}: contributions and predictors")
    return drawn[: len(names)]

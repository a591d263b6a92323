"""The pictures of the page: SVG that stands for the charts on paper and without JavaScript."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, get_args

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from lensrl.compare.patching.over_seeds import ALL_SEEDS
from lensrl.recipe.runs import BASE, FULL
from lensrl.show import plot
from lensrl.show.figures.compact import compact
from lensrl.show.figures.patching import is_map, named_patch, reading_of
from lensrl.show.figures.style import svg
from lensrl.show.tables import Representations, training_curves
from lensrl.show.words import Look
from lensrl.store.patch import PatchComponent, Sets
from lensrl.store.study import Study

LOOK = Look(title=False, shown=False)  # headings and sentences of the page take the place of titles


def picture(axes: Axes) -> Markup:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return Markup(compact(svg(figure)))


def training(study: Study, layers: Collection[int] | None) -> list[Markup]:
    """Draw the training curves, one figure per seed. Runs from checkpoints have no curve."""
    drawn = []
    for seed in study.seeds:
        if training_curves(study, seed):
            title = f"seed {seed}" if len(study.seeds) > 1 else ""
            look = replace(LOOK, title=True)
            drawn.append(picture(plot.training(study, seed=seed, layers=layers, title=title, look=look)))
    return drawn


def recoveries(study: Study, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Draw the recoveries, one figure per patched (from, into, component, sets). A map has one figure per seed.

    `rows` are those of single seeds and of `over_seeds`. Where a patch has both, its figure is the mean with the seeds
    as points. Whole blocks come first, then their parts; sufficiency before necessity; single layers before sets.
    """
    rows = rows[~rows["sets"].isin(("together", "everything"))]  # not over depth
    order = {name: i for i, name in enumerate([*get_args(PatchComponent), *get_args(Sets)])}
    sections = []
    for _, patch in sorted(
        rows.groupby(["from", "into", "component", "sets"]),
        key=lambda named: (order[named[0][2]], named[0][1] != BASE, order[named[0][3]], *named[0]),
    ):
        whole = patch["seed"] == ALL_SEEDS
        apart = is_map(patch) or not whole.any()
        for part in [part for _, part in patch[~whole].groupby("seed")] if apart else [patch]:
            title, below = named_patch(part), part if apart else part[whole]
            figure = picture(plot.patching_panels(study, part, title=title, look=replace(LOOK, title=True))[0])
            sections.append({
                "title": title, "figure": figure, "rows": below.to_dict("records"), "map": is_map(part),
                "below": reading_of(below),
            })  # fmt: skip
    return sections


def cka(seen: Representations) -> list[dict[str, Any]]:
    """Draw CKA of the base and full RL: its profile, and the map of all layers, for the lowest seed that has both."""
    if not seen.tables:
        return [{"reason": seen.reason}] if seen.reason else []
    seed, table = next(iter(seen.tables.items()))
    profile = picture(plot.cka(table, title="", look=LOOK))
    every = picture(plot.cka_map(seen.maps[seed], title="", look=LOOK))
    return [{"reason": "", "seed": seed, "profile": profile, "map": every, "rows": table.to_dict("records")}]


def parts(study: Study) -> list[dict[str, Any]]:
    """Draw which matrices, and which components, of each layer full RL changed, for every seed."""
    sections = []
    for seed, run in study.runs.of(FULL).items():
        if not run.has_deltas or not (run.delta_norms()["norm"] > 0).any():
            continue
        drawn = [
            picture(plot.deltas(study, by=by, seed=seed, title="", look=LOOK)) for by in ("parameter", "component")
        ]
        sections.append({"seed": seed, "matrices": drawn[0], "components": drawn[1]})
    return sections

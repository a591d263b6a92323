"""The report of a study: one HTML file that opens from disk, fetches nothing, and escapes every value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes

from lensrl.compare.activations import compare_activations
from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.additivity import additivity_table
from lensrl.compare.patching.patch import with_context
from lensrl.compare.predictors import PREDICTORS, predictors
from lensrl.errors import LensrlError
from lensrl.judge.correlate import correlate_study
from lensrl.judge.verdict import Verdict
from lensrl.judge.verdict import verdict as judge
from lensrl.measures.profile import thirds
from lensrl.recipe.runs import BASE, FULL
from lensrl.show import plot
from lensrl.show.figures.patching import reading_of
from lensrl.show.figures.style import svg
from lensrl.show.words import METRIC_LABELS, SET_LABELS, Look
from lensrl.store.file.atomic import new_file
from lensrl.store.names import order as order_of_run
from lensrl.store.origin import checkpoint_note, texts_note
from lensrl.store.patch import PatchComponent, Sets
from lensrl.store.study import Study

REPORT_FILE = "report.html"
MINUS = "−"
LOOK = Look(title=False, shown=False)  # headings and sentences of the page take the place of titles


def write_report(
    study: Study,
    path: str | Path | None = None,
    *,
    layers: Collection[int] | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Write the report of a study, by default to `report.html` in the study's folder. Returns the report's path.

    `layers` names the single layers that have a training curve of their own; by default see `lensrl.plot.training`.
    `on_progress(section, done, total)` is called before each section.
    """
    path = Path(path) if path is not None else study.path / REPORT_FILE
    environment = Environment(
        loader=PackageLoader("lensrl.show"),
        autoescape=True,  # select_autoescape would miss the template: it does not know the suffix .j2
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "percent": lambda value: _number(100 * value, 1),
        "p": _p,
        "typeset": _typeset,
    }
    html = environment.get_template("report.html.j2").render(_content(study, layers, on_progress))
    with new_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def _content(study: Study, layers: Collection[int] | None, on_progress: OnProgress | None) -> dict[str, Any]:
    """Return the variables of the template."""
    # a study that is still being made has a report, too: `nothing` says why it has no profile or no correlations
    contributions, table, correlations = pd.DataFrame(), pd.DataFrame(), pd.DataFrame()
    nothing = ""
    verdict, undecided = _verdict(study)
    try:
        contributions, table = study.contributions(), predictors(study)
        correlations = correlate_study(study) if verdict is None else verdict.correlations
    except LensrlError as error:
        nothing = str(error)

    known: Any = {"table": table, "correlations": correlations, "look": LOOK}
    # tables as records, figures as SVG; a section without content is empty
    scored = study[BASE].has_scores
    shares = scored and FULL in study
    has_deltas = len(table) and table["relative_delta_full"].notna().any()
    # the sections that are drawn, one after the other, and what else the page says
    drawn: dict[str, Callable[[], Any]] = {
        "profile": lambda: _figure(plot.contributions(study, title="", look=LOOK)) if len(contributions) else "",
        "beside_base": lambda: [] if scored else _beside_base(study),
        "shapes": lambda: _figure(plot.verdict(verdict, title="", look=LOOK)) if verdict is not None else "",
        "training": lambda: _training(study, layers),
        "deltas": lambda: _figure(plot.delta_norms(study, table, title="", look=LOOK)) if has_deltas else "",
        "parts": lambda: _parts(study),
        "cka": lambda: _cka(study) if scored else [],
        "recoveries": lambda: _recoveries(study),
        "additivity": lambda: _additivity(study),
        "benchmarks": lambda: _benchmarks(study),
        "coefficients": lambda: _figure(plot.predictors(study, **known)) if len(correlations) else "",
        "scatter": lambda: _figure(plot.predictor_panels(study, **known)[0]) if len(correlations) else "",
    }
    sections = {}
    for done, (name, make) in enumerate(drawn.items()):
        if on_progress is not None:
            on_progress("sections", done, len(drawn))
        sections[name] = make()
    return sections | {
        "study": study,
        "recipe": study.recipe,
        "settings": json.dumps(study.recipe.model_dump(mode="json"), indent=2),
        "base": study[BASE],
        "scores": study.scores().to_dict("records"),
        "contributions": contributions.to_dict("records"),
        "scored": scored,
        "sets": study.set_contributions().to_dict("records") if shares else [],
        "rates": study.rate_control().to_dict("records") if shares else [],
        "reading": reading(contributions, study.n_layers) if len(contributions) else "",
        "verdict": verdict,
        "undecided": undecided,
        "correlations": _beside(correlations),
        "nothing": nothing,
        "metrics": METRIC_LABELS,
        "predictors": PREDICTORS,
        "provenance": study[BASE].provenance,
        "checkpoints": [(run, run.checkpoint) for run in study.runs.values() if run.checkpoint is not None],
        "rounded": checkpoint_note(study.runs.values()),
        "on_texts": texts_note(study.recipe),
        "trained": any(run.has_training for run in study.runs.values()),
    }


def _verdict(study: Study) -> tuple[Verdict | None, str]:
    """Return the verdict, or None and the reason why there is no verdict."""
    try:
        return judge(study), ""
    except LensrlError as error:
        return None, str(error)


def _typeset(text: str) -> str:
    """Set true minus signs, and no-break spaces before and in intervals."""
    text = re.sub(r"(?<!\w)-(?=\d)", MINUS, text)
    return re.sub(r" \[[^]]*\]", lambda interval: interval[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def _beside(correlations: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return one row per predictor: Spearman's columns, and the columns beyond depth with the prefix `beyond_`."""
    if correlations.empty:
        return []
    raw, beyond = (correlations[correlations["method"] == method] for method in ("spearman", "detrended"))
    return raw.merge(beyond.drop(columns="method").add_prefix("beyond_"), left_on="predictor",
                     right_on="beyond_predictor").to_dict("records")  # fmt: skip


def reading(contributions: pd.DataFrame, n_layers: int) -> str:
    """Describe the profile in a few sentences: range, thirds of depth, layers left out, seeds."""
    shown = contributions[contributions["status"] == "defined"]
    if shown.empty:
        first = contributions.iloc[0]
        return f"No layer has a contribution. {first['status'].capitalize()}: {first['reason']}."
    best, least = (shown.loc[shown["contribution"].agg(f)] for f in ("idxmax", "idxmin"))
    text = f"The contribution runs from {_at(least)} to {_at(best)}."
    if len(shown) >= 6:
        parts = zip(("first", "middle", "last"), thirds(shown["layer"].to_numpy(), n_layers), strict=True)
        means = [f"{name} {_number(shown.loc[part, 'contribution'].mean(), 2)}" for name, part in parts if part.any()]
        text += f" Mean over the thirds of depth: {', '.join(means)}."
    others = contributions[contributions["status"] != "defined"]
    for status, part in others.groupby("status"):
        layers = ", ".join(map(str, part["layer"]))
        text += f" Left out as {status}: {'layer' if len(part) == 1 else 'layers'} {layers}."
    if contributions["seeds"].max() == 1:
        text += " One seed: the intervals cover the items, not how much training differs between seeds."
    return text


def _at(row: Any) -> str:
    value, low, high = (_number(row[name], 2) for name in ("contribution", "low", "high"))
    return f"{value} [{low}, {high}] at layer {row['layer']}"


def _training(study: Study, layers: Collection[int] | None) -> list[Markup]:
    """Draw the training curves, one figure per seed. Runs from checkpoints have no curve."""
    drawn = []
    for seed in study.seeds:
        if plot.training_curves(study, seed):
            title = f"seed {seed}" if len(study.seeds) > 1 else ""
            look = replace(LOOK, title=True)
            drawn.append(_figure(plot.training(study, seed=seed, layers=layers, title=title, look=look)))
    return drawn


def _beside_base(study: Study) -> list[dict[str, Any]]:
    """Compare every run with the base, layer by layer: the weights, and the activations on the texts."""
    sections = []
    for run in (run for run in study.runs.values() if run.name != BASE):
        table = compare_activations(study, BASE, run.name, seed=run.seed)
        figure = _figure(plot.cka(table, title="", look=LOOK))
        moved = run.layer_delta_norms().set_index("layer")["relative_norm"]
        rows = table.assign(relative_norm=moved.reindex(table["layer"]).to_numpy()).to_dict("records")
        sections.append({"run": run, "figure": figure, "rows": rows})
    return sections


def _recoveries(study: Study) -> list[dict[str, Any]]:
    """Draw the recoveries, one figure per patched (from, into, component, sets, seed).

    Whole blocks come first, then their parts; sufficiency before necessity; single layers before sets.
    """
    rows = with_context(study.patches(), study)
    rows = rows[~rows["sets"].isin(("together", "everything"))]  # not over depth
    parts = rows.groupby(["from", "into", "component", "sets", "seed"])
    order = {name: i for i, name in enumerate([*get_args(PatchComponent), *get_args(Sets)])}
    sections = []
    for (donor, into, component, sets, seed), part in sorted(
        parts, key=lambda named: (order[named[0][2]], named[0][1] != BASE, order[named[0][3]], *map(str, named[0]))
    ):
        title = f"{component} of {donor} into {into}, seed {seed}" + (
            f", {SET_LABELS[str(sets)]}" if sets != "single" else ""
        )
        figure = _figure(plot.patching_panels(study, part, title=title, look=replace(LOOK, title=True))[0])
        sections.append({
            "title": title, "figure": figure, "rows": part.to_dict("records"), "reverse": into != BASE,
            "below": reading_of(part),
        })  # fmt: skip
    return sections


def _cka(study: Study) -> list[dict[str, Any]]:
    """Draw CKA of the base and full RL: its profile, and the map of all layers, for the lowest seed that has both."""
    known = [seed for seed, run in study.runs.of(FULL).items() if run.has_activations]
    if not known:
        return []
    try:
        table = compare_activations(study, BASE, FULL, seed=known[0])
    except LensrlError as error:  # a probe set of too few sequences, as recipes of 0.2 could have
        return [{"reason": str(error)}]
    profile = _figure(plot.cka(table, title="", look=LOOK))
    every = _figure(plot.cka_map(study, seed=known[0], title="", look=LOOK))
    return [{"reason": "", "seed": known[0], "profile": profile, "map": every, "rows": table.to_dict("records")}]


def _parts(study: Study) -> list[dict[str, Any]]:
    """Draw which matrices, and which components, of each layer full RL changed, for every seed."""
    sections = []
    for seed, run in study.runs.of(FULL).items():
        if not run.has_weights or not (run.delta_norms()["norm"] > 0).any():
            continue
        drawn = [
            _figure(plot.deltas(study, by=by, seed=seed, title="", look=LOOK)) for by in ("parameter", "component")
        ]
        sections.append({"seed": seed, "matrices": drawn[0], "components": drawn[1]})
    return sections


def _additivity(study: Study) -> list[dict[Hashable, Any]]:
    """Compare the sum of single recoveries with all layers together, for each patch of which both are stored."""
    rows = study.patches()
    found = []
    keys = rows.loc[rows["component"].isin(("block", "attn", "mlp")), ["from", "into", "component", "seed"]]
    for donor, into, component, seed in keys.drop_duplicates().itertuples(index=False, name=None):
        table = additivity_table(study, donor, into, int(seed), component)
        found += table.assign(patch=f"{component} of {donor} into {into}, seed {seed}").to_dict("records")
    return found


def _benchmarks(study: Study) -> dict[str, Any]:
    """Return the mean score of every run on each benchmark; empty for one benchmark."""
    names = sorted(study[BASE].items["benchmark"].unique()) if study[BASE].has_scores else []
    if len(names) < 2:
        return {"names": [], "rows": []}
    rows = []
    for run in sorted(study.runs.values(), key=lambda run: order_of_run(run.name, run.seed)):
        if run.has_scores:
            means = run.items.groupby("benchmark")["score"].mean()
            rows.append({"run": run.name, "seed": run.seed, "scores": [means[name] for name in names]})
    return {"names": names, "rows": rows}


def _figure(axes: Axes) -> Markup:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return Markup(svg(figure))


def _number(value: Any, digits: int = 3) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}".replace("-", MINUS)


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"

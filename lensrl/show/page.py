"""The report of a study: one HTML file that opens from disk, fetches nothing, and escapes every value."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lensrl.compare.activations import compare_activations
from lensrl.compare.patching.patch import with_context
from lensrl.compare.predictors import PREDICTORS, predictors
from lensrl.errors import LensrlError
from lensrl.judge.correlate import correlate_study
from lensrl.judge.verdict import Verdict
from lensrl.judge.verdict import verdict as judge
from lensrl.measures.profile import thirds
from lensrl.recipe.runs import BASE, FULL, run_layer, run_rate
from lensrl.show import figures
from lensrl.show.words import METRIC_LABELS, SET_LABELS
from lensrl.store.file.atomic import new_file
from lensrl.store.origin import checkpoint_note, texts_note
from lensrl.store.study import Study

REPORT_FILE = "report.html"
MINUS = "−"


def write_report(study: Study, path: str | Path | None = None) -> Path:
    """Write the report of a study, by default to `report.html` in the study's folder. Returns the report's path."""
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
    html = environment.get_template("report.html.j2").render(_content(study))
    with new_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def _content(study: Study) -> dict[str, Any]:
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

    # tables as records, figures as SVG; a section without content is empty
    scored = study[BASE].has_scores
    shares = scored and FULL in study
    has_deltas = len(table) and table["relative_delta_full"].notna().any()
    return {
        "study": study,
        "recipe": study.recipe,
        "settings": json.dumps(study.recipe.model_dump(mode="json"), indent=2),
        "base": study[BASE],
        "scores": study.scores().to_dict("records"),
        "contributions": contributions.to_dict("records"),
        "profile": _figure(figures.contribution_figure(contributions)) if len(contributions) else "",
        "scored": scored,
        "beside_base": [] if scored else _beside_base(study),
        "sets": study.set_contributions().to_dict("records") if shares else [],
        "rates": study.rate_control().to_dict("records") if shares else [],
        "reading": reading(contributions, study.n_layers) if len(contributions) else "",
        "verdict": verdict,
        "undecided": undecided,
        "shapes": _figure(figures.verdict_figure(verdict)) if verdict is not None else "",
        "training": _training(study),
        "deltas": _figure(figures.delta_figure(table)) if has_deltas else "",
        "recoveries": _recoveries(study),
        "scatter": _figure(figures.scatter_figure(table, PREDICTORS, correlations)) if len(correlations) else "",
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


def _training(study: Study) -> list[Markup]:
    """Draw the training curves, one figure per seed. Runs from checkpoints have no curve."""
    drawn = []
    for seed in study.seeds:
        runs = [
            run
            for (name, s), run in study.runs.items()
            # a checkpoint has no curve, and a layer at other learning rates would hide the others
            if s == seed and run.has_training and run_rate(name) is None
        ]
        if not runs:
            continue
        runs.sort(key=lambda run: (run.name != FULL, run_layer(run.name) is None, run.layers))
        title = f"seed {seed}" if len(study.seeds) > 1 else ""
        drawn.append(_figure(figures.training_figure([(run.name, run.training) for run in runs], title=title)))
    return drawn


def _beside_base(study: Study) -> list[dict[str, Any]]:
    """Compare every run with the base, layer by layer: the weights, and the activations on the texts."""
    sections = []
    for run in (run for run in study.runs.values() if run.name != BASE):
        table = compare_activations(study, BASE, run.name, seed=run.seed)
        figure = _figure(figures.cka_figure(table, f"{run.name} and the base, 95 % intervals over texts"))
        moved = run.layer_delta_norms().set_index("layer")["relative_norm"]
        rows = table.assign(relative_norm=moved.reindex(table["layer"]).to_numpy()).to_dict("records")
        sections.append({"run": run, "figure": figure, "rows": rows})
    return sections


def _recoveries(study: Study) -> list[dict[str, Any]]:
    """Draw the recoveries, one figure per patched (from, into, component, sets, seed)."""
    rows = with_context(study.patches(), study)
    rows = rows[~rows["sets"].isin(("together", "everything"))]  # not over depth
    sections = []
    for (donor, into, component, sets, seed), part in rows.groupby(["from", "into", "component", "sets", "seed"]):
        title = f"{component} of {donor} into {into}, seed {seed}" + (
            f", {SET_LABELS[str(sets)]}" if sets != "single" else ""
        )
        figure = _figure(figures.patch_figure(part, title))
        sections.append({"title": title, "figure": figure, "rows": part.to_dict("records"), "reverse": into != BASE})
    return sections


def _figure(figure: Any) -> Markup:
    return Markup(figures.svg(figure))


def _number(value: Any, digits: int = 3) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}".replace("-", MINUS)


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"

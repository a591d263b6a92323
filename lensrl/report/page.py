"""The report: one HTML file that opens from disk, with nothing fetched and every value escaped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lensrl.bottleneck import PREDICTORS, correlate_study, predictors
from lensrl.errors import LensrlError
from lensrl.layers import BASE, FULL, run_layer
from lensrl.patching.patch import with_contributions
from lensrl.report import figures
from lensrl.store.atomic import new_file
from lensrl.store.study import Study

REPORT_FILE = "report.html"


def write_report(study: Study, path: str | Path | None = None) -> Path:
    """Write the report of a study, by default to `report.html` in its folder. Returns its path."""
    path = Path(path) if path is not None else study.path / REPORT_FILE
    environment = Environment(
        loader=PackageLoader("lensrl.report"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": lambda value: _number(100 * value, 1), "p": _p}
    html = environment.get_template("report.html.j2").render(_content(study))
    with new_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def _content(study: Study) -> dict[str, Any]:
    contributions = study.contributions()
    scores = study.scores()
    table = predictors(study)
    try:
        correlations, no_correlation = correlate_study(study), ""
    except LensrlError as error:
        correlations, no_correlation = None, str(error)
    return {
        "study": study,
        "recipe": study.recipe,
        "settings": json.dumps(study.recipe.model_dump(mode="json"), indent=2),
        "base": study[BASE],
        "scores": scores.to_dict("records"),
        "contributions": contributions.to_dict("records"),
        "profile": _figure(figures.contribution_figure(contributions, " ")),
        "reading": reading(contributions),
        "training": _training(study),
        "deltas": _figure(figures.delta_figure(table)) if table["relative_delta_full"].notna().any() else "",
        "recoveries": _recoveries(study),
        "scatter": "" if correlations is None else _figure(figures.scatter_figure(table, PREDICTORS, correlations)),
        "correlations": [] if correlations is None else correlations.to_dict("records"),
        "no_correlation": no_correlation,
        "predictors": PREDICTORS,
        "provenance": study[BASE].provenance,
    }


def reading(contributions: pd.DataFrame) -> str:
    """The profile in a sentence or two that say no more than the numbers."""
    shown = contributions[contributions["contribution"].notna()]
    if shown.empty:
        first = contributions.iloc[0]
        return f"No layer has a contribution. {first['status'].capitalize()}: {first['reason']}."
    best, least = (shown.loc[shown["contribution"].agg(f)] for f in ("idxmax", "idxmin"))
    text = "C_l runs from {} to {}.".format(
        *(
            f"{row['contribution']:.2f} [{row['low']:.2f}, {row['high']:.2f}] at layer {row['layer']}"
            for row in (least, best)
        )
    )
    thirds = pd.qcut(shown["layer"], 3, labels=["first", "middle", "last"]) if len(shown) >= 6 else None
    if thirds is not None:
        means = shown.groupby(thirds, observed=True)["contribution"].mean()
        text += " Mean over the thirds of depth: " + ", ".join(f"{k} {v:.2f}" for k, v in means.items()) + "."
    if contributions["seeds"].max() == 1:
        text += " One seed: the intervals cover the items, not how much training differs between seeds."
    return text


def _training(study: Study) -> list[dict[str, Any]]:
    """One figure per seed."""
    sections = []
    for seed in study.seeds:
        runs = [run for (_, s), run in study.runs.items() if s == seed and run.name != BASE]
        runs.sort(key=lambda run: (run.name != FULL, run_layer(run.name) is None, run.layers))
        curves = [(run.name, run.training) for run in runs]
        sections.append({"seed": seed, "figure": _figure(figures.training_figure(curves))})
    return sections


def _recoveries(study: Study) -> list[dict[str, Any]]:
    """One figure for every (from, into, component, seed) that was patched."""
    rows = with_contributions(study.patches(), study)
    sections = []
    for (donor, into, component, seed), part in rows.groupby(["from", "into", "component", "seed"]):
        title = f"{component} of {donor} into {into}, seed {seed}"
        figure = _figure(figures.recovery_figure(part, title))
        sections.append({"title": title, "figure": figure, "rows": part.to_dict("records"), "reverse": into != BASE})
    return sections


def _figure(figure: Any) -> Markup:
    return Markup(figures.svg(figure))


def _number(value: Any, digits: int = 3) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def _p(value: float) -> str:
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"

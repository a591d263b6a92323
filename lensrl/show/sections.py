"""What the page of a study holds: tables as records, pictures as SVG, sentences, and charts that can be asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pandas as pd

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.patch import with_context
from lensrl.compare.predictors import PREDICTORS, predictors
from lensrl.errors import LensrlError
from lensrl.judge.correlate import correlate_study
from lensrl.judge.overlap import overlaps
from lensrl.judge.verdict import Verdict
from lensrl.judge.verdict import verdict as judge
from lensrl.recipe.runs import BASE, FULL
from lensrl.show import page_tables, pictures, plot
from lensrl.show.charts import of_models, of_scores
from lensrl.show.charts.chart import Chart
from lensrl.show.completions import answers, examples, in_words
from lensrl.show.controls import controls
from lensrl.show.pictures import LOOK, picture
from lensrl.show.readings import reading, sharpened
from lensrl.show.words import METRIC_LABELS
from lensrl.store.origin import checkpoint_note, texts_note
from lensrl.store.study import Study


def content(
    study: Study, layers: Collection[int] | None = None, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Return the variables of the page's template. A section without content is empty.

    A study that is still being made has a page, too: `nothing` says why it has no profile or no correlations.
    """
    contributions, table, correlations = pd.DataFrame(), pd.DataFrame(), pd.DataFrame()
    nothing = ""
    verdict, undecided = _verdict(study)
    try:
        contributions, table = study.contributions(), predictors(study)
        correlations = correlate_study(study) if verdict is None else verdict.correlations
    except LensrlError as error:
        nothing = str(error)
    scored = study[BASE].has_scores
    patches = with_context(study.patches(), study)
    pairs = _overlaps(study) if scored else pd.DataFrame()

    answered = answers(study)
    charts = _charts(study, scored, verdict, table, correlations, patches, pairs)
    drawn = _drawn(study, scored, verdict, contributions, table, correlations, patches, pairs, layers)
    made: dict[str, Any] = {}
    for done, (name, make) in enumerate([*charts.items(), *drawn.items()]):
        if on_progress is not None:
            on_progress("sections", done, len(charts) + len(drawn))
        made[name] = make()
    shares = scored and FULL in study
    return {name: made[name] for name in drawn} | {
        "charts": {name.removeprefix("chart "): made[name] for name in charts if made[name] is not None},
        "answers": answered,
        "examples": examples(answered) if answered else [],
        "answers_reading": in_words(answered) if answered else "",
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
        "correlations": page_tables.correlation_rows(correlations),
        "nothing": nothing,
        "metrics": METRIC_LABELS,
        "predictors": PREDICTORS,
        "provenance": study[BASE].provenance,
        "checkpoints": [(run, run.checkpoint) for run in study.runs.values() if run.checkpoint is not None],
        "rounded": checkpoint_note(study.runs.values()),
        "on_texts": texts_note(study.recipe),
        "trained": any(run.has_training for run in study.runs.values()),
    }


def _charts(
    study: Study, scored: bool, verdict: Verdict | None, table: pd.DataFrame, correlations: pd.DataFrame,
    patches: pd.DataFrame, pairs: pd.DataFrame,
) -> Mapping[str, Callable[[], Chart | None]]:  # fmt: skip
    """Return the makers of the charts, in the order of the page."""
    found: dict[str, Callable[[], Chart | None]] = {
        "training": lambda: of_scores.training(study),
        "matrices": lambda: of_models.matrices(study),
        "patching": lambda: of_models.patching(study, patches),
    }
    if scored:
        found |= {
            "contribution": lambda: of_scores.contributions(study),
            "shapes": lambda: of_scores.shapes(verdict) if verdict is not None else None,
            "scores": lambda: of_scores.scores(study),
            "overlap": lambda: of_scores.overlap(study, pairs),
            "deltas": lambda: of_models.delta_norms(study, table),
            "cka": lambda: of_models.cka(study),
            "cka-map": lambda: of_models.cka_map(study),
            "coefficients": lambda: of_scores.coefficients(correlations),
            "predictors": lambda: of_scores.predictors(table),
        }
    return {f"chart {name}": make for name, make in found.items()}


def _drawn(
    study: Study, scored: bool, verdict: Verdict | None, contributions: pd.DataFrame, table: pd.DataFrame,
    correlations: pd.DataFrame, patches: pd.DataFrame, pairs: pd.DataFrame, layers: Collection[int] | None,
) -> Mapping[str, Callable[[], Any]]:  # fmt: skip
    """Return the makers of pictures and of tables beside them."""
    known: Any = {"table": table, "correlations": correlations, "look": LOOK}
    has_deltas = len(table) and table["relative_delta_full"].notna().any()
    return {
        "profile": lambda: picture(plot.contributions(study, title="", look=LOOK)) if len(contributions) else "",
        "beside_base": lambda: [] if scored else page_tables.beside_base(study),
        "shapes": lambda: picture(plot.verdict(verdict, title="", look=LOOK)) if verdict is not None else "",
        "training": lambda: pictures.training(study, layers),
        "deltas": lambda: picture(plot.delta_norms(study, table, title="", look=LOOK)) if has_deltas else "",
        "parts": lambda: pictures.parts(study),
        "cka": lambda: pictures.cka(study) if scored else [],
        "recoveries": lambda: pictures.recoveries(study, patches),
        "additivity": lambda: page_tables.additivity(study, patches),
        "benchmarks": lambda: page_tables.benchmarks(study),
        "further": lambda: page_tables.further_tasks(study) if scored else {},
        "controls": lambda: controls(study) if scored else {},
        "others": lambda: page_tables.other_scores(study) if scored else {},
        "sharpened": lambda: sharpened(study) if scored else [],
        "overlap": lambda: picture(plot.overlap(study, pairs, title="", look=LOOK)) if len(pairs) else "",
        "teams": lambda: page_tables.team_rows(study) if scored else [],
        "coefficients": lambda: picture(plot.predictors(study, **known)) if len(correlations) else "",
        "scatter": lambda: picture(plot.predictor_panels(study, **known)[0]) if len(correlations) else "",
    }


def _overlaps(study: Study) -> pd.DataFrame:
    """Return the overlaps of solved items; no row for scores that are not 0 or 1, and without two runs to compare."""
    try:
        found = overlaps(study)
    except LensrlError:
        return pd.DataFrame()
    return found if (found["kind"] == "runs").any() else found[:0]


def _verdict(study: Study) -> tuple[Verdict | None, str]:
    """Return the verdict, or None and the reason why there is no verdict."""
    try:
        return judge(study), ""
    except LensrlError as error:
        return None, str(error)

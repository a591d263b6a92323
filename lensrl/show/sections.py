"""What the page of a study holds: tables as records, pictures as SVG, sentences, and charts that can be asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.over_seeds import over_seeds
from lensrl.compare.patching.patch import with_context
from lensrl.compare.predictors import PREDICTORS, predictors
from lensrl.errors import LensrlError
from lensrl.judge.correlate import correlate_study
from lensrl.judge.overlap import overlaps
from lensrl.judge.sharpening import sharpening
from lensrl.judge.verdict import Verdict
from lensrl.judge.verdict import verdict as judge
from lensrl.recipe.runs import BASE, FULL
from lensrl.show import page_tables, pictures, plot
from lensrl.show.charts import of_models, of_scores
from lensrl.show.charts.chart import Chart
from lensrl.show.completions import answers, examples, in_words
from lensrl.show.controls import controls
from lensrl.show.figures.scatter import drawable
from lensrl.show.pictures import LOOK, picture
from lensrl.show.readings import reading
from lensrl.show.tables import Representations, representations
from lensrl.show.words import METRIC_LABELS
from lensrl.store.origin import checkpoint_note, texts_note
from lensrl.store.study import Study


class Measured(NamedTuple):
    """The measurements of a study, each made once for the charts, the pictures and the tables.

    `verdict` is None, with the reason in `undecided`, where there is none. `nothing` says why there is no profile or no
    correlation: a study that is still being made has a page, too. A table without content is empty.
    """

    study: Study
    scored: bool
    verdict: Verdict | None
    undecided: str
    nothing: str
    contributions: pd.DataFrame
    table: pd.DataFrame  # of predictors
    correlations: pd.DataFrame
    patches: pd.DataFrame  # of single seeds
    recoveries: pd.DataFrame  # those over seeds, and `patches`
    pairs: pd.DataFrame  # overlaps of solved items
    seen: Representations


def measure(study: Study, on_progress: OnProgress | None = None) -> Measured:
    """Measure a study for its page. `on_progress(step, done, total)` is called before each of four measurements."""

    def begins(done: int) -> None:
        if on_progress is not None:
            on_progress("measurements", done, 4)

    begins(0)
    contributions, table, correlations = pd.DataFrame(), pd.DataFrame(), pd.DataFrame()
    verdict, undecided, nothing = None, "", ""
    try:
        verdict = judge(study)
    except LensrlError as error:
        undecided = str(error)
    begins(1)
    try:
        contributions = study.contributions()
        table = predictors(study) if verdict is None else verdict.predictors
        correlations = correlate_study(study, table) if verdict is None else verdict.correlations
    except LensrlError as error:
        nothing = str(error)
    scored = study[BASE].has_scores
    patches = with_context(study.patches(), study)
    over = over_seeds(study)
    every = pd.concat([over, patches]) if len(over) else patches
    begins(2)
    pairs = _overlaps(study) if scored else pd.DataFrame()
    begins(3)
    seen = representations(study) if scored else Representations({}, {}, "")
    return Measured(
        study, scored, verdict, undecided, nothing, contributions, table, correlations, patches, every, pairs, seen
    )


def content(
    study: Study,
    layers: Collection[int] | None = None,
    on_progress: OnProgress | None = None,
    *,
    with_controls: bool = False,
    beside: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Return the variables of the page's template. A section without content is empty."""
    other_studies = page_tables.other_studies(study, beside)
    found = measure(study, on_progress)
    verdict, scored, contributions = found.verdict, found.scored, found.contributions
    answered = answers(study)
    charts, drawn = _charts(found), _drawn(found, layers)
    made: dict[str, Any] = {}
    for done, (name, make) in enumerate([*charts.items(), *drawn.items()]):
        if on_progress is not None:
            on_progress("sections", done, len(charts) + len(drawn))
        made[name] = make()
    shares = scored and FULL in study
    return {name: made[name] for name in drawn} | {
        "other_studies": other_studies,
        "measured_controls": _measured_controls(study, on_progress) if with_controls else [],
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
        "undecided": found.undecided,
        "correlations": page_tables.correlation_rows(found.correlations),
        "nothing": found.nothing,
        "metrics": METRIC_LABELS,
        "patching_over_seeds": len(found.recoveries) > len(found.patches),
        "predictors": PREDICTORS,
        "provenance": study[BASE].provenance,
        "checkpoints": [(run, run.checkpoint) for run in study.runs.values() if run.checkpoint is not None],
        "rounded": checkpoint_note(study.runs.values()),
        "on_texts": texts_note(study.recipe),
        "trained": any(run.has_training for run in study.runs.values()),
    }


def _charts(found: Measured) -> Mapping[str, Callable[[], Chart | None]]:
    """Return the makers of the charts, in the order of the page."""
    study, verdict = found.study, found.verdict
    makers: dict[str, Callable[[], Chart | None]] = {
        "training": lambda: of_scores.training(study),
        "matrices": lambda: of_models.matrices(study),
        "patching": lambda: of_models.patching(study, found.recoveries),
    }
    if found.scored:
        makers |= {
            "contribution": lambda: of_scores.contributions(study),
            "shapes": lambda: of_scores.shapes(verdict) if verdict is not None else None,
            "scores": lambda: of_scores.scores(study),
            "overlap": lambda: of_scores.overlap(study, found.pairs),
            "deltas": lambda: of_models.delta_norms(study, found.table),
            "cka": lambda: of_models.cka(study, found.seen.tables),
            "cka-map": lambda: of_models.cka_map(found.seen.maps),
            "coefficients": lambda: of_scores.coefficients(found.correlations),
            "predictors": lambda: of_scores.predictors(found.table),
        }
    return {f"chart {name}": make for name, make in makers.items()}


def _drawn(found: Measured, layers: Collection[int] | None) -> Mapping[str, Callable[[], Any]]:
    """Return the makers of pictures and of tables beside them."""
    study, scored, verdict, table = found.study, found.scored, found.verdict, found.table
    known: Any = {"table": table, "correlations": found.correlations, "look": LOOK}
    has_profile, correlated, has_pairs = len(found.contributions), len(found.correlations), len(found.pairs)
    varied = correlated and drawable(table, PREDICTORS)  # with a single layer nothing differs
    has_deltas = len(table) and table["relative_delta_full"].notna().any()
    return {
        "profile": lambda: (
            picture(plot.contributions(study, found.contributions, title="", look=LOOK)) if has_profile else ""
        ),
        "beside_base": lambda: [] if scored else page_tables.beside_base(study),
        "shapes": lambda: picture(plot.verdict(verdict, title="", look=LOOK)) if verdict is not None else "",
        "training": lambda: pictures.training(study, layers),
        "deltas": lambda: picture(plot.delta_norms(study, table, title="", look=LOOK)) if has_deltas else "",
        "parts": lambda: pictures.parts(study),
        "cka": lambda: pictures.cka(found.seen),
        "recoveries": lambda: pictures.recoveries(study, found.recoveries),
        "additivity": lambda: page_tables.additivity(study, found.patches),
        "benchmarks": lambda: page_tables.benchmarks(study),
        "further": lambda: page_tables.further_tasks(study) if scored else {},
        "controls": lambda: controls(study) if scored else {},
        "others": lambda: page_tables.other_scores(study) if scored else {},
        "sharpened": lambda: sharpening(study) if scored else [],
        "overlap": lambda: picture(plot.overlap(study, found.pairs, title="", look=LOOK)) if has_pairs else "",
        "teams": lambda: page_tables.team_rows(study) if scored else [],
        "coefficients": lambda: picture(plot.predictors(study, **known)) if correlated else "",
        "scatter": lambda: picture(plot.predictor_panels(study, **known)[0]) if varied else "",
    }


def _measured_controls(study: Study, on_progress: OnProgress | None) -> list[Any]:
    from lensrl.show.measured_controls import measured_controls  # torch and models, only where they are asked for

    return measured_controls(study, on_progress)


def _overlaps(study: Study) -> pd.DataFrame:
    """Return the overlaps of solved items; no row for scores that are not 0 or 1, and without two runs to compare."""
    try:
        found = overlaps(study)
    except LensrlError:
        return pd.DataFrame()
    return found if (found["kind"] == "runs").any() else found[:0]

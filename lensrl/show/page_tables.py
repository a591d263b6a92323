"""The tables of the page that have no chart."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lensrl.compare.activations import compare_activations
from lensrl.compare.patching.additivity import additivity_table
from lensrl.errors import LensrlError
from lensrl.judge.agreement import agree
from lensrl.judge.overlap import teams
from lensrl.recipe.runs import BASE, FULL
from lensrl.show import plot
from lensrl.show.pictures import LOOK, picture
from lensrl.show.words import number, score_in_words
from lensrl.store.names import order as order_of_run
from lensrl.store.study import Study, open_study


def other_studies(study: Study, others: Sequence[str | Path]) -> dict[str, Any]:
    """Return how the profile of each other study agrees with that of the study, beside what one profile would give.

    `rows` have study; training, its algorithm, and its reward where that is not the task's; gain of full training;
    layers that both have; Spearman, of the profiles; if one profile, the mean Spearman to expect with these errors if
    both were one. The first row is the study itself. `reasons` say which profiles cannot be compared. Raises
    LensrlError as `agree` does.
    """
    if not others:
        return {}
    found = agree(study, *others)
    names = found.studies["study"].tolist()
    pairs = {pair["second"]: pair for pair in found.pairs.to_dict("records") if pair["first"] == names[0]}
    rows = []
    for name, source in zip(names, [study, *map(Path, others)], strict=True):
        row = {"study": name} | dict.fromkeys(("training", "gain of full training"), "–")
        if not isinstance(source, Path):
            row |= _training(source)
        elif source.is_dir():
            with open_study(source) as other:
                row |= _training(other)
        rows.append(row | _agreement(pairs.get(name)))
    undefined = {name: str(pair["reason"]) for name, pair in pairs.items() if pair["status"] != "defined"}
    return {"rows": rows, "reasons": [f"{name}: {why.removeprefix(f'{name}: ')}." for name, why in undefined.items()]}


def _training(study: Study) -> dict[str, str]:
    rl = study.recipe.rl
    scores = study.scores()
    reward = "" if rl.reward == "task" else f", {rl.reward} reward"
    return {
        "training": f"{rl.algorithm}{reward}",
        "gain of full training": number(scores.loc[scores["run"] == FULL, "gain"].mean()),
    }


def _agreement(pair: dict[Hashable, Any] | None) -> dict[str, str]:
    if pair is None:  # the study itself
        return dict.fromkeys(("layers", "Spearman", "if one profile"), "–")
    low, high = pair["spearman_low"], pair["spearman_high"]
    ends = "" if low != low else f" [{number(low, 2)}, {number(high, 2)}]"
    return {
        "layers": str(pair["layers"]),
        "Spearman": number(pair["spearman"], 2) + ends,
        "if one profile": number(pair["ceiling"], 2),
    }


def correlation_rows(correlations: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return one row per predictor: Spearman's columns, and the columns beyond depth with the prefix `beyond_`."""
    if correlations.empty:
        return []
    raw, beyond = (correlations[correlations["method"] == method] for method in ("spearman", "detrended"))
    return raw.merge(beyond.drop(columns="method").add_prefix("beyond_"), left_on="predictor",
                     right_on="beyond_predictor").to_dict("records")  # fmt: skip


def additivity(study: Study, rows: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Compare the sum of single recoveries with all layers together, for each patch of which both are stored."""
    found = []
    keys = rows.loc[rows["component"].isin(("block", "attn", "mlp")), ["from", "into", "component", "seed"]]
    for donor, into, component, seed in keys.drop_duplicates().itertuples(index=False, name=None):
        table = additivity_table(study, donor, into, int(seed), component)
        found += table.assign(patch=f"{component} of {donor} into {into}, seed {seed}").to_dict("records")
    return found


def benchmarks(study: Study) -> dict[str, Any]:
    """Return the mean score of every run on each benchmark; empty for one benchmark."""
    names = sorted(study[BASE].scores_by_item()["benchmark"].unique()) if study[BASE].has_scores else []
    if len(names) < 2:
        return {"names": [], "rows": []}
    rows = []
    for run in sorted(study.runs.values(), key=lambda run: order_of_run(run.name, run.seed)):
        if run.has_scores:
            means = run.scores_by_item().groupby("benchmark")["score"].mean()
            rows.append({"run": run.name, "seed": run.seed, "scores": [means[name] for name in names]})
    return {"names": names, "rows": rows}


def beside_base(study: Study) -> list[dict[str, Any]]:
    """Compare every run with the base, layer by layer: the weights, and the activations on the texts."""
    sections = []
    for run in (run for run in study.runs.values() if run.name != BASE):
        table = compare_activations(study, BASE, run.name, seed=run.seed)
        figure = picture(plot.cka(table, title="", look=LOOK))
        moved = run.layer_delta_norms().set_index("layer")["relative_norm"]
        rows = table.assign(relative_norm=moved.reindex(table["layer"]).to_numpy()).to_dict("records")
        sections.append({"run": run, "figure": figure, "rows": rows})
    return sections


def other_scores(study: Study) -> dict[str, Any]:
    """Return C_l by every score that the study's samples allow: names, and a row per layer. Empty for one score."""
    try:
        table = study.contributions_by_score()
    except LensrlError:  # without full RL or single layers
        return {}
    kinds = table["score"].unique().tolist()
    if len(kinds) < 2:
        return {}
    by_kind = {kind: table[table["score"] == kind].set_index("layer") for kind in kinds}
    rows = [{"layer": layer, "values": [by_kind[kind].loc[layer] for kind in kinds]}
            for layer in by_kind[kinds[0]].index]  # fmt: skip
    reasons = _reasons({score_in_words(None, kind): part for kind, part in by_kind.items()})
    return {"names": [score_in_words(None, kind) for kind in kinds], "rows": rows, "reasons": reasons}


def _reasons(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Return why C_l has no value, of each table in which no layer has one."""
    return [
        f"{name}: {part['reason'].iloc[0]}" for name, part in tables.items() if (part["status"] == "undefined").all()
    ]


def further_tasks(study: Study) -> dict[str, Any]:
    """Return C_l on every benchmark, further tasks (`also`) included. Empty for one benchmark."""
    listed = study.benchmarks()
    if len(listed) < 2:
        return {}
    try:
        table = study.contributions_by_benchmark()
    except LensrlError:
        return {}
    names = listed["benchmark"].tolist()
    by_name = {name: table[table["benchmark"] == name].set_index("layer") for name in names}
    rows = [{"layer": layer, "values": [by_name[name].loc[layer] for name in names]}
            for layer in by_name[names[0]].index]  # fmt: skip
    also = listed.loc[listed["also"], "benchmark"].tolist()
    return {"names": names, "also": also, "rows": rows, "reasons": _reasons(by_name)}


def team_rows(study: Study) -> list[dict[Hashable, Any]]:
    """Return the rows of `lensrl.teams`; none where the study has fewer than two layers."""
    try:
        return teams(study).to_dict("records")
    except LensrlError:
        return []

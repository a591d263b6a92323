"""`lensrl agree`: whether studies agree on their layer contribution profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensrl import Study, agree, open_study
from lensrl_cli.output import Csv, FigureFile, Json, note, number, print_json, saved, show, write_csv

if TYPE_CHECKING:
    from lensrl import StudyAgreement

Studies = Annotated[list[Path] | None, typer.Argument(metavar="STUDY ...", help="Studies' folders.")]
Tables = Annotated[
    list[Path] | None,
    typer.Option("--contributions", metavar="FILE", help="A CSV file with layer and contribution; may be repeated."),
]


def agree_on_layers(
    studies: Studies = None,
    contributions: Tables = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Compare the layer contribution profiles of several studies, two at a time.

    Studies may differ in algorithm, task or model; where they differ in layers, relative depth is what they share.

    Example: lensrl agree runs/tiny-3-seeds --contributions runs/published/qwen3-1.7b-grpo-math.csv
    """
    opened: list[Study] = []
    try:
        for path in studies or []:
            opened.append(open_study(path))
        found = agree(*opened, *(contributions or []))
    finally:
        for study in opened:
            study.close()
    if json:
        print_json(found.as_dict())
    else:
        _show(found)
    if csv is not None:
        write_csv(found.pairs, csv)
    if figure is not None:
        from lensrl.show.figures import agreement_figure, save_figure

        save_figure(agreement_figure(found, "Agreement of layer contributions, 95 % intervals"), figure)
        saved("figure", figure)


def _show(found: StudyAgreement) -> None:
    numbers = {name: str(i + 1) for i, name in enumerate(found.studies["study"])}
    columns = {"": "right", "study": "left", "layers": "right", "seeds": "right", "reliability": "right"}
    show(
        "Layer contribution profiles",
        columns | {"errors": "left"},
        [_study(s, numbers) for s in _rows(found.studies)],
        keys=2,
    )
    columns = dict.fromkeys(["pair", "layers", "Spearman", "ceiling", "Kendall", "beyond depth"], "right")
    defined = [pair for pair in _rows(found.pairs) if pair["status"] == "defined"]
    if defined:
        note("")
        show("Their agreement", columns, [_pair(pair, numbers) for pair in defined])
    for study in _rows(found.studies):
        if study["reason"]:
            note(f"{numbers[study['study']]} has no profile to compare: {study['reason']}", style="red")
    without = {study["study"] for study in _rows(found.studies) if study["reason"]}
    reasons: dict[str, list[str]] = {}
    for pair in _rows(found.pairs):
        if pair["reason"] and without.isdisjoint({pair["first"], pair["second"]}):
            reasons.setdefault(pair["reason"], []).append(_names(pair, numbers))
    for reason, pairs in reasons.items():
        note(f"{', '.join(pairs)}: {reason}", style="dim")
    for text in _explained(found):
        note(text, style="dim")


def _study(study: Mapping[str, Any], numbers: Mapping[str, str]) -> dict[str, str]:
    return {
        "": numbers[study["study"]],
        "study": study["study"],
        "layers": f"{study['layers']} of {study['of']}" if study["layers"] != study["of"] else str(study["of"]),
        "seeds": str(study["seeds"] or "–"),
        "reliability": number(2)(study["reliability"]),
        "errors": study["errors"],
    }


def _pair(pair: Mapping[str, Any], numbers: Mapping[str, str]) -> dict[str, str]:
    beyond = pair["beyond_depth"]
    return {
        "pair": _names(pair, numbers),
        "layers": str(pair["layers"]),
        "Spearman": _interval(pair, "spearman"),
        "ceiling": number(2)(pair["ceiling"]),
        "Kendall": _interval(pair, "kendall"),
        "beyond depth": "–" if math.isnan(beyond) else f"{beyond:.2f}, p {pair['shift_p']:.2f}",
    }


def _names(pair: Mapping[str, Any], numbers: Mapping[str, str]) -> str:
    return f"{numbers[pair['first']]}–{numbers[pair['second']]}"


def _interval(pair: Mapping[str, Any], name: str) -> str:
    value, low, high = (pair[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _explained(found: StudyAgreement) -> list[str]:
    """What the columns are, and whose errors the intervals carry."""
    lines = [
        "Brackets are 95 % intervals of the agreement of the true profiles, over just these layers. Ceiling: about "
        "what would be seen with these errors if the true profiles agreed wholly.",
        "Beyond depth: the correlation that a quadratic in depth does not account for; p by circular shifts of depth.",
    ]
    tables = found.studies["errors"].str.startswith("none")
    if tables.any():
        which = ", ".join(str(i + 1) for i in found.studies.index[tables])
        lines.append(f"Taken as it is, without errors: {which}. Intervals carry the other profile's errors only.")
    if found.pairs["layers"].nunique() > 1 or found.studies["of"].nunique() > 1:
        lines.append("Profiles with different layers meet at the relative depths of the one with fewer.")
    return lines


def _rows(table: Any) -> list[dict[str, Any]]:
    return table.to_dict("records")

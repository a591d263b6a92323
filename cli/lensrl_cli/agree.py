"""`lensrl agree`: compare the layer contribution profiles of several studies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lensrl
from lensrl_cli.figure import FigureFile, FontSize, Title, Width, draw, look_of
from lensrl_cli.output import Csv, Json, note, number, print_json, print_table, write_csv

if TYPE_CHECKING:
    from lensrl import Study, StudyAgreement

Studies = Annotated[list[Path] | None, typer.Argument(metavar="STUDY", help="The folders of studies.")]
Tables = Annotated[
    list[Path] | None,
    typer.Option("--contributions", metavar="FILE", help="A CSV file with columns layer and contribution; repeatable."),
]


def agree(
    studies: Studies = None,
    contributions: Tables = None,
    *,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
) -> None:
    """Compare the layer contribution profiles of several studies, two at a time.

    Studies may differ in algorithm, task and model. Profiles with different layers are compared over relative depth.

    Example: lensrl agree runs/tiny --contributions runs/published/qwen3-1.7b-grpo-math.csv
    """
    look = look_of(figure, width, font_size, title=title)
    opened: list[Study] = []
    try:
        for path in studies or []:
            opened.append(lensrl.open_study(path))
        found = lensrl.agree(*opened, *(contributions or []))
    finally:
        for study in opened:
            study.close()
    if json:
        print_json(found.as_dict())
    else:
        _show(found)
    if csv is not None:
        write_csv(found.pairs, csv)
    draw(figure, lambda: lensrl.plot.agreement(found, look=look))


def _show(found: StudyAgreement) -> None:
    numbers = {name: str(i + 1) for i, name in enumerate(found.studies["study"])}
    columns = {"": "right", "study": "left", "layers": "right", "seeds": "right", "reliability": "right"}
    print_table(
        "Layer contribution profiles",
        columns | {"errors": "left"},
        [_study(s, numbers) for s in _rows(found.studies)],
        keys=2,
    )
    columns = dict.fromkeys(["pair", "layers", "Spearman", "ceiling", "Kendall", "beyond depth"], "right")
    defined = [pair for pair in _rows(found.pairs) if pair["status"] == "defined"]
    if defined:
        note("")
        print_table("Agreement of the profiles", columns, [_pair(pair, numbers) for pair in defined])
    # Reasons: of studies without a profile, then of pairs, each reason once.
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
    """Return sentences about the columns, and about the errors that the intervals include."""
    lines = [
        "Brackets are 95 % intervals of the agreement of the true profiles over these layers. Ceiling: the mean "
        "Spearman to expect with these errors if the true profiles were identical.",
    ]
    if found.pairs["beyond_depth"].notna().any():
        lines.append("Beyond depth: the correlation beyond a flexible trend in depth; p by circular shifts over depth.")
    tables = found.studies["errors"].str.endswith("of the table")
    if tables.any():
        which = ", ".join(str(i + 1) for i in found.studies.index[tables])
        lines.append(
            f"A table has no items and no seeds: the errors of {which} are those of its columns low and high, or come "
            f"from its roughness over depth."
        )
    lines += found.notes
    if found.pairs["layers"].nunique() > 1 or found.studies["of"].nunique() > 1:
        lines.append("Profiles with different layers are compared at the relative depths of the shorter profile.")
    return lines


def _rows(table: Any) -> list[dict[str, Any]]:
    return table.to_dict("records")

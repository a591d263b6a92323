"""`lensrl bottleneck`: the verdict on the middle-layer account, claim by claim."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

import lensrl
from lensrl_cli.figure import FigureFile, FontSize, Title, Width, draw, look_of
from lensrl_cli.output import (
    Contributions,
    Csv,
    Json,
    StudyOrTable,
    either,
    note,
    p_value,
    plain,
    print_block,
    print_json,
    write_csv,
)
from lensrl_cli.progress import measure_rivals

if TYPE_CHECKING:
    from lensrl import Verdict

COLOURS = {"supported": "bold green", "contradicted": "bold red", "undetermined": "bold dim"}

Beside = Annotated[
    list[Path] | None,
    typer.Option(
        "--beside", metavar="STUDY|FILE",
        help="Another study or table, for the claim that the ranking holds across them; may be repeated.",
    ),
]  # fmt: skip


def bottleneck(
    study: StudyOrTable = None,
    contributions: Contributions = None,
    beside: Beside = None,
    *,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
) -> None:
    """Judge the middle-layer account, claim by claim: supported, contradicted or undetermined.

    A claim is stated before its numbers; every p is two-sided and corrected for the claims that could be tested (Holm).

    A table of contributions can say less than a study, which has items, seeds and weights.

    Example: lensrl bottleneck runs/tiny
    """
    from lensrl.judge.profiles import paired_gains

    look = look_of(figure, width, font_size, title=title)
    given = either(study, contributions)
    if contributions is None:
        with lensrl.open_study(given) as opened:
            opened.runs.check_scored()
            paired_gains(opened)  # refuses what cannot be judged, before minutes are spent on rivals
            measure_rivals(opened, quiet=json)
            found = lensrl.verdict(opened, *(beside or []))
    else:
        found = lensrl.verdict(given, *(beside or []))
    if json:
        print_json(found.as_dict())
    else:
        _show(found)
    if csv is not None:
        import pandas as pd

        write_csv(pd.DataFrame(found.as_dict()["claims"]).drop(columns="details"), csv)
    drawn = f"{found.name}: the profile and its shapes, 95 % intervals"
    draw(figure, lambda: lensrl.plot.verdict(found, title=drawn, look=look))


def _show(found: Verdict) -> None:
    seeds = "" if found.n_seeds == 0 else f", {found.n_seeds} {'seed' if found.n_seeds == 1 else 'seeds'}"
    title = f"The middle-layer account, {found.name}: {found.n_layers} layers{seeds}"
    note(title, style="bold")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("verdict, claim", no_wrap=True)
    table.add_column("statement, and what was measured")
    table.add_column("p (Holm)", justify="right", no_wrap=True)
    for claim in found.claims:
        if table.row_count:
            table.add_row()  # four lines a claim in a narrow terminal: they need a gap
        verdict = Text.assemble((claim.verdict, COLOURS[claim.verdict]), "\n", (claim.name, "dim"))
        stated = Text.assemble(claim.statement, "\n", (plain(claim.evidence()), "dim"))
        table.add_row(verdict, stated, "–" if math.isnan(claim.p) else p_value(claim.p))
    print_block(table)
    for sentence in found.best_sentences():
        note(sentence)
    for sentence in found.robustness:
        note(sentence)
    for limit in found.limits:
        note(limit, style="dim")
    note("p is two-sided and corrected for the claims that could be tested: the more of them, the larger each. Below "
         "0.05 a claim is supported or contradicted. Brackets are 95 % intervals.", style="dim")  # fmt: skip
    # the verdict comes last, in a line a claim: it stays in view in a small terminal
    note("")
    for verdict in COLOURS:
        named = [claim.name for claim in found.claims if claim.verdict == verdict]
        if named:
            note(f"{verdict}: {', '.join(named)}", style=COLOURS[verdict])

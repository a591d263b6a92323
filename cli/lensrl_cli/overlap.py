"""`lensrl overlap`: show whether single layers solve the same items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import lensrl
from lensrl.errors import LensrlError
from lensrl_cli.figure import FigureFile, FontSize, Title, Width, draw, look_of
from lensrl_cli.output import (
    Csv,
    Json,
    StudyArgument,
    interval,
    note,
    number,
    print_json,
    print_table,
    write_csv,
)

if TYPE_CHECKING:
    import pandas as pd


def overlap(
    study: StudyArgument,
    k: Annotated[
        int | None,
        typer.Option("--best", metavar="K", min=1, help="How many layers vote together; 3, or as many as the samples."),
    ] = None,
    benchmark: Annotated[str | None, typer.Option("--benchmark", metavar="NAME", help="One benchmark, or all.")] = None,
    *,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
) -> None:
    """Show the overlap (Jaccard) of the items that single layers solve, beside the overlap of one run with itself.

    Then the union and the vote of the K best layers, chosen on one half of the items, beside K samples of full RL.

    --csv and --figure hold the overlaps.

    Example: lensrl overlap runs/tiny --best 3
    """
    look = look_of(figure, width, font_size, title=title)
    with lensrl.open_study(study) as opened:
        table = lensrl.overlaps(opened, benchmark=benchmark)
        together, missing = None, ""
        try:
            together = lensrl.teams(opened, k, benchmark=benchmark)
        except LensrlError as error:
            missing = str(error)
        name = opened.name
        draw(figure, lambda: lensrl.plot.overlap(opened, table, look=look))
    if json:
        print_json({
            "overlaps": table.to_dict("records"),
            "teams": [] if together is None else together.to_dict("records"),
            "reason": missing,
        })  # fmt: skip
    else:
        _show_overlaps(name, table)
        note("")
        if together is None:
            note(f"no union and no vote: {missing}", style="yellow")
        else:
            _show_teams(together)
    if csv is not None:
        write_csv(table, csv)


def _show_overlaps(name: str, table: pd.DataFrame) -> None:
    """Print one row per run: the overlap with itself, with its other seeds, with full RL, and with other layers."""
    rows = []
    for run in dict.fromkeys(table["run"]):
        own = table[(table["kind"] == "samples") & (table["run"] == run)]
        seeds = table[(table["kind"] == "seeds") & (table["run"] == run)]
        beside = table[(table["kind"] == "runs") & ((table["run"] == run) | (table["other"] == run))]
        with_full = (beside["run"] == "full-rl") | (beside["other"] == "full-rl")
        full = beside[with_full] if run != "full-rl" else beside.iloc[:0]
        layers = beside if run == "full-rl" else beside[~with_full]
        first = own.iloc[0]
        rows.append({
            "run": run,
            "solves": number()(own["run_solves"].mean()),
            "two\nsamples": number(2)(own["overlap"].mean()),
            "95 % interval": interval(first["low"], first["high"]) if len(own) == 1 else "",
            "two\nseeds": number(2)(seeds["overlap"].mean()) if len(seeds) else "",
            "full\nRL": number(2)(full["overlap"].mean()),
            "layers": number(2)(layers["overlap"].mean()),
            "least … most": interval(layers["overlap"].min(), layers["overlap"].max()),
        })  # fmt: skip
    columns = {"run": "left"} | dict.fromkeys([c for c in rows[0] if c != "run"], "right")
    print_table(f"Overlap of solved items, {name}", columns, rows)
    note("Two samples of one run are the baseline: runs solve the same items as far as they overlap as much. "
         "Layers: mean, least and most over the single layers of the same seed.", style="dim")  # fmt: skip
    if table.loc[table["kind"] == "samples", "overlap"].isna().all():
        note("no baseline: it needs two samples per item (evaluation.samples)", style="yellow")


def _show_teams(table: pd.DataFrame) -> None:
    layers = ", ".join(map(str, table["layers"].iloc[0]))
    k = table["k"].iloc[0]
    rows = [
        {
            "together": row["team"],
            f"{k} layers": number()(row["layer_score"]),
            f"{k} samples of full RL": number()(row["full_score"]),
            "difference": number()(row["difference"]),
            "95 % interval": interval(row["low"], row["high"], 3),
        }
        for row in table.to_dict("records")
    ]
    columns = {"together": "left"} | dict.fromkeys([c for c in rows[0] if c != "together"], "right")
    print_table(f"The {k} best layers together: {layers}", columns, rows)
    for row in table[table["reason"] != ""].to_dict("records"):
        note(f"{row['team']}: {row['reason']}", style="yellow")
    note("The layers are chosen on one half of the items, and measured on the other half, with one sample of each.",
         style="dim")  # fmt: skip

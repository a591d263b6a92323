"""`lensrl contribution`: the C_l profile."""

from __future__ import annotations

from collections.abc import Mapping
from csv import reader
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensrl import open_study
from lensrl_cli.output import (
    Contributions,
    Csv,
    FigureFile,
    Json,
    StudyOrTable,
    bar,
    either,
    interval,
    note,
    number,
    print_json,
    saved,
    show,
    write_csv,
)

if TYPE_CHECKING:
    import pandas as pd

BAR = "0      full RL"


def contribution(
    study: StudyOrTable = None,
    contributions: Contributions = None,
    seed: Annotated[int | None, typer.Option("--seed", help="One training seed; by default all together.")] = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Show the layer contribution C_l = (S_l - S_base) / (S_full - S_base) with 95 % intervals.

    Example: lensrl contribution runs/tiny --figure profile.png
    """
    given = either(study, contributions)
    if contributions is None:
        with open_study(given) as opened:
            table = opened.contributions(seed)
            scores = opened.scores()
            if seed is not None:
                scores = scores[(scores["seed"] == seed) | (scores["run"] == "base")]
            name = opened.name
    else:
        if seed is not None:
            raise typer.BadParameter("--seed is for a STUDY: a table of contributions has no seeds")
        from lensrl import read_contributions

        table, scores, name = read_contributions(given), None, given.stem
    if json:
        print_json(table.to_dict("records"))
    elif scores is None:
        _show_table(name, table, given)
    else:
        _show_study(name, table, scores)
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.report.figures import contribution_figure, save_figure

        drawn = {"status": "defined", "reason": ""} | {c: table[c] for c in ("status", "reason") if c in table}
        save_figure(contribution_figure(table.assign(**drawn), f"{name}: layer contribution, 95 % intervals"), figure)
        saved("figure", figure)


def _show_study(name: str, table: pd.DataFrame, scores: pd.DataFrame) -> None:
    rows = [
        _row(row)
        | {
            "S_l - S_base": number()(row["numerator"]),
            "status": row["status"] if row["status"] != "defined" else "",
        }
        for row in table.to_dict("records")
    ]
    columns = {"layer": "right", "C_l": "right", "95 % interval": "right", "S_l - S_base": "right",
               BAR: "left", "status": "left"}  # fmt: skip
    show(f"Layer contribution, {name}", columns, rows)
    for (status, reason), part in table[table["status"] != "defined"].groupby(["status", "reason"], sort=False):
        which = "all layers" if len(part) == len(table) else f"layer {', '.join(map(str, part['layer']))}"
        note(f"{which} {status}: {reason}", style="red")
    base, full = (scores.loc[scores["run"] == run, "score"].mean() for run in ("base", "full-rl"))
    first = table.loc[table["denominator"].first_valid_index() or 0]
    gain = f"{number()(first['denominator'])} ({interval(first['denominator_low'], first['denominator_high'], 3)})"
    note(f"base {number()(base)}, full RL {number()(full)}, gain {gain}; seeds {table['seeds'].max()}")


def _show_table(name: str, table: pd.DataFrame, path: Path) -> None:
    columns = {"layer": "right", "C_l": "right", "95 % interval": "right", BAR: "left"}
    show(f"Layer contribution, {name}", columns, [_row(row) for row in table.to_dict("records")])
    with open(path, newline="", encoding="utf-8-sig") as file:
        given = {"low", "high"} <= set(next(reader(file)))
    note(
        "Intervals are those of the file."
        if given
        else "The file has no intervals: these are estimated from how rough the profile is over depth, and a cliff "
        "makes them wider than they are.",
        style="dim",
    )


def _row(row: Mapping[Any, Any]) -> dict[str, str]:
    return {
        "layer": str(row["layer"]),
        "C_l": number(2)(row["contribution"]),
        "95 % interval": interval(row["low"], row["high"]),
        BAR: bar(row["contribution"], width=14),
    }

"""`lensrl contribution`: the C_l profile."""

from __future__ import annotations

from typing import Annotated

import typer

from lensrl import open_study
from lensrl_cli.output import (
    Csv,
    FigureFile,
    Json,
    StudyArgument,
    bar,
    interval,
    note,
    number,
    print_json,
    saved,
    show,
    write_csv,
)


def contribution(
    study: StudyArgument,
    seed: Annotated[int | None, typer.Option("--seed", help="One training seed; by default all together.")] = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Show the layer contribution C_l = (S_l - S_base) / (S_full - S_base) with 95 % intervals.

    Example: lensrl contribution runs/tiny --figure profile.png
    """
    with open_study(study) as opened:
        table = opened.contributions(seed)
        scores = opened.scores()
        if seed is not None:
            scores = scores[(scores["seed"] == seed) | (scores["run"] == "base")]
        name = opened.name
    if json:
        print_json(table.to_dict("records"))
    else:
        rows = [
            {
                "layer": str(row["layer"]),
                "C_l": number(2)(row["contribution"]),
                "95 % interval": interval(row["low"], row["high"]),
                "S_l - S_base": number()(row["numerator"]),
                "0      full RL": bar(row["contribution"], width=14),
                "status": row["status"] if row["status"] != "defined" else "",
            }
            for row in table.to_dict("records")
        ]
        columns = {"layer": "right", "C_l": "right", "95 % interval": "right", "S_l - S_base": "right",
                   "0      full RL": "left", "status": "left"}  # fmt: skip
        show(f"Layer contribution, {name}", columns, rows)
        for (status, reason), part in table[table["status"] != "defined"].groupby(["status", "reason"], sort=False):
            which = "all layers" if len(part) == len(table) else f"layer {', '.join(map(str, part['layer']))}"
            note(f"{which} {status}: {reason}", style="red")
        base, full = (scores.loc[scores["run"] == run, "score"].mean() for run in ("base", "full-rl"))
        first = table.loc[table["denominator"].first_valid_index() or 0]
        gain = f"{number()(first['denominator'])} ({interval(first['denominator_low'], first['denominator_high'], 3)})"
        note(f"base {number()(base)}, full RL {number()(full)}, gain {gain}; seeds {table['seeds'].max()}")
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.report.figures import contribution_figure, save_figure

        save_figure(contribution_figure(table, f"{name}: layer contribution, 95 % intervals"), figure)
        saved("figure", figure)

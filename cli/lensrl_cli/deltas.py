"""`lensrl deltas`: show how training changed the weights."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

import lensrl
from lensrl_cli.output import (
    Csv,
    FigureFile,
    Json,
    StudyArgument,
    note,
    number,
    print_json,
    print_table,
    saved,
    write_csv,
)


class By(StrEnum):
    layer = "layer"
    component = "component"
    parameter = "parameter"


# A column of `compare_weights` -> its heading and its decimals.
SHOWN = {
    "relative": ("‖ΔW‖ / ‖W‖", 4),
    "spectral": ("‖ΔW‖₂", 3),
    "stable_rank": ("stable rank", 1),
    "effective_rank": ("effective rank", 1),
    "changed_share_bf16": ("changed in bf16", 3),
    "spectral_shift": ("spectral shift", 5),
    "left_angle": ("angle", 1),
    "overlap_largest": ("on largest", 3),
}


def deltas(
    study: StudyArgument,
    by: Annotated[
        By, typer.Option("--by", metavar="UNIT", help="One row for each layer, component or parameter.")
    ] = By.layer,
    run: Annotated[str, typer.Option("--run", metavar="RUN", help="The trained run.")] = "full-rl",
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="The training seed; by default the lowest.")
    ] = None,
    *,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Show how training changed the weights: size, rank, spectrum, angles and support of the weight deltas.

    Example: lensrl deltas runs/tiny --run full-rl
    """
    from lensrl.store.origin import rounding_note

    with lensrl.open_study(study) as opened:
        table = lensrl.compare_weights(opened, run, by=by.value, seed=seed)
        parameters = lensrl.compare_weights(opened, run, seed=seed) if figure is not None else table
        name, rounded = opened.name, rounding_note([opened.runs.find_scored(run, seed)])
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    if json:
        print_json(records)
    else:
        _show(f"Weight deltas of {run}, {name}", records)
        if rounded:
            note(rounded, style="yellow")
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.show.figures import save_figure, weight_figure

        save_figure(weight_figure(parameters, f"{name}: weight deltas of {run}"), figure)
        saved("figure", figure)


def _show(title: str, records: list[dict[Any, Any]]) -> None:
    rows = [
        {
            "layer": "–" if row["layer"] is None else str(row["layer"]),
            "part": row["parameter"] or row["component"],
            **{heading: number(digits)(row[key]) for key, (heading, digits) in SHOWN.items()},
        }
        for row in records
    ]
    columns = {"layer": "right", "part": "left"} | dict.fromkeys((heading for heading, _ in SHOWN.values()), "right")
    if not any(row["part"] for row in rows):
        del columns["part"]
    print_table(title, columns, rows, keys=1 + ("part" in columns))
    note(
        "‖ΔW‖₂, the ranks, spectral shift and angle are medians over the matrices. Angle: the largest angle between "
        "the leading left singular spaces, in degrees. On largest: the share of the 10 % largest entries "
        "of ΔW that are also among the 10 % largest entries of W; 0.1 by chance.",
        style="dim",
    )

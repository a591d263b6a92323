"""`lensrl deltas`: what training did to the weights."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from lensrl import open_study
from lensrl_cli.output import Csv, FigureFile, Json, StudyArgument, note, number, print_json, saved, show, write_csv


class By(StrEnum):
    layer = "layer"
    component = "component"
    parameter = "parameter"


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
    by: Annotated[By, typer.Option("--by", help="One row for each of these.")] = By.layer,
    run: Annotated[str, typer.Option("--run", metavar="RUN", help="The trained run.")] = "full-rl",
    seed: Annotated[int | None, typer.Option("--seed", help="Training seed; by default the lowest.")] = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Show what training did to the weights: size, rank, spectrum, angles, support.

    Example: lensrl deltas runs/tiny --run full-rl
    """
    from lensrl.compare.weights import compare_weights

    with open_study(study) as opened:
        table = compare_weights(opened, run, by=by.value, seed=seed)
        parameters = compare_weights(opened, run, seed=seed) if figure is not None else table
        name = opened.name
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    if json:
        print_json(records)
    else:
        rows = [
            {
                "layer": "–" if row["layer"] is None else str(row["layer"]),
                "part": row["parameter"] or row["component"],
                **{head: number(digits)(row[key]) for key, (head, digits) in SHOWN.items()},
            }
            for row in records
        ]
        columns = {"layer": "right", "part": "left"} | dict.fromkeys((head for head, _ in SHOWN.values()), "right")
        if not any(row["part"] for row in rows):
            del columns["part"]
        show(f"Weight deltas of {run}, {name}", columns, rows, keys=1 + ("part" in columns))
        note(
            "‖ΔW‖₂, ranks, spectral shift and angle: medians over the matrices; angle: the largest between leading "
            "left spaces, in degrees; on largest: share of the update's largest tenth that is on W's, 0.1 by chance",
            style="dim",
        )
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.show.figures import save_figure, weight_figure

        save_figure(weight_figure(parameters, f"{name}: weight deltas of {run}"), figure)
        saved("figure", figure)

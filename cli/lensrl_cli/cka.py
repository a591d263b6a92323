"""`lensrl cka`: how alike two runs represent the same tokens."""

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


def cka(
    study: StudyArgument,
    one: Annotated[str, typer.Option("--from", metavar="RUN", help="One of the two runs.")] = "base",
    other: Annotated[str, typer.Option("--into", metavar="RUN", help="The other.")] = "full-rl",
    site: Annotated[str, typer.Option("--site", help="block_out, attn_out or mlp_out.")] = "block_out",
    seed: Annotated[int | None, typer.Option("--seed", help="Training seed; by default the lowest.")] = None,
    skip_first: Annotated[bool, typer.Option("--skip-first", help="Leave out each sequence's first token.")] = False,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Compare two runs' activations on the probe set: debiased linear CKA by layer, with 95 % intervals.

    Example: lensrl cka runs/tiny --from base --into full-rl
    """
    from lensrl.compare.activations import compare_activations

    with open_study(study) as opened:
        table = compare_activations(opened, one, other, site=site, seed=seed, first_token=not skip_first)
        name = opened.name
    if json:
        print_json(table.to_dict("records"))
    else:
        high = max(table["one_minus_cka"].max(), 1e-6)
        rows = [
            {
                "layer": str(row["layer"]),
                "CKA": number(4)(row["cka"]),
                "95 % interval": interval(row["low"], row["high"], 4),
                "1 - CKA": bar(row["one_minus_cka"], width=14, full=high),
                "Procrustes": number()(row["procrustes"]),
                "relative L2": number()(row["relative_l2"]),
                "cosine": number()(row["cosine"]),
            }
            for row in table.to_dict("records")
        ]
        columns = {"layer": "right", "CKA": "right", "95 % interval": "right", "1 - CKA": "left",
                   "Procrustes": "right", "relative L2": "right", "cosine": "right"}  # fmt: skip
        show(f"{one} and {other} at {site}, {name}", columns, rows)
        note("CKA is blind to rotations and led by directions of large variance; relative L2 and cosine are not",
             style="dim")  # fmt: skip
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.show.figures import cka_figure, save_figure

        save_figure(cka_figure(table, f"{name}: {one} and {other} at {site}, 95 % intervals over sequences"), figure)
        saved("figure", figure)

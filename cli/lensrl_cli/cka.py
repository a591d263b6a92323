"""`lensrl cka`: compare how two runs represent the same tokens."""

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
    bar,
    interval,
    note,
    number,
    print_json,
    print_table,
    saved,
    write_csv,
)

DIFFER = 1e-3  # of the CKA with and without first tokens, from which on both are shown


class Pairs(StrEnum):
    sequence = "sequence"
    token = "token"


def cka(
    study: StudyArgument,
    one: Annotated[str, typer.Option("--from", metavar="RUN", help="One of the two runs.")] = "base",
    other: Annotated[str, typer.Option("--into", metavar="RUN", help="The other run.")] = "full-rl",
    site: Annotated[str, typer.Option("--site", metavar="SITE", help="block_out, attn_out or mlp_out.")] = "block_out",
    *,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="The training seed; by default the lowest.")
    ] = None,
    pairs: Annotated[
        Pairs, typer.Option("--pairs", metavar="KIND", help="Tokens of different sequences (sequence), or all (token).")
    ] = Pairs.sequence,
    keep_first: Annotated[
        bool, typer.Option("--keep-first/--skip-first", help="Keep the first token of each sequence, or leave it out.")
    ] = False,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Compare the activations of two runs on the probe set by debiased linear CKA, layer by layer.

    Intervals are 95 % intervals over sequences. Tokens of one sequence are alike, so only tokens of different sequences
    are compared. The first token of each sequence is left out, as it often has a much larger norm than the others.

    Example: lensrl cka runs/tiny --from base --into full-rl
    """
    with lensrl.open_study(study) as opened:
        table = lensrl.compare_activations(
            opened, one, other, site=site, seed=seed, first_token=keep_first, pairs=pairs.value
        )
        name = opened.name
    if json:
        print_json(table.to_dict("records"))
    else:
        _show(f"{one} and {other} at {site}, {name}", table)
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.show.figures import cka_figure, save_figure

        save_figure(cka_figure(table, f"{name}: {one} and {other} at {site}, 95 % intervals over sequences"), figure)
        saved("figure", figure)


def _show(title: str, table: Any) -> None:
    largest = max(table["one_minus_cka"].max(), 1e-6)
    differ = (table["cka"] - table["cka_with_first"]).abs().max() >= DIFFER
    rows = [
        {
            "layer": str(row["layer"]),
            "CKA": number(4)(row["cka"]),
            "95 % interval": interval(row["low"], row["high"], 4),
            **({"first kept": number(4)(row["cka_with_first"])} if differ else {}),
            "1 - CKA": bar(row["one_minus_cka"], width=14, full=largest),
            "Procrustes": number()(row["procrustes"]),
            "relative L2": number()(row["relative_l2"]),
            "cosine": number()(row["cosine"]),
        }
        for row in table.to_dict("records")
    ]
    print_table(title, dict.fromkeys(rows[0], "right") | {"1 - CKA": "left"}, rows)
    note(
        "CKA ignores rotations, and directions of large variance dominate it. Relative L2 and cosine change with both."
        + (" First kept: CKA with the first token of each sequence." if differ else ""),
        style="dim",
    )

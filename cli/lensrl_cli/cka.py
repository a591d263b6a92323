"""`lensrl cka`: compare how two runs represent the same tokens."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import lensrl
from lensrl_cli.figure import FigureFile, FontSize, Title, Width, draw, look_of
from lensrl_cli.output import (
    ChosenLayers,
    Csv,
    Json,
    OnDevice,
    Seed,
    Sort,
    StudyOrBase,
    Trained,
    bar,
    chosen_rows,
    interval,
    note,
    number,
    print_json,
    print_table,
    write_csv,
)
from lensrl_cli.progress import progress_bars

DIFFER = 1e-3  # of the CKA with and without first tokens, from which on both are shown


class Pairs(StrEnum):
    sequence = "sequence"
    token = "token"


def cka(
    study: StudyOrBase,
    trained: Trained = None,
    from_run: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="One of the two runs; by default base.")
    ] = None,
    into_run: Annotated[
        str | None, typer.Option("--into", metavar="RUN", help="The other run; by default full-rl.")
    ] = None,
    site: Annotated[str, typer.Option("--site", metavar="SITE", help="block_out, attn_out or mlp_out.")] = "block_out",
    *,
    seed: Seed = None,
    pairs: Annotated[
        Pairs, typer.Option("--pairs", metavar="KIND", help="Tokens of different sequences (sequence), or all (token).")
    ] = Pairs.sequence,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="Of two models: texts, .txt (one a line) or .jsonl. By default built-in ones.",
        ),
    ] = None,
    keep_first: Annotated[
        bool, typer.Option("--keep-first/--skip-first", help="Keep the first token of each sequence, or leave it out.")
    ] = False,
    layers_map: Annotated[
        bool, typer.Option("--map", help="Draw every layer of one run with every layer of the other.")
    ] = False,
    layer: ChosenLayers = None,
    sort: Sort = None,
    device: OnDevice = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
) -> None:
    """Compare the activations of two runs on the probe set by debiased linear CKA, layer by layer.

    Intervals are 95 % intervals over sequences. Tokens of one sequence are alike, so only tokens of different sequences
    are compared. The first token of each sequence is left out, as it often has a much larger norm than the others.

    Example: lensrl cka runs/tiny --from base --into full-rl

    For two models without a study: lensrl cka BASE TRAINED
    """  # fmt: skip
    look = look_of(figure, width, font_size, title=title)
    first, second = from_run or "base", into_run or "full-rl"
    if layers_map and (figure is None or trained is not None):
        raise typer.BadParameter("--map draws two runs of a study: give STUDY alone, and --figure FILE")
    how: dict[str, Any] = {
        "site": site,
        "first_token": keep_first,
        "pairs": pairs.value,
        "device": None if device is None else device.value,
    }
    if trained is None:
        if texts is not None:
            raise typer.BadParameter(
                "--texts is for two models: the runs of a study keep their probe set; leave it out"
            )
        with lensrl.open_study(study) as opened:
            with progress_bars("activations,", quiet=json) as on_progress:
                table = lensrl.compare_activations(opened, first, second, seed=seed, on_progress=on_progress, **how)
            pair, name = f"{first} and {second} at {site}", opened.name
        heading, drawn = f"{pair}, {name}", f"{name}: {pair}"
    else:
        given = {"--from": from_run, "--into": into_run, "--seed": seed}
        option = next((option for option, value in given.items() if value is not None), None)
        if option is not None:
            raise typer.BadParameter(f"two models have no runs: leave out {option}, or give a study alone")
        table = lensrl.compare_model_activations(study, trained, texts=texts, **how)
        heading = drawn = f"{study} and {trained} at {site}, on {'built-in texts' if texts is None else texts}"
    whole, table = table, chosen_rows(table, layer, sort)
    if json:
        print_json(table.to_dict("records"))
    else:
        _show(heading, table)
        if whole.attrs.get("same_weights"):
            note(f"{trained} equals {study} in every tensor.", style="yellow")
    if csv is not None:
        write_csv(table, csv)
    if layers_map:
        with lensrl.open_study(study) as opened:
            values = lensrl.compare_layers(opened, first, second, seed=seed, **how)
            drawn = f"{opened.name}: CKA of all layers"
            draw(figure, lambda: lensrl.plot.cka_map(values, first, second, title=drawn, look=look))
    else:
        draw(figure, lambda: lensrl.plot.cka(whole, title=f"{drawn}, 95 % intervals over sequences", look=look))


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

"""`lensrl patch`: put layers of one run into another, and measure what that recovers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lensrl.report import METRICS
from lensrl_cli.output import (
    Csv,
    FigureFile,
    Json,
    console,
    find_study,
    interval,
    note,
    number,
    print_json,
    saved,
    show,
    write_csv,
)


class What(StrEnum):
    weights = "weights"
    activations = "activations"
    both = "both"


class Component(StrEnum):
    block = "block"
    attn = "attn"
    mlp = "mlp"


def patch(
    layer: Annotated[str, typer.Option("--layer", metavar="L", help="20, a range 0-7, a list 1,3,5, or all.")],
    from_run: Annotated[str, typer.Option("--from", metavar="RUN", help="The run whose layer is taken.")] = "full-rl",
    into_run: Annotated[str, typer.Option("--into", metavar="RUN", help="The run that receives it.")] = "base",
    study: Annotated[
        Path | None, typer.Option("--study", metavar="DIR", help="The study; by default the only one under runs/.")
    ] = None,
    what: Annotated[
        What, typer.Option("--what", metavar="KIND", help="weights (graft), activations (patch), or both.")
    ] = What.both,
    component: Annotated[Component, typer.Option("--component", help="Which part of the layer.")] = Component.block,
    reverse: Annotated[bool, typer.Option("--reverse", help="Necessity: the base's layer into the RL model.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="The training seed; by default the lowest.")] = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Put layers of one run into another, each alone, and measure the recovery of the gain.

    weights: the layer's trained weights are grafted.

    activations: what the layer adds to the stream in one model replaces the other's, same tokens.

    Example: lensrl patch --from full-rl --layer 20
    """
    from lensrl import patch as patch_layers

    with find_study(study) as opened, Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        console=console, transient=True, disable=json or not console.is_terminal,
    ) as progress:  # fmt: skip
        bars: dict[str, TaskID] = {}

        def on_progress(kind: str, done: int, of: int) -> None:
            if kind not in bars:
                bars[kind] = progress.add_task(f"patching {kind}", total=of)
            progress.update(bars[kind], completed=done)

        table = patch_layers(
            opened, layers=layer, from_run=from_run, into_run=into_run, reverse=reverse,
            what=what.value, component=component.value, seed=seed, on_progress=on_progress,
        )  # fmt: skip
        name = opened.name
    donor, into, used = table.iloc[0][["from", "into", "seed"]]
    title = f"{component.value} of {donor} into {into}, {name}, seed {used}"
    if json:
        print_json(table.to_dict("records"))
    else:
        numeric = dict.fromkeys(("recovery", "95 % interval", "into", "patched", "from", "C_l"), "right")
        for kind, part in table.groupby("what", sort=False):
            rows = [
                {
                    "layer": str(row["layer"]),
                    "metric": METRICS[row["metric"]],
                    "recovery": number(2)(row["recovery"]),
                    "95 % interval": interval(row["low"], row["high"]),
                    "into": number()(row["into_value"]),
                    "patched": number()(row["patched_value"]),
                    "from": number()(row["from_value"]),
                    "C_l": number(2)(row["contribution"]),
                }
                for row in part.to_dict("records")
            ]
            show(f"{kind}: {title}", {"layer": "right", "metric": "left"} | numeric, rows)
        undefined = table[table["reason"] != ""]
        for (kind, metric, reason), part in undefined.groupby(["what", "metric", "reason"], sort=False):
            layers = ", ".join(map(str, part["layer"]))
            note(f"{kind}, {METRICS[str(metric)]}, layer {layers} undefined: {reason}", style="red")
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.report.figures import recovery_figure, save_figure

        save_figure(recovery_figure(table, title), figure)
        saved("figure", figure)

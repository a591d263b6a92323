"""`lensrl patch`: put layers of one run into another, and measure what that recovers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lensrl.recipe.runs import BASE
from lensrl.show.words import METRIC_LABELS, SET_LABELS
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
    head = "head"
    stream = "stream"


class Sets(StrEnum):
    single = "single"
    bottom = "bottom"
    top = "top"
    pairs = "pairs"
    together = "together"


NOTES = {
    "stream": "The stream after layer l holds all that the donor computed up to l, its embedding too: recovery grows "
    "with depth by construction, and what it lacks to 1 after the last layer is what final_norm and lm_head changed.",
    "bottom": "activations: with every block up to l replaced, the stream after l is the donor's, but for the "
    "embedding: recovery grows with depth by construction.",
    "head": "A head is patched before the output projection: the receiver's own projection carries it to the stream.",
}


def patch(
    layer: Annotated[str, typer.Option("--layer", metavar="L", help="20, a range 0-7, a list 1,3,5, or all.")],
    from_run: Annotated[str, typer.Option("--from", metavar="RUN", help="The run whose layer is taken.")] = "full-rl",
    into_run: Annotated[str, typer.Option("--into", metavar="RUN", help="The run that receives it.")] = "base",
    study: Annotated[
        Path | None, typer.Argument(metavar="STUDY", help="A study's folder; by default the only one under runs/.")
    ] = None,
    what: Annotated[
        What, typer.Option("--what", metavar="KIND", help="weights (graft), activations (patch), or both.")
    ] = What.both,
    component: Annotated[
        Component,
        typer.Option("--component", metavar="PART", help="block, attn or mlp; head or stream with activations."),
    ] = Component.block,
    sets: Annotated[
        Sets,
        typer.Option(
            "--sets", metavar="SET_LABELS", help="single, bottom (0 to l), top (l to last), pairs or together."
        ),
    ] = Sets.single,
    reverse: Annotated[bool, typer.Option("--reverse", help="Necessity: the base's layer into the RL model.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="The training seed; by default the lowest.")] = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
) -> None:
    """Put layers of one run into another, alone or in sets, and measure the recovery of the gain.

    weights: the layer's trained weights are grafted.

    activations: what the layer adds to the stream in one model replaces the other's, same tokens.

    --sets together, beside each layer alone, says whether the layers' recoveries add up.

    Example: lensrl patch --from full-rl --layer 3
    """
    from lensrl import patch as patch_layers
    from lensrl.compare.patching.additivity import additivity_table

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
            what=what.value, component=component.value, sets=sets.value, seed=seed, on_progress=on_progress,
        )  # fmt: skip
        name = opened.name
        donor, into, used = table.iloc[0][["from", "into", "seed"]]
        sums = additivity_table(opened, donor, into, int(used), component.value)
    plain_title = f"{component.value} of {donor} into {into}, {name}, seed {used}"
    title = plain_title + (f", {SET_LABELS[sets.value]}" if sets != Sets.single else "")
    if json:
        print_json(table.to_dict("records"))
    else:
        for kind, part in table.groupby("what", sort=False):
            _show_kind(f"{kind}: {title}", part)
        undefined = table[table["reason"] != ""]
        for (kind, metric, reason), part in undefined.groupby(["what", "metric", "reason"], sort=False):
            layers = ", ".join(part["layers"].unique())
            note(f"{kind}, {METRIC_LABELS[str(metric)]}, layer {layers} undefined: {reason}", style="red")
        for asked in (component.value, sets.value if what != What.weights else ""):
            if asked in NOTES:
                note(NOTES[asked])
        lost = table[table["share_of"] == "loss"]
        if len(lost):
            metrics = " and ".join(METRIC_LABELS[metric] for metric in lost["metric"].unique())
            note(f"RL lowered {metrics}: recovery is the share of a loss there")
        idle = table.loc[(table["what"] == "weights") & ~table["trained"], "layers"].unique()
        if len(idle):
            trained = " and ".join(run for run in (donor, into) if run != BASE)
            part = "" if component == Component.block else f"{component.value} of "
            note(f"{trained} did not train {part}layer {', '.join(idle)}: its weights there are the base's, and "
                 f"grafting them says nothing")  # fmt: skip
        sums = sums[sums["what"].isin(table["what"])]
        if len(sums) and (sets == Sets.together or (sets == Sets.single and layer == "all")):
            _show_additivity(plain_title, sums)
    if csv is not None:
        write_csv(table, csv)
    if figure is not None:
        from lensrl.show.figures import patch_figure, save_figure

        save_figure(patch_figure(table, title), figure)
        saved("figure", figure)


def _show_kind(title: str, table: Any) -> None:
    """One row per set of layers (or head) and metric."""
    alone, heads = (table["sets"] == "single").all(), table["head"].notna().all()
    where = "layer" if alone else "layers"
    columns = {where: "right"} | ({"head": "right"} if heads else {}) | {"metric": "left"}
    columns |= dict.fromkeys(("recovery", "95 % interval", "into", "patched", "from"), "right")
    rows = [
        {
            where: row["layers"],
            "head": str(row["head"]),
            "metric": METRIC_LABELS[row["metric"]],
            "recovery": number(2)(row["recovery"]),
            "95 % interval": interval(row["low"], row["high"]),
            "into": number()(row["into_value"]),
            "patched": number()(row["patched_value"]),
            "from": number()(row["from_value"]),
            "C_l": number(2)(row["contribution"]),
        }
        for row in table.to_dict("records")
    ]
    show(title, columns | ({"C_l": "right"} if alone else {}), rows, keys=2 + bool(heads))


def _show_additivity(title: str, sums: Any) -> None:
    """Each layer alone, summed, against all layers together."""
    terms = {"sum": "single_sum", "together": "together", "interaction": "interaction"}
    rows = [
        {"kind": row["what"], "metric": METRIC_LABELS[row["metric"]]}
        | {heading: number(2)(row[name]) for heading, name in terms.items()}
        | {"95 % interval": interval(row["interaction_low"], row["interaction_high"])}
        for row in sums.to_dict("records")
    ]
    columns = {"kind": "left", "metric": "left"} | dict.fromkeys([*terms, "95 % interval"], "right")
    show(f"do single layers add up? {title}", columns, rows, keys=2)
    note("An interaction under 0 says that layers bring the same gain, or that the metric saturates; over 0, that they "
         "need each other.")  # fmt: skip

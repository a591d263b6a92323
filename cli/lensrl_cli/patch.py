"""`lensrl patch`: put layers of one run into another, and measure the recovery of the gain."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lensrl
from lensrl.errors import LensrlError
from lensrl.show.words import METRIC_LABELS, SET_LABELS
from lensrl_cli.cluster import Address, NumCpus, NumGpus, Place, Where, cluster_of
from lensrl_cli.figure import FigureFile, FontSize, Title, Width, draw, look_of
from lensrl_cli.output import (
    Csv,
    Json,
    Seed,
    Sort,
    chosen_rows,
    find_study,
    interval,
    note,
    number,
    print_json,
    print_table,
    write_csv,
)
from lensrl_cli.patch_controls import beside_patches, show_random, show_wrong_items
from lensrl_cli.patch_notes import how_to_read, note_losses, note_time, note_untrained
from lensrl_cli.progress import progress_bars

if TYPE_CHECKING:
    import pandas as pd


class What(StrEnum):
    weights = "weights"
    activations = "activations"
    both = "both"


class Component(StrEnum):
    block = "block"
    attn = "attn"
    mlp = "mlp"
    head = "head"
    direct = "direct"
    stream = "stream"


class Metric(StrEnum):
    score = "score"
    logprob = "logprob"
    both = "both"


class Control(StrEnum):
    random = "random"
    items = "items"


class Sets(StrEnum):
    single = "single"
    bottom = "bottom"
    top = "top"
    pairs = "pairs"
    together = "together"


def patch(
    layer: Annotated[
        str, typer.Option("--layer", "--layers", metavar="L", help="One layer 20, a range 0-7, a list 1,3,5, or all.")
    ],
    from_run: Annotated[
        str, typer.Option("--from", metavar="RUN", help="The run from which layers are taken.")
    ] = "full-rl",
    into_run: Annotated[str, typer.Option("--into", metavar="RUN", help="The run that receives the layers.")] = "base",
    study: Annotated[
        Path | None,
        typer.Argument(metavar="STUDY", help="The folder of a study; by default the only study under runs/."),
    ] = None,
    what: Annotated[
        What, typer.Option("--what", metavar="KIND", help="weights (graft), activations (patch), or both.")
    ] = What.both,
    component: Annotated[
        Component,
        typer.Option(
            "--component", metavar="PART", help="block, attn or mlp; for activations also head, direct or stream."
        ),
    ] = Component.block,
    sets: Annotated[
        Sets,
        typer.Option("--sets", metavar="SETS", help="single, bottom (0 to l), top (l to last), pairs or together."),
    ] = Sets.single,
    metric: Annotated[
        Metric,
        typer.Option("--metric", metavar="M", help="Of grafts: the sampled score, logprob (far faster), or both."),
    ] = Metric.both,
    control: Annotated[
        Control | None,
        typer.Option(
            "--control",
            metavar="KIND",
            help="random: also graft random directions of each layer's norm, by log p. items: also patch activations "
            "of another item.",
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            "--draws", metavar="N", min=1, help="Random directions of each layer, for --control random; by default 3."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Measure in N processes, each a share of the patches.")
    ] = 1,
    place: Where = Place.HERE,
    address: Address = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    *,
    reverse: Annotated[
        bool, typer.Option("--reverse", help="Test necessity: put layers of the base into the RL model.")
    ] = False,
    seed: Seed = None,
    sort: Sort = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
) -> None:
    """Put layers of one run into another, one layer or a set at a time, and measure how much of the gain they recover.

    weights: the trained weights of the layer replace the weights of the other run.

    activations: the output that the layer adds to the stream replaces the other run's output on the same tokens.

    --sets together compares all layers at once with the sum of single layers.

    --control random puts random numbers with the norm of the layer's change in its place. If they recover as much, the
    size of the change recovers, and not its direction. They have no sampled scores: each draw would cost an evaluation.

    --control items takes the donor's activations from another item with as many tokens. If they recover as much, the
    patch hands over nothing about the item. Beside them, own: the receiver's own activations, which recover 0 unless
    patching itself does something.

    Example: lensrl patch runs/tiny --from full-rl --layer 3
    """
    from lensrl.show.figures.patching import reading_of
    from lensrl.store.origin import texts_note

    look = look_of(figure, width, font_size, title=title)
    cluster = cluster_of(place, address, num_cpus, num_gpus)
    if cluster is not None and workers != 1:
        raise LensrlError("--workers is for processes on this machine: Ray starts as many as its nodes have room for")
    if what == What.activations and metric != Metric.both:
        raise typer.BadParameter("--metric is for grafts, and activation patches sample nothing: leave it out")
    if draws is not None and control != Control.random:
        raise typer.BadParameter("--draws is for --control random: add it")
    if control == Control.items and (what == What.weights or component == Component.head or sets != Sets.single):
        raise typer.BadParameter(
            "--control items patches activations of whole single layers: leave out --what weights, --component head "
            "and --sets"
        )
    if control == Control.random and (
        what == What.activations or metric == Metric.score or component != Component.block or sets != Sets.single
    ):
        raise typer.BadParameter(
            "--control random grafts whole single layers and measures log p: leave out --what activations, "
            "--component, --sets and --metric score"
        )
    with find_study(study) as opened:
        with progress_bars("patching", quiet=json) as on_progress:
            table = lensrl.patch(
                opened, layers=layer, from_run=from_run, into_run=into_run, reverse=reverse,
                what=what.value, component=component.value, sets=sets.value, metric=metric.value, seed=seed,
                workers=workers, cluster=cluster, on_progress=on_progress, on_estimate=note_time,
            )  # fmt: skip
            donor, into, used_seed = table.iloc[0][["from", "into", "seed"]]
            runs = {"from_run": donor, "into_run": into, "seed": int(used_seed), "on_progress": on_progress}
            randoms = wrong = None
            if control == Control.random:
                randoms = lensrl.random_grafts(opened, layers=layer, draws=draws or 3, **runs)
            elif control == Control.items:
                wrong = lensrl.wrong_item_patches(opened, layers=layer, component=component.value, **runs)
        named = f"{component.value} of {donor} into {into}, {opened.name}, seed {used_seed}"
        title_of_sets = named + (f", {SET_LABELS[sets.value]}" if sets != Sets.single else "")
        table = chosen_rows(table, None, sort)
        # The tables come first; below them, sentences on how to read this kind of patch.
        if json and control is not None:
            found = {"patches": table, "random": randoms, "wrong_items": wrong}
            print_json({name: rows.to_dict("records") for name, rows in found.items() if rows is not None})
        elif json:
            print_json(table.to_dict("records"))
        else:
            _show_kinds(title_of_sets, table)
            if what != What.weights and (said := how_to_read(component.value, sets.value)):
                note(said)
            if on_texts := texts_note(opened.recipe):
                note(f"{on_texts} A graft is measured by log p alone, without a score.")
            if randoms is not None:
                show_random(table, randoms)
            if wrong is not None:
                show_wrong_items(wrong)
            note_losses(table)
            for sentence in reading_of(table):
                note(f"{sentence[0].upper()}{sentence[1:]}")
            note_untrained(table, component.value)
            if sets == Sets.together or (sets == Sets.single and layer == "all"):
                sums = lensrl.additivity_table(
                    opened, from_run=donor, into_run=into, seed=int(used_seed), component=component.value
                )
                _show_additivity(named, sums[sums["what"].isin(table["what"])])
        if csv is not None:
            write_csv(table if wrong is None else beside_patches(table, wrong), csv)
        draw(figure, lambda: lensrl.plot.patching_panels(opened, table, title=title_of_sets, look=look))


def _show_kinds(title: str, table: pd.DataFrame) -> None:
    """Print one table for weights and one for activations, then the reasons of undefined recoveries."""
    for kind, part in table.groupby("what", sort=False):
        _show_kind(f"{kind}: {title}", part)
    undefined = table[table["reason"] != ""]
    for (kind, metric, reason), part in undefined.groupby(["what", "metric", "reason"], sort=False):
        layers = ", ".join(part["layers"].unique())
        note(f"{kind}, {METRIC_LABELS[str(metric)]}, layer {layers} undefined: {reason}", style="red")


def _show_kind(title: str, table: pd.DataFrame) -> None:
    """Print one row per set of layers, or head, and metric."""
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
    print_table(title, columns | ({"C_l": "right"} if alone else {}), rows, keys=2 + bool(heads))


def _show_additivity(title: str, sums: pd.DataFrame) -> None:
    """Print the sum of the recoveries of single layers beside the recovery of all layers together."""
    if not len(sums):
        return
    terms = {"sum": "single_sum", "together": "together", "interaction": "interaction"}
    rows = [
        {"kind": row["what"], "metric": METRIC_LABELS[row["metric"]]}
        | {heading: number(2)(row[name]) for heading, name in terms.items()}
        | {"95 % interval": interval(row["interaction_low"], row["interaction_high"])}
        for row in sums.to_dict("records")
    ]
    columns = {"kind": "left", "metric": "left"} | dict.fromkeys([*terms, "95 % interval"], "right")
    print_table(f"do single layers add up? {title}", columns, rows, keys=2)
    note("An interaction below 0 means that layers bring the same gain or that the metric saturates. An interaction "
         "above 0 means that layers need each other.")  # fmt: skip

"""`lensrl deltas`: show how training changed the weights."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import lensrl
from lensrl.errors import LensrlError
from lensrl.show.words import Look
from lensrl_cli.deltas_overlap import show_overlap
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
    chosen_rows,
    note,
    number,
    print_json,
    print_table,
    write_csv,
)
from lensrl_cli.progress import progress_bars


class By(StrEnum):
    layer = "layer"
    component = "component"
    parameter = "parameter"
    matrix = "matrix"
    head = "head"


class Control(StrEnum):
    random = "random"


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

BESIDE_ROUNDING = {"rounding": ("rounding alone", 4), "changed_share": ("moved", 3)}  # shown where weights were rounded
RESTS_ON_ROUNDING = (
    " Rounding alone: the norm of the errors of rounding to the stored types, over ‖W‖. Moved: the share of entries "
    "that changed."
)


def deltas(
    study: StudyOrBase,
    trained: Trained = None,
    by: Annotated[
        By, typer.Option("--by", metavar="UNIT", help="One row for each layer, component, parameter, matrix or head.")
    ] = By.layer,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="The trained run; by default full-rl.")
    ] = None,
    seed: Seed = None,
    *,
    layer: ChosenLayers = None,
    sort: Sort = None,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Whether seeds, the layer alone and the next layer move the same entries.")
    ] = False,
    control: Annotated[
        Control | None,
        typer.Option("--control", metavar="KIND", help="random: the same measures of random deltas, below."),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            "--draws", metavar="N", min=1, help="Random deltas of the same norms, for --control; by default 3."
        ),
    ] = None,
    measure: Annotated[
        str, typer.Option("--measure", metavar="COLUMN", help="Of the figure: a column of --csv.")
    ] = "relative",
    device: OnDevice = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
) -> None:
    """Show how training changed the weights: size, rank, spectrum, angles and support of the weight deltas.

    Example: lensrl deltas runs/tiny --run full-rl

    For two models without a study: lensrl deltas BASE TRAINED
    """
    look = look_of(figure, width, font_size, title=title)
    if run == "base":
        raise LensrlError("the base is not trained: it has no deltas; --run names a trained run, such as full-rl")
    if draws is not None and control is None:
        raise typer.BadParameter("--draws is for --control random: add it")
    if overlap:
        if by != By.layer or any(given is not None for given in (trained, figure, control, layer, sort, device)):
            raise typer.BadParameter("--overlap is a table of a study, with --run, --seed, --csv and --json alone")
        show_overlap(study, run or "full-rl", seed, json=json, csv=csv)
        return
    if by == By.head:
        if control is not None:
            raise typer.BadParameter("--control is for rows of layers, components, parameters and matrices")
        if trained is not None:
            raise typer.BadParameter("--by head is for the runs of a study: give a study alone")
        if device is not None:
            raise typer.BadParameter("--device is for spectra, and the change of a head has none: leave it out")
        _heads(study, run or "full-rl", layer or "all", seed, json=json, csv=csv, figure=figure, look=look, sort=sort)
        return
    drawn_deltas = 0 if control is None else draws or 3
    unit = "parameter" if by == By.matrix else by.value
    on = None if device is None else device.value
    if trained is None:
        from lensrl.store.origin import checkpoint_note

        name = run or "full-rl"
        with lensrl.open_study(study) as opened:
            with progress_bars("weights,", quiet=json) as on_progress:
                table = lensrl.compare_weights(
                    opened,
                    name,
                    by=unit,
                    seed=seed,
                    draws=drawn_deltas,
                    device=on,
                    on_progress=on_progress,
                )
            compared = f"{name} equals the base"
            rounded = checkpoint_note([opened.runs.find_scored(name, seed)])
            heading, drawn = f"Weight deltas of {name}, {opened.name}", f"{opened.name}: weight deltas of {name}"
    else:
        if run is not None or seed is not None:
            option = "--seed" if run is None else "--run"
            raise typer.BadParameter(f"two models have no runs: leave out {option}, or give a study alone")
        with progress_bars("weights,", quiet=json) as on_progress:
            table = lensrl.compare_models(
                study, trained, by=unit, draws=drawn_deltas, device=on, on_progress=on_progress
            )
        compared, rounded = f"{trained} equals {study}", _precision(table.attrs)
        heading = drawn = f"Weight deltas from {study} to {trained}"
    by_svd = table.attrs["by_svd"]
    same = f"{compared} in every tensor." if table.empty else ""
    if by == By.matrix:
        table = table[table["spectral"].notna()]
    table = chosen_rows(table, layer, sort)
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    if json:
        print_json(records)
    else:
        if by == By.matrix:  # q, k, v, o, gate, up, down: whole names leave no room for numbers
            from lensrl.show.figures.layers import short_names

            records = [
                record | {"parameter": name}
                for record, name in zip(records, short_names(table["parameter"]), strict=True)
            ]
        _show(heading, records)
        if control is not None and records:
            _show_random(records, drawn_deltas)
        if by_svd:
            count, first = len(by_svd), by_svd[0]
            note(
                f"Without full rank, or nearly so: {count} {'matrix' if count == 1 else 'matrices'}, such as {first}. "
                f"A full SVD took the place of Gram matrices there.",
                style="dim",
            )
        for said in filter(None, (same, rounded)):
            note(said, style="yellow")
    if csv is not None:
        write_csv(table, csv)
    draw(figure, lambda: lensrl.plot.deltas(table, measure=measure, title=drawn, look=look))


def _heads(
    study: str, run: str, layers: str, seed: int | None, *, json: bool, csv: Path | None, figure: Path | None,
    look: Look, sort: str | None,
) -> None:  # fmt: skip
    """Show the change of each attention head: rows of q, k and v, columns of o."""
    with lensrl.open_study(study) as opened:
        table = lensrl.compare_heads(opened, layers, run, seed=seed)
        heading = f"Weight deltas of {run} by attention head, {opened.name}"
    shown = chosen_rows(table, None, sort)
    if json:
        print_json(shown.to_dict("records"))
    else:
        rows = [
            {"layer": str(row["layer"]), "matrix": row["matrix"], "head": str(row["head"]),
             "‖ΔW‖ / ‖W‖": number(4)(row["relative"]), "‖ΔW‖": number(4)(row["frobenius"])}
            for row in shown.to_dict("records")
        ]  # fmt: skip
        columns = {"layer": "right", "matrix": "left", "head": "right", "‖ΔW‖ / ‖W‖": "right", "‖ΔW‖": "right"}
        print_table(heading, columns, rows, keys=3)
    if csv is not None:
        write_csv(shown, csv)
    drawn = f"{heading}, layer {layers}"
    draw(figure, lambda: lensrl.plot.heads(table, title=drawn, look=look))


def _precision(whole: Mapping[Any, Any]) -> str:
    """Say what the comparison of two models rests on: rounding, a merged adapter, the rows of another vocabulary.

    `whole` is `table.attrs`. The result is empty for two whole models of one size in fp32.
    """
    said = []
    if whole["common_rows"] is not None:
        said.append(
            f"The base has {whole['base_rows']} rows of embeddings and the trained model {whole['trained_rows']}: the "
            f"first {whole['common_rows']} are compared, the others are left out."
        )
    if whole["merged"] is not None:
        scale = f"rank {whole['merged']['r']}, alpha {whole['merged']['lora_alpha']}"
        made_on = whole["merged"]["base_model_name_or_path"]
        named = f" Its configuration says that it was made on {made_on}." if made_on else ""
        said.append(f"A LoRA adapter ({scale}), merged into the base in fp32.{named}")
    if whole["left_out"]:
        said.append(f"{whole['left_out'][0]} of the trained model is left out: a value head is no part of the policy.")
    if whole["rounding_norm"]:
        said.append(_rounded(whole))
    return " ".join(said)


def _rounded(whole: Mapping[Any, Any]) -> str:
    return (
        f"Stored in {whole['base_dtype']} (base) and {whole['trained_dtype']} (trained): the weights are rounded. "
        f"{100 * whole['changed_share']:.3g} % of the entries moved. ‖ΔW‖ of the whole model is "
        f"{whole['frobenius']:.3g}, and the errors of rounding in the parameters that moved have a norm of up to "
        f"about {whole['rounding_norm']:.3g}. A ‖ΔW‖ near or below that may be mostly rounding."
    )


def _show_random(records: list[dict[Any, Any]], draws: int) -> None:
    """Show the same measures of random deltas: a row below the other for each row of the table."""
    rows = [
        _place_of(row) | {heading: number(digits)(row[f"{key}_random"]) for key, (heading, digits) in SHOWN.items()}
        for row in records
    ]
    title = f"The same of random deltas with the same norm in each parameter, mean of {draws}"
    _print(title, rows, [heading for heading, _ in SHOWN.values()])


def _show(title: str, records: list[dict[Any, Any]]) -> None:
    shown = dict(SHOWN)
    if any(row["rounding_norm"] for row in records):  # the null beside the size, and the share of entries that moved
        shown = {
            "relative": SHOWN["relative"],
            "rounding": ("rounding alone", 4),
            "changed_share": ("moved", 3),
        } | shown
    for row in records:
        row["rounding"] = row["rounding_norm"] and row["rounding_norm"] * row["relative"] / row["frobenius"]
    rows = [
        {
            **_place_of(row),
            **{heading: number(digits)(row[key]) for key, (heading, digits) in shown.items()},
        }
        for row in records
    ]
    _print(title, rows, [heading for heading, _ in shown.values()])
    if not rows:
        return
    note(
        "‖ΔW‖₂, the ranks, spectral shift and angle are medians over the matrices. Angle: the largest angle between "
        "the leading left singular spaces, in degrees. On largest: the share of the 10 % largest entries "
        "of ΔW that are also among the 10 % largest entries of W; 0.1 by chance."
        + (RESTS_ON_ROUNDING if "rounding" in shown else ""),
        style="dim",
    )


def _place_of(row: Mapping[Any, Any]) -> dict[str, str]:
    return {
        "layer": "–" if row["layer"] is None else str(row["layer"]),
        "part": row["parameter"] or row["component"],
    }


def _print(title: str, rows: list[dict[str, str]], measures: list[str]) -> None:
    columns = {"layer": "right", "part": "left"} | dict.fromkeys(measures, "right")
    if not any(row["part"] for row in rows):
        del columns["part"]
    print_table(title, columns, rows, keys=1 + ("part" in columns))

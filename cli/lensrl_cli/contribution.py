"""`lensrl contribution`: show the contribution of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lensrl
from lensrl.show.words import score_in_words
from lensrl_cli.figure import FigureFile, FontSize, Title, Width, draw, look_of
from lensrl_cli.output import (
    ChosenLayers,
    Contributions,
    Csv,
    Json,
    Sort,
    StudyOrTable,
    bar,
    chosen_rows,
    either,
    interval,
    note,
    number,
    print_json,
    print_table,
    write_csv,
)

if TYPE_CHECKING:
    import pandas as pd

BAR = "0      full RL"
EACH = "each"
FINISHED = ("mean", "finished", "right-given-finished")


def contribution(
    study: StudyOrTable = None,
    contributions: Contributions = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="One training seed; by default all seeds together.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", metavar="NAME", help="One benchmark, all, or each; by default the study's score."),
    ] = None,
    score: Annotated[
        str, typer.Option("--score", metavar="KIND", help="mean, pass@K, vote, finished or right-given-finished.")
    ] = "mean",
    *,
    layer: ChosenLayers = None,
    sort: Sort = None,
    json: Json = False,
    csv: Csv = None,
    figure: FigureFile = None,
    width: Width = None,
    title: Title = True,
    font_size: FontSize = None,
) -> None:
    """Show the layer contribution C_l = (S_l - S_base) / (S_full - S_base) with 95 % intervals.

    If the recipe has sets of layers or other learning rates, tables of these contributions follow.

    --benchmark NAME takes one benchmark in the place of the study's score; all takes every benchmark, those of further
    tasks included; each shows one after another.

    --score pass@4 is the chance that one of four samples is right, vote the most frequent answer. --score finished
    counts a sample only where it ended below the token limit, and shows C_l beside it.

    --csv and --figure hold the single layers only.

    Example: lensrl contribution runs/tiny --figure profile.png
    """
    from lensrl.judge.profiles import contribution_warnings

    # From a study: layers, sets, learning rates. From a file: layers alone.
    look = look_of(figure, width, font_size, title=title)
    given = either(study, contributions)
    sets = rates = finished = None
    left_out = False
    warnings: list[str] = []
    if contributions is None:
        with lensrl.open_study(given) as opened:
            if benchmark == EACH:
                _show_each(opened, seed, score, json=json, csv=csv, figure=figure)
                return
            own = benchmark is None and score == "mean"
            sets = opened.set_contributions(seed, benchmark=benchmark, score=score)
            rates = opened.rate_control(seed) if own else None
            left_out = rates is None and bool(opened.recipe.learning_rates)
            warnings = contribution_warnings(opened) if own and seed is None and opened.layers else []
            table = sets.iloc[:0]
            if opened.layers or not len(sets):
                table = opened.contributions(seed, benchmark=benchmark, score=score)
            scores = opened.scores(benchmark=benchmark, score=score)
            if seed is not None:
                scores = scores[(scores["seed"] == seed) | (scores["run"] == "base")]
            name = opened.name if own else f"{opened.name}, {score_in_words(benchmark, score)}"
            if score == "finished":
                finished = opened.contributions_by_score(seed, benchmark=benchmark, scores=FINISHED)
    else:
        if seed is not None:
            raise typer.BadParameter("--seed is for a STUDY: a table of contributions has no seeds")
        if benchmark is not None or score != "mean":
            raise typer.BadParameter("--benchmark and --score are for a STUDY: a table of contributions has no items")
        table, scores, name = lensrl.read_contributions(given), None, given.stem
    whole = table
    if layer is not None or sort is not None:
        if "layer" not in table:
            raise typer.BadParameter("--layer and --sort are for single layers: this study trains none")
        table = chosen_rows(table, layer, sort)
    # The tables that are there, one below the other; then the files that were asked for.
    if json:
        parts = {"layers": table, "sets": sets, "rates": rates}
        parts |= {"finished": finished} if finished is not None else {}
        print_json({part: [] if rows is None else rows.to_dict("records") for part, rows in parts.items()})
    elif scores is None:
        _show_table(name, table)
    else:
        if len(table):
            _show_study(name, table, scores)
            for text in warnings:
                note(text, style="yellow")
        if sets is not None and len(sets):
            note("")
            _show_sets(name, sets)
        if rates is not None and len(rates):
            note("")
            _show_rates(name, rates)
        if left_out:
            note("rates are chosen by the study's own score: see lensrl contribution without --benchmark and --score")
        if finished is not None:
            note("")
            _show_finished(name, finished, scores)
    if csv is not None:
        write_csv(table, csv)
    if contributions is None:
        with lensrl.open_study(given) as opened:
            draw(figure, lambda: lensrl.plot.contributions(opened, seed=seed, look=look))
    else:
        drawn = f"{name}: layer contribution, 95 % intervals"
        draw(figure, lambda: lensrl.plot.contributions(whole, title=drawn, look=look))


def _show_study(name: str, table: pd.DataFrame, scores: pd.DataFrame) -> None:
    rows = [
        _row(row)
        | {
            "S_l - S_base": number()(row["numerator"]),
            "status": row["status"] if row["status"] != "defined" else "",
        }
        for row in table.to_dict("records")
    ]
    columns = {"layer": "right", "C_l": "right", "95 % interval": "right", "S_l - S_base": "right",
               BAR: "left", "status": "left"}  # fmt: skip
    print_table(f"Layer contribution, {name}", columns, rows)
    # Below the table: the reasons of undefined layers, remarks, and the gain of full RL.
    for (status, reason), part in table[table["status"] != "defined"].groupby(["status", "reason"], sort=False):
        which = "all layers" if len(part) == len(table) else f"layer {', '.join(map(str, part['layer']))}"
        note(f"{which} {status}: {reason}", style="red")
    for row in table[(table["status"] == "defined") & (table["reason"] != "")].to_dict("records"):
        note(f"layer {row['layer']}: {row['reason']}", style="yellow")
    base, full = (scores.loc[scores["run"] == run, "score"].mean() for run in ("base", "full-rl"))
    first = table.sort_values("seeds", ascending=False).iloc[0]
    gain = f"{number()(first['denominator'])} ({interval(first['denominator_low'], first['denominator_high'], 3)})"
    note(f"base {number()(base)}, full RL {number()(full)}, gain {gain}; seeds {table['seeds'].max()}")


def _show_each(
    opened: lensrl.Study, seed: int | None, score: str, *, json: bool, csv: Path | None, figure: Path | None
) -> None:
    """Show the study's score, each benchmark, and all of them: a column for each, a row for each layer."""
    if figure is not None:
        raise typer.BadParameter("--figure draws one profile: give --benchmark NAME, or all")
    table = opened.contributions_by_benchmark(seed, score=score)
    if json:
        print_json({"layers": table.to_dict("records")})
    else:
        benchmarks = dict.fromkeys(table["benchmark"])
        heading = {name: f"{name}\nC_l" for name in benchmarks}
        rows = []
        for layer, part in table.groupby("layer"):
            row = {"layer": str(layer)}
            for found in part.to_dict("records"):
                row[heading[found["benchmark"]]] = number(2)(found["contribution"])
                row[f"{found['benchmark']}\n95 % interval"] = interval(found["low"], found["high"])
            rows.append(row)
        columns = {"layer": "right"} | dict.fromkeys([h for h in rows[0] if h != "layer"], "right")
        print_table(f"Layer contribution by benchmark, {opened.name}, {score_in_words(None, score)}", columns, rows)
        for (name, status, reason), part in table[table["status"] != "defined"].groupby(
            ["benchmark", "status", "reason"], sort=False
        ):
            note(f"{name}, layer {', '.join(map(str, part['layer']))} {status}: {reason}", style="red")
    if csv is not None:
        write_csv(table, csv)


def _show_finished(name: str, table: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Show C_l beside C_l of what ended, and the lengths of all runs."""
    kinds = {"mean": "C_l", "finished": "finished and right", "right-given-finished": "right given finished"}
    rows = []
    for layer, part in table.groupby("layer"):
        row = {"layer": str(layer)}
        for found in part.to_dict("records"):
            row[f"{kinds[found['score']]}\nC"] = number(2)(found["contribution"])
            row[f"{kinds[found['score']]}\n95 % interval"] = interval(found["low"], found["high"])
        rows.append(row)
    columns = {"layer": "right"} | dict.fromkeys([h for h in rows[0] if h != "layer"], "right")
    print_table("Is it length? C_l of completions that ended below the token limit", columns, rows)
    note("")
    lengths = [
        {"run": row["run"], "seed": str(row["seed"]), "tokens": number(1)(row["length"]),
         "truncated": number()(row["truncated"])}
        for row in scores.to_dict("records")
    ]  # fmt: skip
    print_table("Length by run", {"run": "left", "seed": "right", "tokens": "right", "truncated": "right"}, lengths)
    if not (scores["truncated"].fillna(0) > 0).any():
        note("no completion was truncated: the three are the same by construction", style="dim")


def _show_sets(name: str, table: pd.DataFrame) -> None:
    rows = [
        {
            "set": row["set"],
            "C": number(2)(row["contribution"]),
            "95 % interval": interval(row["low"], row["high"]),
            "S - S_base": number()(row["numerator"]),
            "trained": row["trained"],
            "status": row["status"] if row["status"] != "defined" else "",
        }
        for row in table.to_dict("records")
    ]
    columns = {"set": "left", "C": "right", "95 % interval": "right", "S - S_base": "right", "trained": "left",
               "status": "left"}  # fmt: skip
    print_table(f"Layer sets, {name}", columns, rows)
    for row in table[table["status"] != "defined"].to_dict("records"):
        note(f"{row['set']} {row['status']}: {row['reason']}", style="red")
    chosen = table.loc[table["items"] == "other half", "set"]
    if len(chosen):
        note(f"{', '.join(chosen)}: chosen on one half of the items, scored on the other half", style="dim")


def _show_rates(name: str, table: pd.DataFrame) -> None:
    own = f"C at {table['recipe_rate'].iloc[0]:g}"
    rows = [
        {
            "layer": _unit(row),
            "best rate": "–" if isnan(row["rate"]) else f"{row['rate']:g}",
            "C": number(2)(row["contribution"]),
            "95 % interval": interval(row["low"], row["high"]),
            own: number(2)(row["recipe_contribution"]),
            "95 % interval ": interval(row["recipe_low"], row["recipe_high"]),
            "status": row["status"] if row["status"] != "defined" else "",
        }
        for row in table.to_dict("records")
    ]
    columns = dict.fromkeys(("layer", "best rate", "C", "95 % interval", own, "95 % interval "), "right")
    print_table(f"Every layer at its best learning rate, {name}", columns | {"status": "left"}, rows)
    for (status, reason), part in table[table["status"] != "defined"].groupby(["status", "reason"], sort=False):
        note(f"{_which(part)} {status}: {reason}", style="red")
    full = table.iloc[0]
    gains = f"{number()(full['numerator'])}, {number()(full['recipe_numerator'])} at the recipe's rate"
    note(f"full RL gains {gains}; rates are chosen on one half of the items, and C is measured on the other half")
    for (end, rate), part in table[table["at_end"] != ""].groupby(["at_end", "rate"], sort=False):
        note(f"{_which(part)}: best at the {end} rate, {rate:g}; a rate beyond it may be better", style="dim")
    for left_out, part in table[table["left_out"] != ""].groupby("left_out", sort=False):
        note(f"{_which(part)}: not every seed has a score at {left_out}", style="dim")


def _unit(row: Mapping[Any, Any]) -> str:
    return "full RL" if row["run"] == "full-rl" else f"{row['layer']:.0f}"


def _which(table: pd.DataFrame) -> str:
    """Name the rows of a table of rates: `full RL, layers 1, 3`."""
    units = [_unit(row) for row in table.to_dict("records")]
    layers = [unit for unit in units if unit != "full RL"]
    named = [f"layer{'s' * (len(layers) > 1)} {', '.join(layers)}"] if layers else []
    return ", ".join([*(["full RL"] if "full RL" in units else []), *named])


def _show_table(name: str, table: pd.DataFrame) -> None:
    columns = {"layer": "right", "C_l": "right", "95 % interval": "right", BAR: "left"}
    print_table(f"Layer contribution, {name}", columns, [_row(row) for row in table.to_dict("records")])
    sources = {
        "file": "Intervals come from the file.",
        "roughness": "The file has no intervals. These intervals are estimated from the roughness of the profile over "
        "depth; a cliff in the profile makes them too wide.",
    }
    for source in sources.keys() & {*table["interval_from"]}:
        note(sources[source], style="dim")
    for text in table.attrs["notes"]:
        note(text, style="yellow")


def _row(row: Mapping[Any, Any]) -> dict[str, str]:
    return {
        "layer": str(row["layer"]),
        "C_l": number(2)(row["contribution"]),
        "95 % interval": interval(row["low"], row["high"]),
        BAR: bar(row["contribution"], width=14),
    }

"""`lensrl contribution`: show the contribution of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lensrl
from lensrl.show.words import score_in_words
from lensrl_cli.contribution_tables import show_interactions, show_kl, show_rates, show_sets
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
from lensrl_cli.progress import progress_bars

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
    kl: Annotated[bool, typer.Option("--kl", help="Also measure how far each run went from the base.")] = False,
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

    --kl samples a completion of each held-out item from each run, and compares the policies along it: KL(run || base).

    --csv and --figure hold the single layers only.

    Example: lensrl contribution runs/tiny --figure profile.png
    """
    from lensrl.judge.profiles import contribution_warnings
    from lensrl.judge.sharpening import sharpening

    # From a study: layers, sets, learning rates. From a file: layers alone.
    look = look_of(figure, width, font_size, title=title)
    given = either(study, contributions)
    sets = rates = finished = clipped = far = together = None
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
            together = opened.set_interactions(seed) if own else None
            left_out = rates is None and bool(opened.recipe.learning_rates)
            if own and seed is None and opened.layers:
                warnings = contribution_warnings(opened)
                warnings += [said] if (said := sharpening(opened)) else []
            table = sets.iloc[:0]
            if opened.layers or not len(sets):
                table = opened.contributions(seed, benchmark=benchmark, score=score)
            scores = opened.scores(benchmark=benchmark, score=score)
            clipped = opened.clipped_steps(seed)
            if seed is not None:
                scores = scores[(scores["seed"] == seed) | (scores["run"] == "base")]
            name = opened.name if own else f"{opened.name}, {score_in_words(benchmark, score)}"
            if kl:
                with progress_bars("KL,", quiet=json) as on_progress:
                    far = lensrl.kl_to_base(opened, seed=seed, on_progress=on_progress)
            if score == "finished":
                finished = opened.contributions_by_score(seed, benchmark=benchmark, scores=FINISHED)
    else:
        if seed is not None:
            raise typer.BadParameter("--seed is for a STUDY: a table of contributions has no seeds")
        if kl:
            raise typer.BadParameter("--kl is for a STUDY: a table of contributions has no models")
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
        parts |= {"kl": far} if far is not None else {}
        parts |= {"interactions": together} if together is not None else {}
        print_json({part: [] if rows is None else rows.to_dict("records") for part, rows in parts.items()})
    elif scores is None:
        _show_table(name, table)
    else:
        if len(table):
            _show_study(name, table, scores, clipped)
            for text in warnings:
                note(text, style="yellow")
        if sets is not None and len(sets):
            note("")
            show_sets(name, sets)
            if together is not None and len(together):
                note("")
                show_interactions(name, together)
        if rates is not None and len(rates):
            note("")
            show_rates(name, rates)
        if left_out:
            note("rates are chosen by the study's own score: see lensrl contribution without --benchmark and --score")
        if far is not None:
            note("")
            show_kl(name, far)
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


def _show_study(name: str, table: pd.DataFrame, scores: pd.DataFrame, clipped: pd.DataFrame | None) -> None:
    share = {} if clipped is None else clipped.groupby("run")["clipped_share"].mean().to_dict()
    was_clipped = any(value > 0 for value in share.values())
    rows = [
        _row(row)
        | {
            "S_l - S_base": number()(row["numerator"]),
            "clipped": number(2)(share.get(f"layer-{row['layer']}", nan)),
            "status": row["status"] if row["status"] != "defined" else "",
        }
        for row in table.to_dict("records")
    ]
    columns = {"layer": "right", "C_l": "right", "95 % interval": "right", "S_l - S_base": "right"}
    columns |= {"clipped": "right"} if was_clipped else {}
    columns |= {BAR: "left", "status": "left"}
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
    if clipped is not None and was_clipped:
        whole = clipped[clipped["run"] == "full-rl"].mean(numeric_only=True).map(number(2))
        note(
            f"clipped: the share of steps whose gradient was above rl.max_grad_norm; full RL {whole['clipped_share']}, "
            f"its gradients scaled by {whole['mean_factor']} on average",
            style="dim",
        )


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

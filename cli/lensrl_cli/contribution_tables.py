"""The tables of `lensrl contribution`: layers, benchmarks, what ended, sets, learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from lensrl.show.words import score_in_words
from lensrl_cli.contribution_controls import note_clipped
from lensrl_cli.output import bar, interval, note, number, print_table

if TYPE_CHECKING:
    import pandas as pd

BAR = "0      full RL"


def show_study(name: str, table: pd.DataFrame, scores: pd.DataFrame, clipped: pd.DataFrame) -> None:
    """Show C_l of every layer, then why some are undefined, and the gain of full RL."""
    share = clipped.groupby("run")["clipped_share"].mean().to_dict()
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
        which = "all layers" if len(part) == len(table) else _layers(part)
        note(f"{which} {status}: {reason}", style="red")
    for row in table[(table["status"] == "defined") & (table["reason"] != "")].to_dict("records"):
        note(f"layer {row['layer']}: {row['reason']}", style="yellow")
    base, full = (scores.loc[scores["run"] == run, "score"].mean() for run in ("base", "full-rl"))
    first = table.sort_values("seeds", ascending=False).iloc[0]
    gain = f"{number()(first['denominator'])} ({interval(first['denominator_low'], first['denominator_high'], 3)})"
    compared, trained = first["seeds"], scores.loc[scores["run"] == "full-rl", "score"].count()
    if 0 < compared < trained:  # the gain is that of the seeds that single layers have, too
        full = base + first["denominator"]
    seeds = f"{compared} of full RL's {trained}" if compared < trained else compared
    note(f"base {number()(base)}, full RL {number()(full)}, gain {gain}; seeds {seeds}")
    if was_clipped:
        note_clipped(clipped)


def show_each(name: str, table: pd.DataFrame, score: str) -> None:
    """Show the study's score, each benchmark, and all of them: a column for each, a row for each layer."""
    benchmarks = dict.fromkeys(table["benchmark"])
    heading = {benchmark: f"{benchmark}\nC_l" for benchmark in benchmarks}
    rows = []
    for layer, part in table.groupby("layer"):
        row = {"layer": str(layer)}
        for found in part.to_dict("records"):
            row[heading[found["benchmark"]]] = number(2)(found["contribution"])
            row[f"{found['benchmark']}\n95 % interval"] = interval(found["low"], found["high"])
        rows.append(row)
    columns = {"layer": "right"} | dict.fromkeys([h for h in rows[0] if h != "layer"], "right")
    print_table(f"Layer contribution by benchmark, {name}, {score_in_words(None, score)}", columns, rows)
    for (benchmark, status, reason), part in table[table["status"] != "defined"].groupby(
        ["benchmark", "status", "reason"], sort=False
    ):
        note(f"{benchmark}, {_layers(part)} {status}: {reason}", style="red")


def show_finished(name: str, table: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Show C_l beside C_l of what ended, and the lengths of all runs."""
    # A score is named in two lines, the first above its C_l and the second above the interval.
    kinds = {
        "mean": ("all", ""),
        "finished": ("finished", "and right"),
        "right-given-finished": ("right", "given finished"),
    }
    rows = []
    for layer, part in table.groupby("layer"):
        row = {"layer": str(layer)}
        for found in part.to_dict("records"):
            above, beside = kinds[found["score"]]
            row[f"{above}\nC_l"] = number(2)(found["contribution"])
            row[f"{beside}\n95 % interval"] = interval(found["low"], found["high"])
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


def show_sets(name: str, table: pd.DataFrame) -> None:
    """Show C of every set of layers."""
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


def show_rates(name: str, table: pd.DataFrame) -> None:
    """Show C_l of every layer at its best learning rate, beside C_l at the recipe's."""
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


def _layers(table: pd.DataFrame) -> str:
    return f"layer{'s' * (len(table) > 1)} {', '.join(map(str, table['layer']))}"


def show_table(name: str, table: pd.DataFrame) -> None:
    """Show the contributions of a published table."""
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

"""The tables below the layers in `lensrl contribution`: sets of layers, learning rates, and KL to the base."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from lensrl_cli.output import interval, note, number, print_table

if TYPE_CHECKING:
    import pandas as pd


def show_sets(name: str, table: pd.DataFrame) -> None:
    """Show the contribution of every set of layers."""
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


def show_interactions(name: str, table: pd.DataFrame) -> None:
    """Show what sets of layers do together, beside the sum of their layers alone."""
    rows = [
        {
            "set": row["set"],
            "layers": row["layers"],
            "together": number(2)(row["together"]),
            "sum of single": number(2)(row["alone"]),
            "difference": number(2)(row["interaction"]),
            "95 % interval": interval(row["low"], row["high"]),
        }
        for row in table.to_dict("records")
    ]
    columns = {"set": "left", "layers": "left"}
    columns |= dict.fromkeys(("together", "sum of single", "difference", "95 % interval"), "right")
    print_table(f"Layers together and alone, {name}", columns, rows, keys=2)


def show_rates(name: str, table: pd.DataFrame) -> None:
    """Show C_l with each run at its best rate, beside C_l with all runs at the recipe's."""
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


def show_kl(name: str, table: pd.DataFrame) -> None:
    """Show how far each run went from the base, and its gain for each nat."""
    rows = [
        {
            "run": row["run"],
            "KL": number()(row["kl"]),
            "95 % interval": interval(row["low"], row["high"], 3),
            "gain": number()(row["gain"]),
            "gain / KL": number(2)(row["gain"] / row["kl"] if row["kl"] > 0 else nan),
            "entropy": number()(row["entropy"]),
        }
        for row in table.groupby("run", sort=False).mean(numeric_only=True).reset_index().to_dict("records")
    ]
    columns = {"run": "left"} | dict.fromkeys(("KL", "95 % interval", "gain", "gain / KL", "entropy"), "right")
    print_table(f"KL to the base on held-out completions, {name}", columns, rows)
    note("KL: nats a completion; entropy: nats a token; means over the seeds, intervals over items", style="dim")


def _unit(row: Mapping[Any, Any]) -> str:
    return "full RL" if row["run"] == "full-rl" else f"{row['layer']:.0f}"


def _which(table: pd.DataFrame) -> str:
    """Name the rows of a table of rates: `full RL, layers 1, 3`."""
    units = [_unit(row) for row in table.to_dict("records")]
    layers = [unit for unit in units if unit != "full RL"]
    named = [f"layer{'s' * (len(layers) > 1)} {', '.join(layers)}"] if layers else []
    return ", ".join([*(["full RL"] if "full RL" in units else []), *named])

"""The controls of `lensrl contribution`: clipped gradients, layers together, KL to the base, equal distances."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

from lensrl.show.words import small
from lensrl_cli.output import interval, note, number, print_table

if TYPE_CHECKING:
    import pandas as pd


def note_clipped(clipped: pd.DataFrame) -> None:
    """Say what the column of clipped steps means, and how much the gradients of full RL were scaled."""
    whole = clipped[clipped["run"] == "full-rl"].mean(numeric_only=True).map(number(2))
    note(
        f"clipped: the share of steps whose gradient was above rl.max_grad_norm; full RL {whole['clipped_share']}, "
        f"its gradients scaled by {whole['mean_factor']} on average",
        style="dim",
    )


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


def show_kl(name: str, table: pd.DataFrame) -> None:
    """Show how far each run went from the base, and its gain for each nat."""
    rows = [
        {
            "run": row["run"],
            "KL": small(row["kl"]),
            "95 % interval": f"{small(row['low'])} … {small(row['high'])}",
            "random": small(row["random"]),
            "gain": number()(row["gain"]),
            "gain / KL": number(2)(row["gain"] / row["kl"] if row["kl"] > 0 else nan),
            "entropy": number()(row["entropy"]),
        }
        for row in table.groupby("run", sort=False).mean(numeric_only=True).reset_index().to_dict("records")
    ]
    measured = ("KL", "95 % interval", "random", "gain", "gain / KL", "entropy")
    columns = {"run": "left"} | dict.fromkeys(measured, "right")
    print_table(f"KL to the base on held-out completions, {name}", columns, rows)
    note("KL: nats a completion; entropy: nats a token; means over the seeds, intervals over items. random: KL of a "
         "random direction with the norm of each parameter's change", style="dim")  # fmt: skip


def show_equal(name: str, table: pd.DataFrame, by: str) -> None:
    """Show C_l where full RL had come as far from the base as the layer, beside the ordinary C_l."""
    unit = "KL" if by == "kl" else "norm"
    rows = [
        {
            "layer": str(row["layer"]),
            unit: number()(row["distance"]),
            "gain": number()(row["gain"]),
            "full RL's": number()(row["full_gain"]),
            "C_l there": number(2)(row["contribution"]),
            "95 % interval": interval(row["low"], row["high"]),
            "C_l": number(2)(row["at_end"]),
        }
        for row in table.to_dict("records")
    ]
    columns: dict[str, str] = dict.fromkeys(rows[0] if rows else (), "right")
    print_table(f"Layers at equal {'KL to the base' if by == 'kl' else 'norm of the deltas'}, {name}", columns, rows)
    meaning = "KL: nats a completion" if by == "kl" else "norm: of all deltas together"
    note(
        f"{meaning}; full RL comes to {number()(table['full_distance'].max())}. Gains where each run first comes this "
        f"far, linear between snapshots; intervals over items, without the error of the distance",
        style="dim",
    )
    for reason in dict.fromkeys(table.loc[table["status"] != "defined", "reason"]):
        note(reason, style="yellow")

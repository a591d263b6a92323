"""The controls of `lensrl contribution`: clipped gradients, layers together and alone, and KL to the base."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

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

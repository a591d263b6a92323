"""The tables of the controls of `lensrl patch`: random directions, and wrong items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lensrl.show.words import METRIC_LABELS, exact
from lensrl_cli.output import interval, note, number, print_table

if TYPE_CHECKING:
    import pandas as pd


def show_random(table: pd.DataFrame, randoms: pd.DataFrame) -> None:
    """Print the trained layer beside random directions of its norm."""
    trained = table[
        (table["what"] == "weights") & (table["metric"] == "reference_logprob") & (table["sets"] == "single")
        & (table["component"] == "block")
    ].set_index("layer")["recovery"]  # fmt: skip
    rows = [
        {
            "layer": str(layer),
            "trained": number(2)(trained.get(layer, float("nan"))),
            "random, mean": number(2)(part["recovery"].mean()),
            "least": number(2)(part["recovery"].min()),
            "most": number(2)(part["recovery"].max()),
        }
        for layer, part in randoms.groupby("layer")
    ]
    if not rows:
        note("no random directions: the two runs have these layers in common", style="yellow")
        return
    columns: dict[str, str] = dict.fromkeys(rows[0], "right")
    print_table("Recovery of log p(reference) by random directions of the layer's norm", columns, rows)
    note(f"{randoms['draw'].nunique()} draws of each layer, with the norm of each parameter's delta; seeded, and not "
         "stored", style="dim")  # fmt: skip


def beside_patches(table: pd.DataFrame, wrong: pd.DataFrame) -> pd.DataFrame:
    """Return the table of patches with the recoveries of `wrong_item_patches` at the end of each row, for --csv."""
    keys = ["layer", "component", "from", "into", "seed", "metric"]
    found = [name for name in map(str, wrong) if name.startswith(("right", "wrong", "own"))]
    beside = wrong[[*keys, *found]].assign(what="activations")
    return table.merge(beside, on=["what", *keys], how="left")


def show_wrong_items(table: pd.DataFrame) -> None:
    """Print the recovery by the donor's activations of the right item, of a wrong one, and by the receiver's own."""
    rows = [
        {
            "layer": str(row["layer"]),
            "metric": METRIC_LABELS[row["metric"]],
            "right item": number(2)(row["right"]),
            "95 % interval": interval(row["right_low"], row["right_high"]),
            "wrong item": number(2)(row["wrong"]),
            "95 % interval ": interval(row["wrong_low"], row["wrong_high"]),
            "own": exact(row["own"]),
        }
        for row in table.to_dict("records")
    ]
    columns: dict[str, str] = {name: "left" if name == "metric" else "right" for name in rows[0]}
    print_table("Recovery by the donor's activations of the right item, and of another one", columns, rows, keys=2)
    for reason in table.loc[table["reason"] != "", "reason"].unique():
        note(f"undefined: {reason}", style="red")
    first = table.iloc[0]
    alone = f"; {first['left_out']} that share theirs with no other are left out" if first["left_out"] else ""
    note(f"{first['items']} items, each with another that has as many tokens in prompt and reference{alone}; seeded, "
         "and not stored. Own: by the receiver's own activations of the item", style="dim")  # fmt: skip

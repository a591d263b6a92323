"""What `lensrl patch` says beside its tables: how to read them, and how long sampling takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from lensrl.show.words import METRIC_LABELS
from lensrl_cli.output import note

if TYPE_CHECKING:
    import pandas as pd

LONG = 120  # seconds of sampling that are announced

# Of activations: a component, alone or with a kind of set -> sentences below the table that tell how to read it.
NOTES = {
    "stream": "The stream after layer l holds everything that the donor computed up to l, with its embedding. Recovery "
    "therefore grows with depth by construction. After the last layer, its distance from 1 is due to the changes of "
    "final_norm and lm_head.",
    "block bottom": "activations: all blocks up to l are replaced, so the stream after l is the donor's stream except "
    "for the embedding. Recovery therefore grows with depth by construction.",
    "direct": "Later layers add what they add without the patch, so this is the part of the effect that reaches the "
    "final norm without them. The rest of a block's recovery passes through later layers.",
    "direct sets": "Above the lowest layer of a set, the layers that are not in it add what they add without the "
    "patch, so this is the part of the effect that reaches the final norm without them. A set that holds every layer "
    "from its lowest on leaves none of them: its recovery is that of --component block.",
    "head": "A head is patched before the output projection, and the receiver's own projection carries it to the "
    "stream.",
}


def how_to_read(component: str, sets: str) -> str:
    """Return the sentences on this kind of activation patch; empty where there is nothing to say."""
    if component == "direct" and sets != "single":
        return NOTES["direct sets"]
    return NOTES.get(f"{component} {sets}", NOTES.get(component, ""))


def note_time(seconds: float) -> None:
    """Say on stderr how long the sampled scores take, where it is long, and that there is no estimate for NaN."""
    if math.isnan(seconds):
        typer.echo("sampled scores of the grafts: no estimate on Ray; --metric logprob leaves them out", err=True)
    elif seconds > LONG:
        time = f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"
        typer.echo(f"sampled scores of the grafts: up to about {time}; --metric logprob leaves them out", err=True)


def note_losses(table: pd.DataFrame) -> None:
    """Say for which metrics RL lowered the value, so that recovery is the share of a loss."""
    lost = table.loc[table["share_of"] == "loss", "metric"].unique()
    if len(lost):
        metrics = " and ".join(METRIC_LABELS[metric] for metric in lost)
        note(f"RL lowered {metrics}: there, recovery is the share of a loss")


def note_untrained(table: pd.DataFrame, component: str) -> None:
    """Say which grafted layers no run trained: a graft changes nothing there."""
    donor, into = table.iloc[0][["from", "into"]]
    idle = table.loc[(table["what"] == "weights") & ~table["trained"], "layers"].unique()
    if len(idle):
        trained = " and ".join(run for run in (donor, into) if run != "base")
        part = "" if component == "block" else f"{component} of "
        note(f"{trained} did not train {part}layer {', '.join(idle)}: its weights there are the base's, and a graft of "
             f"them says nothing")  # fmt: skip

"""The controls of a study that take models or deltas, and minutes: measured for its page where they are asked for.

Each control is a table beside its null. A study on which a control has no meaning has the reason in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lensrl.compare.changed_overlap import by_layer, changed_overlap
from lensrl.compare.equal_distance import Distance, contributions_at_equal
from lensrl.compare.kl import kl_to_base
from lensrl.compare.patching import OnProgress
from lensrl.compare.patching.control import random_grafts
from lensrl.compare.patching.patch import patch
from lensrl.compare.patching.wrong_items import wrong_item_patches
from lensrl.compare.weights import compare_weights
from lensrl.errors import LensrlError
from lensrl.recipe.runs import FULL
from lensrl.show.words import exact, number, small
from lensrl.store.study import Study

DRAWS = 3  # of random deltas
LOGPROB = "reference_logprob"
OF_DELTAS = {  # heading, digits
    "stable_rank": ("stable rank", 2),
    "spectral_shift": ("spectral shift", 5),
    "left_angle": ("left angle", 2),
    "overlap_largest": ("on largest", 2),
}
OTHERS = {"seeds": "another seed", "alone": "layer alone", "layers": "next layer"}


class MeasuredControl(NamedTuple):
    """A table for the page: `rows` are records of text, `note` explains them. Without rows, `note` says why."""

    title: str
    command: str
    rows: list[dict[str, str]]
    note: str


def measured_controls(study: Study, on_progress: OnProgress | None = None) -> list[MeasuredControl]:
    """Measure every control, one after the other. `on_progress` is called by each of them."""
    found = []
    for title, (command, control) in CONTROLS.items():
        try:
            found.append(MeasuredControl(title, command, *control(study, on_progress)))
        except LensrlError as error:
            found.append(MeasuredControl(title, command, [], f"{str(error).rstrip('.')}."))
    return found


Rows = tuple[list[dict[str, str]], str]


def _kl(study: Study, on_progress: OnProgress | None) -> Rows:
    table = kl_to_base(study, on_progress=on_progress).groupby("run", sort=False).mean(numeric_only=True)
    rows = [
        {
            "run": str(run),
            "KL": f"{small(row['kl'])} [{small(row['low'])}, {small(row['high'])}]",
            "random": small(row["random"]),
            "gain": number(row["gain"]),
            "gain / KL": number(row["gain"] / row["kl"] if row["kl"] > 0 else None, 2),
            "entropy": number(row["entropy"]),
        }
        for run, row in table.iterrows()
    ]
    return (
        rows,
        "KL(run || base) on a completion of each held-out item, in nats; random: of a random direction with the norm "
        "of each parameter's change; entropy in nats a token; seeds' means.",
    )


def _at_equal(study: Study, on_progress: OnProgress | None, by: Distance) -> Rows:
    table = contributions_at_equal(study, by, on_progress=on_progress)
    rows = [
        {
            "layer": str(row["layer"]),
            "KL" if by == "kl" else "norm": number(row["distance"]),
            "gain": number(row["gain"]),
            "gain of full RL there": number(row["full_gain"]),
            "C there": _with_interval(row["contribution"], row["low"], row["high"]),
        }
        for row in table.to_dict("records")
    ]
    return rows, "Full RL where it had come as far from the base as the layer, between snapshots; lowest seed."


def _random_grafts(study: Study, on_progress: OnProgress | None) -> Rows:
    table = random_grafts(study, draws=DRAWS, on_progress=on_progress)
    rows = [
        {"layer": str(layer), "lowest": number(part["recovery"].min(), 2), "highest": number(part["recovery"].max(), 2)}
        for layer, part in table.groupby("layer")
    ]
    return rows, f"Recovery of log p by {DRAWS} random deltas of each layer's norm: the null of grafts."


def _random_deltas(study: Study, on_progress: OnProgress | None) -> Rows:
    table = compare_weights(study, FULL, by="layer", draws=DRAWS, on_progress=on_progress)
    table = table[table["layer"].notna()]
    rows = [
        {"layer": str(row["layer"])}
        | {
            heading: f"{number(row[measure], digits)} / {number(row[f'{measure}_random'], digits)}"
            for measure, (heading, digits) in OF_DELTAS.items()
        }
        for row in table.to_dict("records")
    ]
    return (
        rows,
        "Full RL / random deltas of the same norm in each matrix. Spectral shift: the "
        "relative change of the singular values. Angle in degrees. On largest: 0.1 by chance.",
    )


def _overlap(study: Study, on_progress: OnProgress | None) -> Rows:
    table = by_layer(changed_overlap(study, on_progress=on_progress))
    table = table[table["share"] == table["share"].max()]
    kinds = [kind for kind in OTHERS if (table["kind"] == kind).any()]
    found = {(row["layer"], row["kind"]): row["overlap"] for row in table.to_dict("records")}
    rows = [
        {"layer": str(layer)} | {OTHERS[kind]: number(found.get((layer, kind))) for kind in kinds}
        for layer in sorted(table["layer"].unique())
    ]
    chance = number(table["chance"].mean(), 2)
    return rows, f"The share of full RL's 10 % most moved entries that the other moved most, too; {chance} by chance."


def _wrong_items(study: Study, on_progress: OnProgress | None) -> Rows:
    table = wrong_item_patches(study, on_progress=on_progress)
    table = table[table["metric"] == LOGPROB]
    rows = [
        {
            "layer": str(row["layer"]),
            "right item": _with_interval(row["right"], row["right_low"], row["right_high"]),
            "wrong item": _with_interval(row["wrong"], row["wrong_low"], row["wrong_high"]),
            "own": exact(row["own"]),
        }
        for row in table.to_dict("records")
    ]
    return (
        rows,
        "Recovery of log p by full RL's activations on the item, and on another one with as many tokens. Own: by the "
        "base's own activations on the item, 0 unless patching itself does something.",
    )


def _direct(study: Study, on_progress: OnProgress | None) -> Rows:
    tables = {
        "whole effect": patch(study, what="activations", on_progress=on_progress),
        "direct": patch(study, what="activations", component="direct", on_progress=on_progress),
    }
    found = {
        heading: {
            str(row["layer"]): _with_interval(row["recovery"], row["low"], row["high"])
            for row in table[table["metric"] == LOGPROB].to_dict("records")
        }
        for heading, table in tables.items()
    }
    rows = [{"layer": layer} | {heading: found[heading][layer] for heading in found} for layer in found["direct"]]
    return (
        rows,
        "Recovery of log p by full RL's activations; direct: no later layer passes the patch on. The whole effect of a "
        "late layer carries what earlier layers changed.",
    )


def _with_interval(value: float, low: float, high: float) -> str:
    return number(value, 2) + (f" [{number(low, 2)}, {number(high, 2)}]" if low == low else "")


CONTROLS: dict[str, tuple[str, Callable[[Study, OnProgress | None], Rows]]] = {
    "KL to the base": ("lensrl contribution --kl", _kl),
    "At an equal KL to the base": ("lensrl contribution --at-equal kl", partial(_at_equal, by="kl")),
    "At an equal norm of the deltas": ("lensrl contribution --at-equal norm", partial(_at_equal, by="norm")),
    "Grafts of random directions": ("lensrl patch --control random", _random_grafts),
    "Random deltas": ("lensrl deltas --control random", _random_deltas),
    "The entries that moved most": ("lensrl deltas --overlap", _overlap),
    "Activations of a wrong item": ("lensrl patch --control items", _wrong_items),
    "Direct effects": ("lensrl patch --what activations --component direct", _direct),
}

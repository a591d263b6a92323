"""Sentences that say what a table of the page shows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lensrl.measures.profile import thirds
from lensrl.show.words import number


def reading(contributions: pd.DataFrame, n_layers: int) -> str:
    """Describe the profile in a few sentences: range, thirds of depth, layers left out, seeds."""
    shown = contributions[contributions["status"] == "defined"]
    if shown.empty:
        first = contributions.iloc[0]
        return f"No layer has a contribution. {first['status'].capitalize()}: {first['reason']}."
    best, least = (shown.loc[shown["contribution"].agg(f)] for f in ("idxmax", "idxmin"))
    text = f"The contribution runs from {_at(least)} to {_at(best)}."
    if len(shown) >= 6:
        parts = zip(("first", "middle", "last"), thirds(shown["layer"].to_numpy(), n_layers), strict=True)
        means = [f"{name} {number(shown.loc[part, 'contribution'].mean(), 2)}" for name, part in parts if part.any()]
        text += f" Mean over the thirds of depth: {', '.join(means)}."
    others = contributions[contributions["status"] != "defined"]
    for status, part in others.groupby("status"):
        layers = ", ".join(map(str, part["layer"]))
        text += f" Left out as {status}: {'layer' if len(part) == 1 else 'layers'} {layers}."
    if contributions["seeds"].max() == 1:
        text += " One seed: the intervals cover the items, not how much training differs between seeds."
    return text


def _at(row: Any) -> str:
    value, low, high = (number(row[name], 2) for name in ("contribution", "low", "high"))
    return f"{value} [{low}, {high}] at layer {row['layer']}"

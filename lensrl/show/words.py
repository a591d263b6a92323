"""Labels and file formats that the figures, the report and the terminal share. Imports no heavy library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lensrl.errors import LensrlError

METRIC_LABELS = {
    "score": "score",
    "reference_logprob": "log p(reference)",
    "logit_difference": "logit difference",
}  # metric of a patch -> its label in figures, report and terminal
SET_LABELS = {
    "bottom": "cumulative from the bottom",
    "top": "cumulative from the top",
    "pairs": "pairs",
    "together": "together",
}  # layers patched at once -> label in the titles of tables and figures
ROUNDING = {"bfloat16": 0.4, "float16": 0.05}  # stored type -> the most that rounding moves a weight, in percent
FIGURE_FORMATS = ("png", "svg", "pdf")


def rounding_note(stored: Iterable[str]) -> str:
    """Say how far rounding moves the weights of checkpoints with these stored types; empty for float32.

    A stored type is the `dtype` of `Run.checkpoint`: `bfloat16`, or `bfloat16 and float32`.
    """
    kinds = {kind for types in stored for kind in types.split(" and ")}
    return " ".join(
        f"Checkpoints stored as {kind}: rounding alone moves a weight by up to {percent:g} % of its value. Smaller "
        f"changes are lost in the deltas, and what the deltas show of them is mostly rounding."
        for kind, percent in ROUNDING.items()
        if kind in kinds
    )


def figure_format(path: Path) -> str:
    """Return the format that the suffix of a figure's file name asks for.

    Raises LensrlError when the format is not in `FIGURE_FORMATS`.
    """
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FIGURE_FORMATS:
        raise LensrlError(f"cannot save a figure as {path.name!r}: end the name in .{', .'.join(FIGURE_FORMATS)}")
    return suffix

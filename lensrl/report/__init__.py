"""Figures and the self-contained HTML report."""

from __future__ import annotations

from pathlib import Path

from lensrl.errors import LensrlError

METRICS = {
    "score": "score",
    "reference_logprob": "log p(reference)",
    "logit_difference": "logit difference",
}  # metric of a patch -> how figures, page and terminal call it
SETS = {
    "bottom": "cumulative from the bottom",
    "top": "cumulative from the top",
    "pairs": "pairs",
    "together": "together",
}  # layers patched at once, in the titles of tables and figures
FIGURE_FORMATS = ("png", "svg", "pdf")


def figure_format(path: Path) -> str:
    """The format that a figure's file name asks for. Raises LensrlError when it is none of `FIGURE_FORMATS`."""
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FIGURE_FORMATS:
        raise LensrlError(f"cannot save a figure as {path.name!r}: end the name in .{', .'.join(FIGURE_FORMATS)}")
    return suffix

"""The words by which figures, the report and the terminal call things."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lensrl.errors import LensrlError

if TYPE_CHECKING:
    from lensrl.judge.claims import Claim

METRIC_LABELS = {
    "score": "score",
    "reference_logprob": "log p(reference)",
    "logit_difference": "logit difference",
}  # metric of a patch -> how figures, page and terminal call it
SET_LABELS = {
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


def evidence(claim: Claim) -> str:
    """What was measured for a claim, with value, interval and null; or why it was not tested. Follows the statement."""
    if claim.reason:
        return f"not tested: {claim.reason}"
    place = claim.name == "shape"  # its value is a place in depth, and what is there says the measure's last words
    digits = ".3g" if place else ".2f"
    value = "" if math.isnan(claim.value) else f"{'' if place else ':'} {claim.value:{digits}}"
    interval = "" if math.isnan(claim.low) else f" [{claim.low:{digits}}, {claim.high:{digits}}]"
    thirds = [f"{part} {claim.details[part]:.2f}" for part in ("first", "middle", "last") if part in claim.details]
    means = f"; the thirds: {', '.join(thirds)}" if thirds else ""
    return f"{claim.measure}{value}{interval}{means}; null: {claim.null}"

"""Labels and file formats that the figures, the report and the terminal share. Imports no heavy library."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
FIGURE_FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Look:
    """How a figure is made.

    width: in inches; by default as wide as its layers need. font_size: in points; by default by the width. title:
    whether the title is drawn. shown: whether pyplot knows the figure, so that a notebook draws it below its cell.
    """

    width: float | None = None
    font_size: float | None = None
    title: bool = True
    shown: bool = True

    @property
    def points(self) -> float:
        """The font size: 10 by default, 9 across the text of a paper, 8 in a column."""
        return self.font_size or (10 if self.width is None else 8 if self.width < 4.5 else 9)


def figure_format(path: Path) -> str:
    """Return the format that the suffix of a figure's file name asks for.

    Raises LensrlError when the format is not in `FIGURE_FORMATS`.
    """
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FIGURE_FORMATS:
        raise LensrlError(f"cannot save a figure as {path.name!r}: end the name in .{', .'.join(FIGURE_FORMATS)}")
    return suffix


SCORE_WORDS = {
    "mean": "mean score",
    "vote": "majority vote",
    "finished": "finished and right",
    "right-given-finished": "right given finished",
    "logprob": "log p of the reference",
}


def score_in_words(benchmark: str | None, score: str) -> str:
    """Name a score: `carry, pass@4`."""
    where = {None: "", "all": "all benchmarks, "}.get(benchmark, f"{benchmark}, ")
    return where + SCORE_WORDS.get(score, score)


MINUS = "−"


def number(value: Any, digits: int = 3) -> str:
    """Return a number with a true minus sign; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}".replace("-", MINUS)


def small(value: float) -> str:
    """Return a number with three decimals; with two digits where it is too small for them."""
    return f"{value:.2g}" if 0 < value < 0.001 else number(value)


def exact(value: float) -> str:
    """Return a number with two digits. Only what is exactly 0 reads `0`."""
    return "–" if value != value else f"{value + 0.0:.2g}"  # + 0.0: no sign before a zero


def p_value(value: float) -> str:
    """Return a p in words: `< 0.001`, or with three digits."""
    return "–" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"


def typeset(text: str) -> str:
    """Set true minus signs, and no-break spaces before and in intervals."""
    text = re.sub(r"(?<!\w)-(?=\d)", MINUS, text)
    return re.sub(r" \[[^]]*\]", lambda interval: interval[0].replace(" ", "\N{NO-BREAK SPACE}"), text)

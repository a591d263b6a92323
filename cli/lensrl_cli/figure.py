"""The options of every verb that draws, and the drawing: `--figure`, `--width`, `--title`, `--font-size`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import lensrl
from lensrl.show.words import Look, figure_format
from lensrl_cli.output import saved

WIDTHS = {"column": 3.25, "text": 6.75}  # inches: a column and the text of ICML's style file, near those of others
SMALLEST = 2.0  # inches; a narrower figure has no room for its numbers


def _drawable(path: Path | None) -> Path | None:
    """Refuse an unknown figure format before the work, which may take minutes."""
    if path is not None:
        figure_format(path)
    return path


def _inches(given: str) -> float:
    """Return a width in inches. Raises BadParameter for another word, and for a width in which nothing fits."""
    try:
        width = WIDTHS[given] if given in WIDTHS else float(given)
    except ValueError:
        raise typer.BadParameter(f"{given!r} is no width: give column, text, or inches such as 5.5") from None
    if not SMALLEST <= width <= 40:
        raise typer.BadParameter(f"a figure of {given} inches cannot be read: give {SMALLEST:g} to 40, column or text")
    return width


FigureFile = Annotated[
    Path | None,
    typer.Option(
        "--figure", metavar="FILE", callback=_drawable, help="Also draw the figure to FILE (png, svg or pdf)."
    ),
]
Width = Annotated[
    Any,
    typer.Option(
        "--width", metavar="WIDTH", parser=_inches, help="Of the figure: column (3.25 in), text (6.75 in), or inches."
    ),
]
Title = Annotated[bool, typer.Option("--title/--no-title", help="Draw the figure's title, or leave it out.")]
FontSize = Annotated[
    float | None, typer.Option("--font-size", metavar="PT", min=4, max=40, help="Of the figure, in points.")
]


def look_of(figure: Path | None, width: float | None, font_size: float | None, *, title: bool) -> Look:
    """Return how to draw. Raises BadParameter when the look of a figure is given, and no file for it."""
    given = {"--width": width is not None, "--font-size": font_size is not None, "--no-title": not title}
    unused = next((option for option, is_given in given.items() if is_given), None)
    if figure is None and unused is not None:
        raise typer.BadParameter(f"{unused} says how a figure looks: add --figure FILE")
    return Look(width=width, font_size=font_size, title=title, shown=False)


def draw(figure: Path | None, drawing: Callable[[], Any]) -> None:
    """Draw to a file, when one is asked for, and say so. `drawing` returns Axes."""
    if figure is not None:
        lensrl.plot.save(drawing(), figure)
        saved("figure", figure)

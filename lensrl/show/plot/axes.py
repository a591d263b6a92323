"""The Axes that a figure is drawn on, and the style of drawing."""

from __future__ import annotations

from contextlib import AbstractContextManager

from matplotlib.axes import Axes

from lensrl.show.figures.style import canvas, house_style
from lensrl.show.words import Look


def own(look: Look | None, *, wide: float = 7.2, high: float = 3.4, square: bool = False) -> Axes:
    """Return the Axes of a new figure."""
    return canvas(look, wide=wide, high=high, square=square)[0]


def styled(look: Look | None) -> AbstractContextManager[None]:
    """Return the project's style. On Axes of somebody else's, type keeps the size that is set there."""
    return house_style(None if look is None else look.points)

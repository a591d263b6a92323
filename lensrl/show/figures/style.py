"""Shared parts of the figures: colours, type, size, axes over layers, and saving as a file or an SVG element.

A function that draws takes Axes and returns them. `canvas` makes Axes for it. Type is scaled by the font size of the
figure, and marks by the room that a layer has.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary
from xml.sax.saxutils import escape

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from lensrl.show.words import Look, figure_format
from lensrl.store.file.atomic import new_file

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
BLUE, ORANGE, GREEN, RED = "#2f5fb3", "#d97b29", "#3c8f6b", "#b8433f"
LISTED = 12  # with more layers than this, names and numbers give way to a summary or a colour scale
POINTS = 72  # points an inch
_SAID: WeakKeyDictionary[Axes, tuple[str, str]] = WeakKeyDictionary()  # title and description, which repr need not hold
FINE = 6  # points of a cell under which no line parts it from the next
_STYLE: Any = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "axes.titlecolor": INK,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: ICML, NeurIPS and IEEE refuse Type 3
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "lensrl",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


class HouseFigure(Figure):
    """A matplotlib Figure that is saved in the project's style, also from a notebook: text stays text."""

    def savefig(self, *arguments: Any, **options: Any) -> None:
        """Save as `Figure.savefig` does, with fonts that can be searched and embedded."""
        with house_style():
            super().savefig(*arguments, **options)


@contextmanager
def house_style(font_size: float | None = None) -> Iterator[None]:
    """Apply the project's matplotlib settings within a `with` block. `font_size` is in points."""
    with matplotlib.rc_context(_STYLE | ({} if font_size is None else {"font.size": font_size})):
        yield


def canvas(
    look: Look | None = None,
    *,
    wide: float = 7.2,
    high: float = 3.4,
    rows: int = 1,
    columns: int = 1,
    square: bool = False,
) -> list[Axes]:
    """Return the Axes of a new figure, row by row.

    `wide` and `high` are inches for a look without a width of its own. A narrower figure is lower, but less so; a
    `square` one keeps its shape.
    """
    look = look or Look()
    width = look.width or wide
    height = high * (width / wide) ** (1 if square else 0.35) if width < wide else high
    options: Any = {"figsize": (width, height), "layout": ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05)}
    # outside of the style: with its first figure a notebook becomes interactive, and the end of the style would undo it
    if look.shown:
        from matplotlib import pyplot  # here: it chooses a backend, which a file does not need

        figure = pyplot.figure(FigureClass=HouseFigure, **options)
    else:
        figure = HouseFigure(**options)
    with house_style(look.points):
        return [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]


def width_for(layers: int) -> float:
    """Return the width in inches that keeps so many layers apart."""
    return min(max(7.2, 0.28 * layers), 12)


def over_layers(axes: Axes, layers: Iterable[int], label: str = "layer") -> Axes:
    """Make the x axis one of layers: a tick for as many of them as the width has room for."""
    first, last = min(layers, default=0), max(layers, default=0)
    count = last - first + 1
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xticks(range(first, last + 1, _tick_step(axes, count)))
    axes.set_xlim(first - 0.6, last + 0.6)
    axes.set_xlabel(label)
    return axes


def _tick_step(axes: Axes, count: int) -> int:
    """Return the smallest round step at which the numbers of layers stay apart."""
    wide = font_size(axes) * (1.8 if count > 10 else 1.2)  # points for a label, with a gap
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if step * room(axes, count) >= wide or step >= count)


def room(axes: Axes, layers: int) -> float:
    """Return the width in points that one layer has."""
    return axes.bbox.width / axes.figure.dpi * POINTS / max(layers, 1)


def is_narrow(axes: Axes) -> bool:
    """Return whether the axes are narrower than half a page: words are shortened there."""
    return axes.bbox.width / axes.figure.dpi < 5


def mark_size(axes: Axes, layers: int, series: int = 1) -> float:
    """Return the size of marks in points that lets the marks of so many layers and series stand side by side."""
    return float(np.clip(0.7 * room(axes, layers) / series, 1.8, 0.47 * font_size(axes)))


def font_size(axes: Axes) -> float:
    """Return the size of the labels of the Axes in points."""
    return float(axes.xaxis.label.get_fontsize())


def over_steps(axes: Axes, last: float) -> None:
    """Make the x axis one of training steps, with round numbers that stay apart."""
    wide = (len(f"{last:.0f}") + 2) * 0.65 * font_size(axes)
    most = int(np.clip(axes.bbox.width / axes.figure.dpi * POINTS / wide, 2, 10))
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("step")


def zero_and_one(axes: Axes) -> None:
    """Draw lines at 0 (none of the change) and at 1 (the whole change)."""
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=0.8)
    axes.axhline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.8)


def draw_points(axes: Axes, rows: pd.DataFrame, value: str, colour: str, *, offset: float = 0, **style: Any) -> None:
    """Draw a column at its layers, with the intervals `low` to `high`."""
    y = rows[value]
    low, high = (rows[end] if end in rows else y * np.nan for end in ("low", "high"))
    size = float(style.pop("markersize", 4.5))
    style.setdefault("fmt", "o")
    axes.errorbar(
        rows["layer"] + offset, y, yerr=np.maximum([y - low, high - y], 0), color=colour, markersize=size,
        capsize=size / 2.2, linewidth=min(1.2, size / 3.5), **style,
    )  # fmt: skip


def legend_above(axes: Axes) -> None:
    """Put the legend above the panel, at the right, where it hides no point; in a narrow figure, in several rows."""
    columns = _legend_columns(axes)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, borderaxespad=0.2, handletextpad=0.4,
                columnspacing=1.2)  # fmt: skip


def _legend_columns(axes: Axes) -> int:
    """Return how many entries of the legend stand side by side above the panel."""
    entries = axes.get_legend_handles_labels()[1]
    letters = max((len(entry) for entry in entries), default=1) + 5
    return int(np.clip(axes.bbox.width / axes.figure.dpi * POINTS / (0.5 * font_size(axes) * letters), 1, 5))


def entitle(axes: Axes, title: str, description: str, look: Look | None = None) -> Axes:
    """Give the Axes a title and a description. The description is for those who hear a figure, not see it.

    The title stands above the legend. It is kept in the file where it is not drawn.
    """
    if title and (look is None or look.title):
        entries = 0 if axes.get_legend() is None else len(axes.get_legend_handles_labels()[1])
        lines = -(-entries // _legend_columns(axes))
        letters = int(axes.bbox.width / axes.figure.dpi * POINTS / (0.52 * font_size(axes)))
        title = textwrap.fill(title, max(letters, 20))
        axes.set_title(title.replace("$", r"\$"), pad=6 + lines * 1.55 * 0.833 * font_size(axes))
    _SAID[axes] = " ".join(title.split()), description
    return axes


def name_in_file(axes: Axes, title: str) -> None:
    """Give the Axes, whose description is known, a title that is kept in the file and not drawn."""
    _SAID[axes] = title, _SAID[axes][1]


def _said(figure: Figure) -> tuple[str, str]:
    """Return the title and the description of a figure, from those of its Axes."""
    said = [_SAID[axes] for axes in figure.axes if axes in _SAID]
    titles = list(dict.fromkeys(title for title, _ in said if title))
    texts = list(dict.fromkeys(text for _, text in said if text))
    return "; ".join(titles), " ".join(texts)


def svg(figure: Figure) -> str:
    """Return the figure as an <svg> element, with its title and its description for screen readers."""
    text = io.StringIO()
    with house_style():  # `savefig` would lay out and draw everything twice
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return _described(text.getvalue(), figure, whole=False)


def _described(text: str, figure: Figure, *, whole: bool) -> str:
    """Put <title> and <desc> first into the <svg> element. `whole` keeps what stands before the element."""
    title, description = _said(figure)
    start = text.index("<svg")
    end = text.index(">", start) + 1
    head = text[start : end - 1] + ' role="img">'
    said = f"\n <title>{escape(title)}</title>\n <desc>{escape(description)}</desc>"
    return (text[:start] if whole else "") + head + said + text[end:]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Save the figure atomically, in the format of the suffix (png, svg, pdf), with its title and description."""
    path = Path(path)
    suffix = figure_format(path)
    title, description = _said(figure)
    with house_style(), new_file(path) as partial:
        if suffix == "svg":
            figure.savefig(partial, format="svg", metadata={"Date": None})
            text = _described(partial.read_text(encoding="utf-8"), figure, whole=True)
            partial.write_text(text, encoding="utf-8")
            return
        named = {"png": "Description", "pdf": "Subject"}[suffix]
        figure.savefig(partial, format=suffix, dpi=200, metadata={"Title": title, named: description})


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, Any]]) -> None:
    """Write names at the right of the Axes, at the height where their lines end, pushed apart where they would touch.

    `ends` holds (height, name, colour) of each line, heights in data coordinates.
    """
    low, high = axes.get_ylim()
    tall = axes.bbox.height / axes.figure.dpi * POINTS * 0.8
    gap = min(1.25 * 0.833 * font_size(axes) / tall, 1 / max(len(ends), 1))
    known = sorted(((y - low) / (high - low), name, colour) for y, name, colour in ends if np.isfinite(y))
    places = np.array([place for place, _, _ in known])
    for _ in range(200):  # neighbours that are too near move apart, both by half
        short = gap - np.diff(places)
        if len(places) < 2 or short.max() < 1e-4:
            break
        push = np.maximum(short, 0) / 2
        places[:-1] -= push
        places[1:] += push
        places = np.clip(places, 0, 1)
    for (true, name, colour), place in zip(known, places, strict=True):
        axes.annotate(
            name, xy=(1, true), xytext=(1.03, place), xycoords="axes fraction", textcoords="axes fraction",
            fontsize="small", color=colour, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def heat_map(
    axes: Axes, values: np.ndarray, colours: Any, label: str, *, left: float = 0, top: float = 0, **scale: Any
) -> None:
    """Draw a matrix as cells of side 1 from (left, top) on, grey where it is NaN, with its colour bar.

    From 50 colours on, matplotlib would make the colour bar a bitmap in SVG.
    """
    rows, columns = values.shape
    axes.set_facecolor(GRID)
    image = axes.pcolormesh(
        left + np.arange(columns + 1), top + np.arange(rows + 1), np.ma.masked_invalid(values), cmap=colours,
        edgecolors="white" if room(axes, columns) > FINE else "none", linewidth=min(0.4, 0.02 * room(axes, columns)),
        **scale,
    )  # fmt: skip
    axes.set_xlim(left, left + columns)
    axes.set_ylim(top + rows, top)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(image, ax=axes, label=label, aspect=25)


def depth_colours(layers: Iterable[int]) -> ScalarMappable:
    """Return a colour scale over layers, dark for shallow and light for deep layers."""
    known = list(layers) or [0]
    colours = ListedColormap(
        colormaps["viridis"](np.linspace(0.25, 0.9, 48))
    )  # its ends are faint on black and on white
    return ScalarMappable(Normalize(min(known), max(known)), colours)


def signed(value: float) -> str:
    """Format a number with two digits and a true minus sign."""
    return f"{value:.2f}".replace("-", "−")

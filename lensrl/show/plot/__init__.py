"""Figures of a study, as functions that return matplotlib Axes.

    >>> import lensrl
    >>> lensrl.plot.contributions(study)
    >>> figure, (left, right) = plt.subplots(1, 2)
    >>> lensrl.plot.contributions(study, ax=left)

Every function takes `ax`, the Axes to draw on. Without, it makes a figure of its own. `title` is the title; "" draws
none. The command line and the report use the same functions. `save` writes a figure with fonts that journals accept.
`study.plot()` is `lensrl.plot.contributions(study)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from lensrl.show.figures.style import save_figure
from lensrl.show.plot.of_models import cka, cka_map, delta_norms, deltas, heads
from lensrl.show.plot.of_relations import patching, patching_panels, predictor_panels, predictors
from lensrl.show.plot.of_scores import agreement, completions_length, contributions, overlap, training, verdict
from lensrl.show.words import Look

__all__ = [
    "Look", "agreement", "cka", "cka_map", "completions_length", "contributions", "delta_norms", "deltas",
    "heads", "overlap", "patching", "patching_panels", "predictor_panels", "predictors", "save", "training", "verdict",
]  # fmt: skip


def save(axes: Axes | Sequence[Axes], path: str | Path) -> None:
    """Save the figure of the Axes whole or not at all, as png, svg or pdf, with its title and description.

    Fonts are TrueType in PDF, and text in SVG. Raises LensrlError for another suffix, and when the disk is full.
    """
    first = axes if isinstance(axes, Axes) else axes[0]
    figure = first.get_figure(root=True)
    assert figure is not None
    save_figure(figure, path)

"""Figures: each function draws a DataFrame as a matplotlib Figure, wider for more layers."""

from __future__ import annotations

from lensrl.show.figures.agreement import agreement_figure
from lensrl.show.figures.layers import cka_figure, contribution_figure, delta_figure, weight_figure
from lensrl.show.figures.overlap import overlap_figure
from lensrl.show.figures.patching import patch_figure, recovery_figure
from lensrl.show.figures.scatter import scatter_figure
from lensrl.show.figures.style import save_figure, svg
from lensrl.show.figures.training import training_figure
from lensrl.show.figures.verdict import verdict_figure

__all__ = [
    "agreement_figure",
    "cka_figure",
    "contribution_figure",
    "delta_figure",
    "overlap_figure",
    "patch_figure",
    "recovery_figure",
    "save_figure",
    "scatter_figure",
    "svg",
    "training_figure",
    "verdict_figure",
    "weight_figure",
]

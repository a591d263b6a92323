"""Training curves of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lensrl.recipe.runs import FULL, run_layer
from lensrl.show.figures.style import BLUE, GREEN, INK, LISTED, ORANGE, RED, depth_colours, house_style


def training_figure(curves: Sequence[tuple[str, pd.DataFrame]], *, title: str = "", window: int = 5) -> Figure:
    """Draw the running mean of the mean reward over `window` steps, for every (name of a run, training curve).

    Full RL is in front, single layers are coloured by depth, sets of layers are dashed or dotted. A cross ends a curve
    that stops before the longest curve (diverged, collapsed).
    """
    with house_style():
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        # colours: depth for single layers, then four colours in several dashes for sets
        layers = [layer for name, _ in curves if (layer := run_layer(name)) is not None]
        shade: Any = depth_colours(layers)
        listed = len(layers) <= LISTED
        sets = iter([(c, dash) for dash in ("--", ":", "-.") for c in (ORANGE, RED, GREEN, BLUE)] * len(curves))
        last = max((curve["step"].iloc[-1] for _, curve in curves), default=0)

        # one line a run
        for name, curve in curves:
            smooth = curve["reward_mean"].rolling(window, min_periods=1).mean()
            layer = run_layer(name)
            label = name if listed or layer is None else None
            if name == FULL:
                line = axes.plot(curve["step"], smooth, color=INK, linewidth=2.2, label=label, zorder=3)
            elif layer is not None:
                line = axes.plot(curve["step"], smooth, color=shade.to_rgba(layer), linewidth=1, label=label)
            else:
                colour, dash = next(sets)
                line = axes.plot(curve["step"], smooth, dash, color=colour, linewidth=1.6, label=label)
            if curve["step"].iloc[-1] < last:
                axes.plot(curve["step"].iloc[-1], smooth.iloc[-1], "x", color=line[0].get_color(), zorder=4)

        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("step")
        axes.set_ylabel(f"mean reward ({window}-step mean)")
        axes.set_title(title)
        if listed:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
        else:  # too many layers for a list of names
            figure.colorbar(shade, ax=axes, label="layer", ticks=MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            axes.legend(fontsize=9)
    return figure

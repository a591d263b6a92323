"""Parts of specifications of Vega-Lite: axes over layers, profiles with intervals, maps. Colours are the page's.

https://vega.github.io/vega-lite/docs/ names every word of a specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lensrl.show.charts.chart import EVERY, Spec

WORDS = {
    "layer", "layers", "seed", "run", "other", "metric", "note", "trained", "predictor", "method", "matrix", "step",
    "base", "full",
}  # fmt: skip


def tooltips(columns: Mapping[str, str]) -> list[Spec]:
    """Return the fields that are shown for a point under the pointer, numbers with four digits."""
    return [{"field": name, "title": title} | ({} if name in WORDS else {"format": ".4~g"})
            for name, title in columns.items()]  # fmt: skip


def layer_axis(n_layers: int, field: str = "x") -> Spec:
    """Return the x axis over layers, as numbers: marks of one layer may stand side by side."""
    axis = {"tickMinStep": 1, "format": "d", "grid": False}
    return {"field": field, "type": "quantitative", "title": "layer", "axis": axis,
            "scale": {"domain": [-0.6, n_layers - 0.4], "nice": False}}  # fmt: skip


def level(value: float, style: str) -> Spec:
    """Return a line across the panel, in the style `zero` or `one`."""
    return {"data": {"values": [{}]}, "mark": {"type": "rule", "style": style}, "encoding": {"y": {"datum": value}}}


def profile(
    n_layers: int, value: str, title: str, tips: list[Spec], *, levels: bool = True, extra: Spec | None = None
) -> Spec:
    """Return points with intervals over layers; of several seeds, the value of each beside them, fainter.

    The page sets the parameter `seed` to the chosen one, and `dot` to a size for its width. A column `shift` moves a
    row's marks beside their layer.
    """
    y = {"field": value, "type": "quantitative", "title": title, "scale": {"zero": False}}
    encoding = {"x": layer_axis(n_layers), "tooltip": tips} | (extra or {})
    of_chosen: list[Spec] = [
        {"filter": "datum.seed == seed && isValid(datum.layer)"},
        {"calculate": "datum.layer + (datum.shift || 0)", "as": "x"},
    ]
    of_others = [
        {"filter": "datum.seed != seed && isValid(datum.layer)"},
        {"calculate": "datum.layer + (datum.shift || 0) - 0.12", "as": "x"},
    ]
    layers: list[Spec] = [level(0, "zero"), level(1, "one")] if levels else []
    layers += [
        {
            "transform": of_others,
            "mark": {"type": "circle", "size": {"expr": "dot / 2.5"}, "opacity": 0.45},
            "encoding": encoding | {"y": y},
        },
        {
            "transform": [*of_chosen, {"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "style": "interval"},
            "encoding": encoding | {"y": y | {"field": "low"}, "y2": {"field": "high"}},
        },
        {
            "transform": of_chosen,
            "mark": {"type": "point", "filled": True, "size": {"expr": "dot"}, "opacity": 1},
            "encoding": encoding | {"y": y},
        },
    ]
    return {"params": [{"name": "seed", "value": EVERY}, {"name": "dot", "value": 60}], "height": 300, "layer": layers}


def heat(x: Spec, y: Spec, value: str, title: str, tips: list[Spec], *, height: int, **scale: Any) -> Spec:
    """Return a map of cells, coloured by a value."""
    colour = {"field": value, "type": "quantitative", "title": title, "scale": scale}
    encoding = {"x": x, "y": y, "color": colour, "tooltip": tips}
    return {"height": height, "mark": {"type": "rect", "tooltip": True}, "encoding": encoding}

"""Layers as people write them (`20`, `0-7`, `1,3,5`, `all`) and the runs named after them.

A layer is a decoder block, counted from 0. The parts of a model outside the layers are `embed`, `final_norm` and
`lm_head`.
"""

from __future__ import annotations

from collections.abc import Sequence

from lensrl.errors import LensrlError

BASE = "base"
FULL = "full-rl"
OUTSIDE = ("embed", "final_norm", "lm_head")

LayerSpec = int | str | Sequence[int | str]


def parse_layers(spec: LayerSpec, n_layers: int) -> list[int]:
    """The layers that `spec` names, sorted, each once.

    >>> parse_layers("all", 4), parse_layers("0-2", 8), parse_layers([7, "1,3"], 8)
    ([0, 1, 2, 3], [0, 1, 2], [1, 3, 7])

    Raises LensrlError for anything that is not a layer of a model with `n_layers` layers.
    """
    if isinstance(spec, int):
        words = [str(spec)]
    elif isinstance(spec, str):
        words = spec.split(",")
    else:
        return sorted({layer for part in spec for layer in parse_layers(part, n_layers)})
    chosen: set[int] = set()
    for word in (w.strip() for w in words):
        if word == "all":
            chosen.update(range(n_layers))
            continue
        first, _, last = word.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or word.endswith("-"):
            raise LensrlError(f"{word!r} is not a layer: give a number, a range such as 0-7, a list 1,3,5, or all")
        low, high = int(first), int(last or first)
        if low > high:
            raise LensrlError(f"layer range {word!r} runs backwards: write {high}-{low}")
        if high >= n_layers:
            raise LensrlError(f"layer {high} is out of range: this model has {n_layers} layers, 0 to {n_layers - 1}")
        chosen.update(range(low, high + 1))
    return sorted(chosen)


def layer_run(layer: int) -> str:
    """The name of the run that trains `layer` alone: `layer-20`."""
    return f"layer-{layer}"


def run_layer(run: str) -> int | None:
    """The inverse of `layer_run`: 20 for `layer-20`, None for any other run."""
    prefix, _, number = run.partition("-")
    return int(number) if prefix == "layer" and number.isdecimal() else None

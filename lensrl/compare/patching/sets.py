"""Sets of layers that are patched at once: single, cumulative from one end, pairs, or all together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, get_args

from lensrl.errors import LensrlError, did_you_mean
from lensrl.store.patch import PatchComponent, Sets, What


def layer_sets(
    sets: Sets, layers: Sequence[int], n_layers: int, *, everything: bool = False
) -> list[tuple[Sets | Literal["everything"], tuple[int, ...]]]:
    """Return the sets of layers to patch, each as (word, layers). `layers` are in ascending order.

    - `single`: each layer l alone;
    - `bottom`: cumulative from the bottom, 0 ... l for each l;
    - `top`: cumulative from the top, l ... n - 1 for each l;
    - `pairs`: every two of the layers;
    - `together`: all of the layers.

    With `everything`, a set that holds all layers of the model is followed by the set `everything`: all layers and the
    parts outside them.

    >>> layer_sets("bottom", [0, 2], 4)
    [('bottom', (0,)), ('bottom', (0, 1, 2))]
    >>> layer_sets("together", [0, 1], 2, everything=True)
    [('together', (0, 1)), ('everything', (0, 1))]

    Raises LensrlError for pairs of fewer than two layers.
    """
    if sets == "pairs" and len(layers) < 2:
        raise LensrlError(f"layer {layers[0]} alone makes no pair: name two layers or more, such as --layer 0-3")
    chosen: dict[Sets, list[tuple[int, ...]]] = {
        "single": [(layer,) for layer in layers],
        "bottom": [tuple(range(layer + 1)) for layer in layers],
        "top": [tuple(range(layer, n_layers)) for layer in layers],
        "pairs": list(combinations(layers, 2)),
        "together": [tuple(layers)],
    }
    whole = tuple(range(n_layers))
    last = [("everything", whole)] if everything and sets != "single" and whole in chosen[sets] else []
    return [*((sets, unit) for unit in chosen[sets]), *last]  # pyright: ignore[reportReturnType]


def check_component(component: PatchComponent, what: str, sets: Sets) -> None:
    """Check that the words are known and can be combined.

    Raises LensrlError for an unknown word, for a graft of a component that has no weights (`head`, `direct`,
    `stream`), and for sets of a head or a stream.
    """
    for name, given, known in (
        ("what", what, (*get_args(What), "both")),
        ("component", component, get_args(PatchComponent)),
        ("sets", sets, get_args(Sets)),
    ):
        if given not in known:
            raise LensrlError(f"{name}={given!r}: there is no such{did_you_mean(str(given), known)}")
    has_none = {
        "head": "the weights of a head are not grafted",
        "direct": "a direct effect is one of activations",
        "stream": "the stream has no weights",
    }
    if component in has_none and what != "activations":
        raise LensrlError(f"--component {component} with --what {what}: {has_none[component]}; add --what activations")
    if component in ("head", "stream") and sets != "single":
        why = {"stream": "its last layer would overwrite the others", "head": "each head is patched alone"}[component]
        raise LensrlError(f"--component {component} with --sets {sets}: {why}; leave out --sets")

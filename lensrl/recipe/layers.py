"""Layers in words: `20`, `0-7`, `1,3,5`, `all`, `all-but-7`, `mid-3`, `full`.

A layer is a decoder block, counted from 0. The parts of a model outside the layers are `embed`, `final_norm` and
`lm_head`. Functions here translate words into numbers of layers. They need only the number of layers, not a model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from lensrl.errors import LensrlError, did_you_mean

Outside = Literal["embed", "final_norm", "lm_head"]
OUTSIDE: tuple[Outside, ...] = get_args(Outside)

WHOLE = "full"  # every parameter of the model, inside and outside the layers
BUT = "all-but-"  # every layer of the model, without the layers that follow
RANKED = ("top", "bottom")
WORDS = (*RANKED, "mid", "random")

LayerSpec = int | str | Sequence[int | str]


def parse_layers(spec: LayerSpec, n_layers: int) -> list[int]:
    """Parse `spec` into layers, sorted, each once.

    >>> parse_layers("all", 4), parse_layers("0-2", 8), parse_layers([7, "1,3"], 8), parse_layers("all-but-1,2", 4)
    ([0, 1, 2, 3], [0, 1, 2], [1, 3, 7], [0, 3])

    Raises LensrlError for a word that is not a layer of a model with `n_layers` layers, or a range that runs backwards.
    """
    if isinstance(spec, int):
        words = [str(spec)]
    elif isinstance(spec, str) and spec.startswith(BUT):
        left_out = parse_layers(spec.removeprefix(BUT), n_layers)
        return [layer for layer in range(n_layers) if layer not in left_out]
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


def spell_layers(layers: Sequence[int]) -> str:
    """Spell sorted layers as ranges, the inverse of `parse_layers`: (0, 1, 2, 5) gives `0-2,5`."""
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and layer == ranges[-1][-1] + 1:
            ranges[-1].append(layer)
        else:
            ranges.append([layer])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in ranges)


def split_outside(spec: LayerSpec) -> tuple[LayerSpec, tuple[Outside, ...]]:
    """Split `spec` into layers and parts outside the layers: `0-3,embed` into "0-3" and ("embed",).

    Words of both kinds are separated by commas. `embed` alone has the layers []. A spec without such a part stays as it
    is.
    """
    words = [word.strip() for word in spec.split(",")] if isinstance(spec, str) else []
    found: tuple[Outside, ...] = tuple(part for part in OUTSIDE if part in words)
    if not found:
        return spec, ()
    return ",".join(word for word in words if word not in OUTSIDE) or [], found


def read_word(spec: LayerSpec) -> tuple[str, int] | None:
    """Parse `mid-3` into ("mid", 3). Return None for explicit layers (`0-7`, `[1, 3]`, `all`) and for `full`.

    Raises LensrlError for an unknown word.
    """
    if not isinstance(spec, str) or not spec[:1].isalpha():
        return None
    if spec.startswith(BUT) or spec.split(",")[0] in ("all", WHOLE):
        return None
    found = re.fullmatch(r"(\w+)-(\d+)", spec)
    if found is None or found[1] not in WORDS:
        near = did_you_mean(re.split(r"[-_\d]", spec)[0], [*WORDS, WHOLE, "all"])
        raise LensrlError(
            f"{spec!r} names no layers{near} (as in mid-3, random-3, top-3; full, all, all-but-7, 0-7, or a list)"
        )
    return found[1], int(found[2])


def choose_layers(
    spec: LayerSpec, n_layers: int, *, draw: str, contribution: Mapping[int, float] | None = None
) -> list[int] | None:
    """Return the layers of `spec`, sorted; None for `full`, every parameter of the model.

    `spec` is anything that `parse_layers` accepts, or one of these words:

    - `mid-K`: the K layers in the middle of the depth, the lower ones if K cannot be centred;
    - `random-K`: K layers drawn by the name `draw`. The draw is the same on every machine and at any time;
    - `top-K`, `bottom-K`: the K layers with the highest or lowest `contribution` (layer -> C_l).

    >>> choose_layers("mid-3", 8, draw=""), choose_layers("top-1", 2, draw="", contribution={0: 0.3, 1: 0.9})
    ([2, 3, 4], [1])

    Raises LensrlError for an unknown word, for more layers than the model has, and for a ranking without contributions.
    """
    if spec == WHOLE:
        return None
    word = read_word(spec)
    if word is None:
        return parse_layers(spec, n_layers)
    kind, count = word
    if not 1 <= count <= n_layers:
        raise LensrlError(f"{spec!r} asks for {count} layers: this model has {n_layers}")
    if kind == "mid":
        first = (n_layers - count) // 2
        return [*range(first, first + count)]
    if kind == "random":
        # A hash, because the stream of a random generator may change with its library.
        order = sorted(range(n_layers), key=lambda layer: hashlib.sha256(f"{draw}/{layer}".encode()).digest())
    elif contribution is None:
        raise LensrlError(f'{spec!r} is chosen by contribution: name a finished study, profile = "runs/tiny"')
    else:
        order = sorted(range(n_layers), key=lambda layer: contribution[layer], reverse=kind == "top")
    return sorted(order[:count])

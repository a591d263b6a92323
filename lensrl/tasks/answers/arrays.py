r"""Read vectors as sums of unit vectors, `3i - 4j + 5k`, and multiples of the unit matrix, `2I`, `-I_3`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from lensrl.tasks.answers import formula
from lensrl.tasks.answers.formula import Formula
from lensrl.tasks.answers.values import Node, Unreadable

_UNIT_MATRIX = re.compile(r"I(?:_(\d))?")


def components(vector: Formula, size: int) -> list[Formula] | None:
    r"""Return the components of `3i - 4j + 5k`: two without k, or three. None for what is not linear in i, j and k.

    `3 - 4i` and `3i` are complex numbers: a vector has j or k.
    """
    units = ("i", "j", "k")[:size]
    if size not in (2, 3) or not vector.symbols & {"j", "k"} or (size == 2 and "k" in vector.symbols):
        return None
    parts = [_with(vector, {unit: Fraction(int(unit == other)) for unit in units}) for other in units]
    # Linear: at another point, the value is the sum of the components' multiples.
    at = {unit: Fraction(7 + 2 * i, 3) for i, unit in enumerate(units)}
    total: Node = ("number", Fraction(0))
    for part, factor in zip(parts, at.values(), strict=True):
        total = ("add", total, ("mul", ("number", factor), part.tree))
    symbols = vector.symbols - {"j", "k"}
    return parts if formula.same(_with(vector, at), Formula(total, symbols)) else None


def _with(vector: Formula, values: dict[str, Fraction]) -> Formula:
    return Formula(_replaced(vector.tree, values), vector.symbols - {"j", "k"})


def _replaced(tree: Node, values: dict[str, Fraction]) -> Node:
    name = "i" if tree == ("i",) else tree[1] if tree[0] == "symbol" else None
    if name in values:
        return ("number", values[name])
    return tuple(_replaced(part, values) if isinstance(part, tuple) else part for part in tree)


def is_unit_matrix(multiple: Formula, rows: Sequence[Sequence[str]]) -> bool:
    """Return whether `I`, `2I` or `I_3` is the matrix of these rows."""
    name = next(iter(multiple.symbols), "")
    unit = _UNIT_MATRIX.fullmatch(name)
    if len(multiple.symbols) != 1 or not unit or any(len(row) != len(rows) for row in rows):
        return False
    if unit[1] and int(unit[1]) != len(rows):
        return False
    ones, twos, none = (Formula(_replaced(multiple.tree, {name: Fraction(n)}), frozenset()) for n in (1, 2, 0))
    try:
        value = formula.value(ones)
        if formula.value(none) != 0 or formula.value(twos) != 2 * value or not value:
            return False
        cells = [[formula.read(cell) for cell in row] for row in rows]
    except Unreadable:
        return False
    return all(
        formula.same(ones if i == j else none, cell) for i, row in enumerate(cells) for j, cell in enumerate(row)
    )

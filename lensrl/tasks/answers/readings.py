"""Compare two parts of answers: as text, as equations, or by every way in which all of a part can be read."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lensrl.tasks.answers import arrays, formula, kinds, regions, values
from lensrl.tasks.answers.parts import Bracketed, Part, bracketed, interchangeable, part
from lensrl.tasks.answers.spelling import as_text
from lensrl.tasks.answers.units import Quantity, Unit, quantity


def matched(wanted: list[tuple[Part, str | None]], given: list[tuple[Part, str | None]]) -> bool:
    """Return whether every part has another one with the same name and value."""
    for each, name in wanted:
        match = next((i for i, (other, its) in enumerate(given) if name == its and same_part(each, other)), None)
        if match is None:
            return False
        del given[match]
    return True


def all_same(gold: Sequence[Part], answer: Sequence[Part]) -> bool:
    """Return whether two lists of as many parts are the same, in this order."""
    return all(same_part(a, b) for a, b in zip(gold, answer, strict=True))


def same_part(gold: Part, answer: Part) -> bool:
    """Compare two parts: as text, as equations, or by their values."""
    if as_text(gold.text) == as_text(answer.text):
        return True
    if len(gold.sides) == len(answer.sides) == 2 and _same_equation(gold, answer):
        return True
    if gold.name and answer.name and as_text(gold.name) != as_text(answer.name) and _is_symbol(gold.name, answer.name):
        return False
    wanted = gold.values if len(gold.values) == 1 or _consistent(gold.values) else ()
    found = next((value for value in answer.values for w in wanted if _same_value(w, value)), None)
    return found is not None and all(_same_value(found, value) or _roundings(found, value) for value in answer.values)


def _is_symbol(*names: str) -> bool:
    return all(len(name.split("_")[0].strip()) == 1 or name.startswith("\\") for name in names)


def _consistent(values: Sequence[str]) -> bool:
    return all(_same_value(values[0], value) or _roundings(values[0], value) for value in values[1:])


def _roundings(a: str, b: str) -> bool:
    """Return whether two constants, such as `1/3` and `0.33`, are one rounding of the other."""
    try:
        first, second = formula.read(a), formula.read(b)
        return not first.symbols | second.symbols and formula.rounded(
            first, second, formula.value(first), formula.value(second), digits=2
        )
    except values.Unreadable:
        return False


def _same_equation(gold: Part, answer: Part) -> bool:
    """Return whether two equations differ by a factor. A gold that names a value, such as `x = 5`, needs this value."""
    try:
        sides = [formula.read(f"({left}) - ({right})") for left, right in (gold.sides, answer.sides)]
        symbols = sides[0].symbols
        if symbols != sides[1].symbols or not symbols or (gold.name and len(symbols) == 1):
            return False
        at = [[values.inexact(formula.value(side, point)) for side in sides] for point in formula.points(symbols)]
        return all(a and b for a, b in at) and all(values.close(a * at[0][1], b * at[0][0]) for a, b in at[1:])
    except values.Unreadable:
        return False


def _same_value(gold: str, answer: str) -> bool:
    if as_text(gold) == as_text(answer):
        return True
    return same_readings(readings(gold), readings(answer))


@lru_cache(maxsize=2**12)
def readings(text: str) -> tuple[Any, ...]:
    """Return the ways to read all of a text; empty if there is none. A special kind excludes a formula."""
    special = [found for kind in kinds.KINDS if (found := kind(text)) is not None]
    if special:
        return tuple(special)
    found: list[Any] = [each for each in (regions.region(text), bracketed(text)) if each is not None]
    with_unit = quantity(text)
    for reading in (text, with_unit and with_unit.number):
        try:
            read = formula.read(reading) if reading else None
        except values.Unreadable:
            read = None
        if read is not None and reading == text:
            found.append(read)
        if read is not None and with_unit and reading == with_unit.number:
            found.append(with_unit)
    return tuple(found)


def same_readings(gold: Sequence[Any], answer: Sequence[Any]) -> bool:
    """Return whether one of the readings of the gold is the same as one of the answer's."""
    return any(_same_reading(a, b) for a in gold for b in answer)


def _same_reading(gold: Any, answer: Any) -> bool:
    match gold, answer:
        case formula.Formula(), formula.Formula():
            return _same_formulas(gold, answer)
        case Quantity(), Quantity():
            return same_quantities(gold, answer)
        case kinds.Range(), kinds.Range():
            return same_quantities(gold.low, answer.low) and same_quantities(gold.high, answer.high)
        case (kinds.Ratio(), kinds.Range()) | (kinds.Range(), kinds.Ratio()):
            return _ends(gold) == _ends(answer)
        case (kinds.Based(), Quantity()) | (Quantity(), kinds.Based()):
            return _digits(gold) == _digits(answer)  # the base may be left off
        case kinds.Ratio(), formula.Formula(tree=("div", ("number", a), ("number", b))):  # 2/3 for the ratio 2:3
            return len(gold.terms) == 2 and gold.terms[0] * b == gold.terms[1] * a
        case Bracketed(), Bracketed():
            return _same_brackets(gold, answer)
        case (Bracketed() as array, formula.Formula() as single) | (formula.Formula() as single, Bracketed() as array):
            return _same_array(array, single)
        case _:
            return bool(kinds.same(gold, answer))


def _ends(reading: kinds.Ratio | kinds.Range) -> tuple[Any, ...]:
    return reading.terms if isinstance(reading, kinds.Ratio) else tuple(regions.constant(end.number) for end in reading)


def _digits(reading: kinds.Based | Quantity) -> str:
    if isinstance(reading, kinds.Based):
        return reading.digits
    return "" if reading.unit else reading.number.replace(",", "")


def _same_brackets(gold: Bracketed, answer: Bracketed) -> bool:
    if not interchangeable(gold.kind, answer.kind) or len(gold.items) != len(answer.items):
        return False
    wanted, given = [part(item) for item in gold.items], [part(item) for item in answer.items]
    if gold.kind != "{":
        return all_same(wanted, given)
    return matched([(each, None) for each in wanted], [(each, None) for each in given])


def _same_array(array: Bracketed, single: formula.Formula) -> bool:
    """Compare a vector with a sum of unit vectors, or a matrix with a multiple of the unit matrix."""
    if array.kind == "matrix":
        return arrays.is_unit_matrix(single, [row.items for row in map(bracketed, array.items) if row])
    parts = arrays.components(single, len(array.items)) if array.kind in ("(", "column", "row") else None
    try:
        return parts is not None and all(
            _same_formulas(formula.read(item), part) for item, part in zip(array.items, parts, strict=True)
        )
    except values.Unreadable:
        return False


_TEMPERATURES = {(("degree", 1),), (("celsius", 1),)}, {(("degree", 1),), (("fahrenheit", 1),)}
_CONSTANTS = {"C", "c", "K", "k", "C_1", "c_1"}  # of integration
_INTEGERS = {"k", "n", "m"}  # of the solutions of a trigonometric equation


def _same_formulas(gold: formula.Formula, answer: formula.Formula) -> bool:
    if formula.has(gold, "ln") and not formula.has(gold, "log"):
        answer = formula.natural(answer)
    ours, theirs = gold.symbols - answer.symbols, answer.symbols - gold.symbols
    names = ours | theirs
    if len(ours) == len(theirs) == 1 and (names <= _CONSTANTS or (names <= _INTEGERS and formula.has_pi(gold))):
        answer = formula.renamed(answer, *theirs, *ours)
    return formula.same(gold, answer)


def same_quantities(gold: Quantity, answer: Quantity) -> bool:
    """Compare numbers, in one unit where both have known ones. Units of other names do not count."""
    first, second = gold.unit or Unit(""), answer.unit or Unit("")
    factors = Fraction(gold.scale), Fraction(answer.scale)
    if first.dimensions and second.dimensions:
        dimensions = _dimensions(first), _dimensions(second)
        if dimensions[0] != dimensions[1] and set(dimensions) not in _TEMPERATURES:
            return False
        factors = factors[0] * first.size, factors[1] * second.size
    try:
        a, b = formula.read(gold.number), formula.read(answer.number)
        if factors[0] == factors[1]:
            return _same_formulas(a, b)
        if a.symbols or b.symbols:
            return False
        return values.close(_times(formula.value(a), factors[0]), _times(formula.value(b), factors[1]))
    except values.Unreadable:
        return False


def _times(value: Any, factor: Fraction) -> Any:
    return value * factor if isinstance(value, Fraction) else value * factor.numerator / factor.denominator


def _dimensions(unit: Unit) -> tuple[tuple[str, int], ...]:
    """Return the dimensions of a unit. Of money per hour, per day or per item, the money counts."""
    return (
        tuple(pair for pair in unit.dimensions if pair[1] > 0) if ("money", 1) in unit.dimensions else unit.dimensions
    )

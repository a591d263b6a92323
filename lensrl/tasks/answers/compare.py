"""Compare two answers, each of them a text that is nothing but the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from lensrl.tasks.answers import formula, kinds, regions, values
from lensrl.tasks.answers.parts import Bracketed, Part, bracketed, interchangeable, part, split_answer
from lensrl.tasks.answers.spelling import as_text, cleaned
from lensrl.tasks.answers.units import Quantity, Unit, compound, quantity

LENGTH = 2000  # characters; a longer answer is compared as text
PARTS = 60
_NAMED = re.compile(r"^([A-Za-z]{3,}(?: [A-Za-z]+){0,3}) (?=\\?\$?\s*\d)")  # width 5, length 10
_LEAD = re.compile(r"^[A-Za-z][A-Za-z' ]{0,60}?(?:\s+(?:is|are|was|equals|be)\b\s*[:=]?|\s*:)\s*(?=\S)", re.IGNORECASE)


def same(gold: str, answer: str) -> bool:
    """Return whether two answers are the same."""
    gold, answer = _answer(gold), _answer(answer)
    if not gold or not answer:
        return False
    if as_text(gold) == as_text(answer):
        return True
    if max(len(gold), len(answer)) > LENGTH:
        return False
    return _same(gold, answer)


def readable(answer: str) -> bool:
    """Return whether all of an answer can be read as numbers, formulas or another kind, so that it is no prose."""
    answer = _answer(answer)
    if not answer or len(answer) > LENGTH:
        return False
    if kinds.option(answer) or regions.region(answer) or any(kind(answer) for kind in kinds.KINDS):
        return True
    parts = split_answer(answer)
    return len(parts) <= PARTS and all(_readings(value) for each in parts for value in part(each).values)


@lru_cache(maxsize=2**12)
def _answer(text: str) -> str:
    """Return a cleaned answer without the words before `is` or a colon, and without its full stop."""
    if len(text) > 2 * LENGTH:
        return text.strip()
    text = re.sub(r"(?<![ap]\.m)(?<!\\ldots)(?<!\.\.)[.,;]$", "", cleaned(text)).strip()
    text = re.sub(r"^(?:at|on)\s+(?=\w)", "", text)
    lead = _LEAD.match(text)
    if lead and len(split_answer(text)) == 1 and not kinds.option(text) and not regions.region(text):
        text = text[lead.end() :]
    return text


def _same(gold: str, answer: str) -> bool:
    # Options first: their text may have commas.
    wanted, given = kinds.option(gold), kinds.option(answer)
    if wanted and given:
        return wanted.letter == given.letter and (not (wanted.text and given.text) or same(wanted.text, given.text))
    if (wanted and wanted.text) or (given and given.text):
        return _same_text(wanted.text if wanted else gold, given.text if given else answer)
    # Kinds that hold `and`, `or` or commas.
    for read in (kinds.date, kinds.range_, regions.region):
        first, second = read(gold), read(answer)
        if first is not None and second is not None and (verdict := _same_readings([first], [second])):
            return verdict
    total, other_total = compound(gold), compound(answer)
    first, second = total or quantity(gold), other_total or quantity(answer)
    if (total or other_total) and first and second and first.unit and second.unit and _same_quantities(first, second):
        return True
    if kinds.date(gold) or kinds.range_(gold) or kinds.date(answer) or kinds.range_(answer):
        return _same_readings(_readings(gold), _readings(answer))
    # Parts.
    return _same_parts(gold, answer)


def _same_text(gold: str, answer: str) -> bool:
    return bool(gold and answer) and same(gold, answer)


def _same_parts(gold: str, answer: str) -> bool:
    """Compare the parts of two answers, which must be as many."""
    wanted, given = _parts(gold), _parts(answer)
    if len(wanted.parts) != len(given.parts) or len(given.parts) > PARTS:
        return False
    if not interchangeable(wanted.kind, given.kind):
        return False
    match _order(wanted, given):
        case "as written":
            return _all_same(wanted.parts, given.parts)
        case "alphabetical":  # (2, 3) against y = 3, x = 2
            return _all_same(wanted.parts, sorted(given.parts, key=lambda each: str(each.name)))
        case "by name":
            wanted_names, given_names = wanted.labels, given.labels
            return _matched(
                [*zip(wanted.parts, wanted_names, strict=True)], [*zip(given.parts, given_names, strict=True)]
            )
        case "any":
            return _matched([(each, None) for each in wanted.parts], [(each, None) for each in given.parts])
        case _:
            return False


def _order(wanted: _Parts, given: _Parts) -> str:
    """Return the order in which parts are compared; empty if names or units stand on some of the parts alone."""
    names, given_names = set(wanted.labels), set(given.labels)
    if len(names) > 1 and None not in names:
        # Each part of the gold has its own name or unit. They may be left off all parts.
        if len(given_names) == 1:
            return "as written"
        return "" if None in given_names else "by name"
    shared = given.labels[-1] and not any(given.labels[:-1])  # 30 and 40 mph
    if None not in names and None in given_names and len(given_names) > 1 and not shared:
        return ""
    dots = any(r"\ldots" in each.text for each in (*wanted.parts, *given.parts))
    if not dots and (wanted.kind == "{" or len(wanted.parts) == 1):
        return "any"
    if None in names and all(each.name and len(each.name) == 1 for each in given.parts):
        return "alphabetical"
    return "as written"


def _matched(wanted: list[tuple[Part, str | None]], given: list[tuple[Part, str | None]]) -> bool:
    """Return whether every part has another one with the same name and value."""
    for each, name in wanted:
        match = next((i for i, (other, its) in enumerate(given) if name == its and _same_part(each, other)), None)
        if match is None:
            return False
        del given[match]
    return True


class _Parts:
    """The parts of an answer, and the brackets around them: `{` also for none."""

    def __init__(self, text: str) -> None:
        whole = part(text)
        inside = bracketed(whole.values[0]) if len(whole.values) == 1 else None
        while inside and inside.kind == "{" and len(inside.items) == 1:
            text = inside.items[0]
            inside = bracketed(text)
        self.kind = inside.kind if inside else "{"
        texts: Sequence[str] = inside.items if inside else split_answer(text)
        self.parts = [part(each if len(texts) == 1 else _NAMED.sub(r"\1 = ", each)) for each in texts]
        for i, each in enumerate(self.parts[1:]):  # x = 2, 3
            if self.parts[i].name and not each.name and len(each.sides) == 0:
                self.parts[i + 1] = each._replace(name=self.parts[i].name)
        self.labels = [_label(each) for each in self.parts]


_parts: Callable[[str], _Parts] = lru_cache(maxsize=2**12)(_Parts)


def _label(each: Part) -> str | None:
    if each.name:
        return each.name
    found = quantity(each.values[0]) if each.values else None
    return found.unit.name.replace(" ", "") if found and found.unit else None


def _all_same(gold: Sequence[Part], answer: Sequence[Part]) -> bool:
    return all(_same_part(a, b) for a, b in zip(gold, answer, strict=True))


def _same_part(gold: Part, answer: Part) -> bool:
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
    return _same_readings(_readings(gold), _readings(answer))


@lru_cache(maxsize=2**12)
def _readings(text: str) -> tuple[Any, ...]:
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


def _same_readings(gold: Sequence[Any], answer: Sequence[Any]) -> bool:
    return any(_same_reading(a, b) for a in gold for b in answer)


def _same_reading(gold: Any, answer: Any) -> bool:
    match gold, answer:
        case formula.Formula(), formula.Formula():
            return _same_formulas(gold, answer)
        case Quantity(), Quantity():
            return _same_quantities(gold, answer)
        case kinds.Range(), kinds.Range():
            return _same_quantities(gold.low, answer.low) and _same_quantities(gold.high, answer.high)
        case (kinds.Ratio(), kinds.Range()) | (kinds.Range(), kinds.Ratio()):
            return _ends(gold) == _ends(answer)
        case (kinds.Based(), Quantity()) | (Quantity(), kinds.Based()):
            return _digits(gold) == _digits(answer)  # the base may be left off
        case kinds.Ratio(), formula.Formula(tree=("div", ("number", a), ("number", b))):  # 2/3 for the ratio 2:3
            return len(gold.terms) == 2 and b != 1 and gold.terms[0] * b == gold.terms[1] * a
        case Bracketed(), Bracketed():
            return _same_brackets(gold, answer)
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
        return _all_same(wanted, given)
    return _matched([(each, None) for each in wanted], [(each, None) for each in given])


def _same_formulas(gold: formula.Formula, answer: formula.Formula) -> bool:
    if formula.has(gold, "ln") and not formula.has(gold, "log"):
        answer = formula.natural(answer)
    return formula.same(gold, answer)


def _same_quantities(gold: Quantity, answer: Quantity) -> bool:
    """Compare numbers, in one unit where both have known ones. Units of other names do not count."""
    first, second = gold.unit or Unit(""), answer.unit or Unit("")
    factors = Fraction(gold.scale), Fraction(answer.scale)
    if first.dimensions and second.dimensions:
        if _dimensions(first) != _dimensions(second):
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

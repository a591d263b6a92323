r"""Answers that are no single number: times, dates, ratios, ranges, numbers of another base, options, sets on the line.

Each kind is a NamedTuple and a function that reads all of a cleaned text as this kind, or returns None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from lensrl.tasks.answers import formula
from lensrl.tasks.answers.parts import bracketed, split
from lensrl.tasks.answers.units import Quantity, quantity


class Clock(NamedTuple):
    """A time of day in seconds. `half` is am, pm, or empty where it is not said."""

    seconds: int
    half: str


class Date(NamedTuple):
    """A date. Zero is a year or day that is not said."""

    year: int
    month: int
    day: int


class Ratio(NamedTuple):
    """`2:3`. `clock`: it may be a time, `3:30`."""

    terms: tuple[Any, ...]
    clock: bool


class Range(NamedTuple):
    """`5 to 10`, as two quantities."""

    low: Quantity
    high: Quantity


class Based(NamedTuple):
    """Digits in a base: `2516_8`."""

    digits: str
    base: int


class Option(NamedTuple):
    """An option of multiple choice: its letter, and the text after it."""

    letter: str
    text: str


class Region(NamedTuple):
    """A union of intervals (low, low is in it, high, high is in it), and the variable if one is named."""

    intervals: tuple[tuple[Any, bool, Any, bool], ...]
    variable: str = ""


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>(?:january|february|march|april|(?-i:May)|june|july|august|september|october|november|december"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b)\.?"
)
_DAY = r"(?P<day>\d{1,2})(?:\s*\^?\s*\{?\s*(?:st|nd|rd|th)\s*\}?)?"
_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day\s*,?\s*)?"
_YEAR = r"(?P<year>\d{4})"
CLOCK = r"(?P<hour>\d{1,2})(?:\s*:\s*(?P<minute>\d{2}))?(?:\s*:\s*(?P<second>\d{2}))?"
HALF = r"(?:(?P<half>[ap])\.?\s?m\b\.?|in the (?P<part>morning|afternoon|evening)|(?P<oclock>o'clock))"
DATES = (
    rf"{_WEEKDAY}{_MONTH}\s*(?:the\s*)?{_DAY}(?:(?:\s*,\s*|\s+){_YEAR})?",
    rf"{_WEEKDAY}(?:the\s+)?{_DAY}\s*(?:of\s+)?{_MONTH}(?:(?:\s*,\s*|\s+){_YEAR})?",
    rf"{_YEAR}-(?P<month>\d\d)-{_DAY}",
    rf"{_MONTH}\s*,?\s*{_YEAR}",
)


def clock(text: str) -> Clock | None:
    """Read `3:30 p.m.`, `15:30`, `5 PM`, `noon`."""
    named = {"noon": Clock(12 * 3600, "pm"), "12 noon": Clock(12 * 3600, "pm"), "midnight": Clock(0, "am"), "12 midnight": Clock(0, "am")}
    if text.lower() in named:
        return named[text.lower()]
    match = re.fullmatch(rf"{CLOCK}\s*{HALF}?", text, re.IGNORECASE)
    if not match or not (match["minute"] or match["half"] or match["part"] or match["oclock"]):
        return None
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    half = (match["half"] or {"m": "a", "a": "p", "e": "p"}.get((match["part"] or " ")[0].lower(), "")).lower()
    if hour > 24 or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + 12 * (half == "p")
    elif hour > 12 or hour == 0:
        hour, half = hour % 24, "p" if hour > 12 else "a"
    return Clock(3600 * hour + 60 * minute + second, half and half + "m")


def date(text: str) -> Date | None:
    """Read `February 3rd`, `3 Feb 2020`, `2020-02-03`, `June 2020`."""
    for pattern in DATES:
        if match := re.fullmatch(pattern, text, re.IGNORECASE):
            found = match.groupdict()
            month = found["month"]
            number = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
            return Date(int(found.get("year") or 0), number, int(found.get("day") or 0))
    return None


def ratio(text: str) -> Ratio | None:
    """Read `5:1`, `1:2:3`, `3 : 4`."""
    terms = [constant(term) for term in split(text, ":")]
    if len(terms) < 2 or None in terms:
        return None
    return Ratio(tuple(terms), bool(re.fullmatch(r"\d{1,2}\s*:\s*\d{2}", text)))


def range_(text: str) -> Range | None:
    r"""Read `5 to 10 minutes`, `from 5 to 10`, `between 5 and 10`, `5–10`, and `5-10` if the first number is smaller."""
    match = (
        re.fullmatch(r"between\s+(?P<low>.+?)\s+and\s+(?P<high>.+)", text, re.IGNORECASE)
        or re.fullmatch(r"(?:from\s+)?(?P<low>.+?)\s*(?:--|\bto\b|\\sim(?![A-Za-z])|~|through)\s*(?P<high>.+)", text, re.IGNORECASE)
        or re.fullmatch(r"(?P<low>\\?\$?\d[\d,.]*)(?P<sign>-)(?P<high>\\?\$?\d[\d,.]*(?:\s*%|\s+[A-Za-z].*)?)", text)
    )
    low, high = (quantity(match["low"]), quantity(match["high"])) if match else (None, None)
    if not match or low is None or high is None:
        return None
    ends = constant(low.number), constant(high.number)
    if None in ends or (match.groupdict().get("sign") and not ends[0] < ends[1]):
        return None
    return Range(low, high)


def based(text: str) -> Based | None:
    """Read `2516_8`, `2516_{8}`, `2516 (base 8)`."""
    match = re.fullmatch(r"\(?(\d[\dA-Fa-f ,]*)\)?\s*_\s*\{?\s*(\d{1,2})\s*\}?", text) or re.fullmatch(
        r"(\d[\dA-F]*)\s*,?\s*\(?(?:in )?base (\d{1,2})\)?", text
    )
    return Based(re.sub("[ ,]", "", match[1]).upper(), int(match[2])) if match else None


_OPTION = (
    re.compile(r"(?:(?:option|choice|answer)\s*)?[(\[]\s*(?P<letter>[A-Ja-j])\s*[)\]]\s*[.:,]?\s*(?P<text>.*)", re.IGNORECASE),
    re.compile(r"(?:option|choice|answer)\s+(?P<letter>[A-J])(?:\s*[).:]\s*(?P<text>.*))?", re.IGNORECASE),
    re.compile(r"(?P<letter>[A-J])\s*(?:[):.]\s*(?P<text>.*))?"),
)


def option(text: str) -> Option | None:
    r"""Read `C`, `(C)`, `C: 12`, `C. 12`, `option C`, `\textbf{(C)}\ 12`."""
    for pattern in _OPTION:
        if match := pattern.fullmatch(text):
            return Option(match["letter"].upper(), (match["text"] or "").strip())
    return None


def region(text: str) -> Region | None:
    r"""Read intervals, their unions, and inequalities in one variable: `(-\infty, 3)`, `x < 3`, `x \in [1,2] \cup \{5\}`."""
    text = text.strip()
    if builder := re.fullmatch(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\reals\s*)?[|:](.*)\\\}", text):
        found = region(builder[2])
        return found if found and found.variable in ("", builder[1]) else None
    if member := re.fullmatch(r"(?:\\forall\s*)?([A-Za-z])\s*\\in(?![A-Za-z])\s*(.*)", text):
        found = region(member[2])
        return found and found._replace(variable=member[1])
    if text.lower() in (r"\reals", "all real numbers", "all reals", "all real number"):
        return Region(((-_INFINITY, False, _INFINITY, False),))
    if re.fullmatch(r"no(?: real)? solutions?", text, re.IGNORECASE) or text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Region(())
    return _inequalities(text) or _union(text)


_INFINITY = formula.mpmath.inf
_RELATIONS = {"<": (-1, False), ">": (1, False), r"\le": (-1, True), r"\ge": (1, True), "=": (0, True), r"\ne": (2, False)}


def _union(text: str) -> Region | None:
    without = split(text, r"\setminus", r"\backslash")
    if len(without) == 2 and (points := bracketed(without[1])) and points.kind == "{" and (whole := region(without[0])):
        places = [_end(item) for item in points.items]
        if None in places:
            return None
        pieces = whole.intervals
        for place in places:
            pieces = tuple(piece for interval in pieces for piece in _without(interval, place))
        return Region(_merged(pieces))
    found: list[tuple[Any, bool, Any, bool]] = []
    sides = split(text, r"\cup", "U")
    for side in sides:
        items = bracketed(side)
        ends = [_end(item) for item in items.items] if items else []
        if items is None or None in ends:
            return None
        if items.kind == "{" and len(sides) > 1:
            found += [(end, True, end, True) for end in ends]
        elif items.kind in ("(", "[", "[)", "(]") and len(ends) == 2 and ends[0] <= ends[1]:
            found.append((ends[0], items.kind in ("[", "[)"), ends[1], items.kind in ("[", "(]")))
        else:
            return None
    return Region(_merged(found))


def _without(interval: tuple[Any, bool, Any, bool], place: Any) -> list[tuple[Any, bool, Any, bool]]:
    low, low_in, high, high_in = interval
    return [(low, low_in, place, False), (place, False, high, high_in)] if low < place < high else [interval]


def _inequalities(text: str) -> Region | None:
    """Read inequalities joined by `and` (both hold), `or` (one holds) or a comma (both, unless none can)."""
    for word, together in (("or", _merged), ("and", _common), (",", _either)):
        sides = split(text, word)
        if len(sides) > 1:
            found = [_inequalities(side) for side in sides if side]
            kept = [side for side in found if side]
            if len(kept) < len(found) or len({side.variable for side in kept}) > 1:
                return None
            if word == "or":
                return Region(_merged([piece for side in kept for piece in side.intervals]), kept[0].variable)
            pieces = kept[0].intervals
            for side in kept[1:]:
                pieces = together(pieces, side.intervals)
            return Region(pieces, kept[0].variable)
    return _inequality(text)


def _inequality(text: str) -> Region | None:
    signs = [token for token in re.findall(r"\\(?:le|ge|ne)(?![A-Za-z])|[<>=]", text) if token in _RELATIONS]
    sides = split(text, *_RELATIONS)
    if not signs or len(sides) != len(signs) + 1 or len(sides) > 3 or (len(signs) > 1 and not set(signs) <= {"<", ">", r"\le", r"\ge"}):
        return None
    names = [i for i, side in enumerate(sides) if re.fullmatch(r"[A-Za-z]|\\[a-z]+", side) and _end(side) is None]
    ends = [_end(side) for i, side in enumerate(sides) if i not in names]
    if len(names) != 1 or None in ends or (len(sides) == 3 and names != [1]) or set(signs) == {"="}:
        return Region(((ends[0], True, ends[0], True),), sides[0]) if len(sides) == 2 and names == [0] and ends[0] is not None else None
    pieces = ((-_INFINITY, False, _INFINITY, False),)
    for i, sign in enumerate(signs):
        direction, closed = _RELATIONS[sign]
        name_first = i == names[0]
        end = _end(sides[i + 1 if name_first else i])
        if direction == 2:
            pieces = _common(pieces, ((-_INFINITY, False, end, False), (end, False, _INFINITY, False)))
        elif (direction < 0) == name_first:
            pieces = _common(pieces, ((-_INFINITY, False, end, closed),))
        else:
            pieces = _common(pieces, ((end, closed, _INFINITY, False),))
    return Region(pieces, sides[names[0]])


def _common(first: Any, second: Any) -> tuple[tuple[Any, bool, Any, bool], ...]:
    found = []
    for a in first:
        for b in second:
            low, low_out = max((a[0], not a[1]), (b[0], not b[1]))
            high, high_in = min((a[2], a[3]), (b[2], b[3]))
            if low < high or (low == high and not low_out and high_in):
                found.append((low, not low_out, high, high_in))
    return _merged(found)


def _either(first: Any, second: Any) -> tuple[tuple[Any, bool, Any, bool], ...]:
    return _common(first, second) or _merged([*first, *second])


def _merged(intervals: Any) -> tuple[tuple[Any, bool, Any, bool], ...]:
    """Sort intervals and join those that touch."""
    found: list[tuple[Any, bool, Any, bool]] = []
    for low, low_in, high, high_in in sorted(intervals, key=lambda piece: (piece[0], not piece[1])):
        if found and (low < found[-1][2] or (low == found[-1][2] and (low_in or found[-1][3]))):
            last = found[-1]
            end, end_in = max((last[2], last[3]), (high, high_in))
            found[-1] = (last[0], last[1], end, end_in)
        else:
            found.append((low, low_in, high, high_in))
    return tuple(found)


def _end(text: str) -> Any:
    """Return a constant in the one type of numbers that can be ordered."""
    value = constant(text)
    return None if value is None else formula.inexact(value)


def constant(text: str) -> Any:
    """Return the real value of a formula without symbols; None for other texts."""
    try:
        read = formula.read(text)
        value = None if read.symbols else formula.value(read)
    except formula.Unreadable:
        return None
    return value if value is None or isinstance(value, Fraction) else formula.mpmath.re(value) if formula.is_real(value) else None


KINDS: tuple[Callable[[str], Any], ...] = (clock, date, range_, ratio, based)


def same(gold: Any, other: Any) -> bool | None:
    """Compare two readings of a kind here. None if they are of different kinds."""
    match gold, other:
        case Clock(), Clock():
            return gold.seconds % 43200 == other.seconds % 43200 if not gold.half else gold == other
        case Date(), Date():
            return all(a in (0, b) for a, b in zip(gold, other, strict=True))
        case Ratio(), Ratio():
            if len(gold.terms) != len(other.terms) or (gold.clock and other.clock and gold != other):
                return False
            first = [formula.inexact(ratio.terms[0]) for ratio in (gold, other)]
            return any(first) and all(formula.close(a * first[1], b * first[0]) for a, b in zip(gold.terms, other.terms, strict=True))
        case Based(), Based():
            return gold == other
        case Region(), Region():
            if gold.variable and other.variable and gold.variable != other.variable:
                return False
            return len(gold.intervals) == len(other.intervals) and all(
                a[1] == b[1] and a[3] == b[3] and formula.close(a[0], b[0]) and formula.close(a[2], b[2])
                for a, b in zip(gold.intervals, other.intervals, strict=True)
            )
        case _:
            return None

r"""Read sets of numbers on the line: intervals, their unions, and inequalities in one variable.

`[-2,7]`, `-2 \le x \le 7`, `x \in (-\infty,1)\cup(2,\infty)`, `x < 1 or x > 2`, `\mathbb{R} \setminus \{0\}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import mpmath

from lensrl.tasks.answers import formula
from lensrl.tasks.answers.parts import bracketed, split
from lensrl.tasks.answers.values import Unreadable, close, inexact, is_real

Interval = tuple[Any, bool, Any, bool]  # low, is low in it, high, is high in it
Intervals = tuple[Interval, ...]


class Region(NamedTuple):
    """A union of intervals (low, low is in it, high, high is in it), and the variable if one is named."""

    intervals: Intervals
    variable: str = ""


def region(text: str) -> Region | None:
    r"""Read intervals, unions and inequalities in one variable: `(-\infty, 3)`, `x < 3`, `x \in [1,2] \cup \{5\}`."""
    text = text.strip()
    if said := _SAID.fullmatch(text):
        found = region(said["condition"])
        return found if found and found.variable in ("", said["variable"] or found.variable) else None
    if excepted := _EXCEPT.fullmatch(text):
        return region(rf"\reals \setminus \{{{excepted['points'].replace(' and ', ',')}\}}")
    if builder := re.fullmatch(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\reals\s*)?[|:](.*)\\\}", text):
        found = region(builder[2])
        return found if found and found.variable in ("", builder[1]) else None
    if member := re.fullmatch(r"(?:\\forall\s*)?([A-Za-z])\s*\\in(?![A-Za-z])\s*(.*)", text):
        found = region(member[2])
        return found and found._replace(variable=member[1])
    if text.lower() in (r"\reals", "all real numbers", "all reals", "all real number"):
        return Region(((-_INFINITY, False, _INFINITY, False),))
    if _NONE.fullmatch(text) or text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Region(())
    return _inequalities(text) or _union(text)


# All real numbers x such that -2 < x; integers are another set.
_ALL = (
    r"(?:for |the set of )*(?:all|any|every)(?: the)?(?: real)?(?: numbers?| values?| reals?)?(?: of)?"
    r"(?: (?P<variable>[A-Za-z]))?(?: \\in \\reals)?"
)
_SAID = re.compile(
    rf"{_ALL},? (?:with|such that|so that|satisfying|that satisfy|for which|where) (?P<condition>.*)", re.IGNORECASE
)
_EXCEPT = re.compile(
    r"all(?: real)?(?: numbers?| values?| reals?)(?: of)?(?: [A-Za-z])?,? (?:except(?: for)?|but|other than) "
    r"(?:[A-Za-z] ?= ?)?(?P<points>[^A-Za-z=]*(?: and [^A-Za-z=]*)?)",
    re.IGNORECASE,
)
_ONE = r"(?:the|this) (?:equation|inequality|system(?: of equations)?|problem)"
_NONE = re.compile(
    rf"(?:(?:therefore|thus|hence|so),? )?(?:that )?(?:{_ONE} has |there (?:is|are|exists?) )?"
    rf"no(?: real)? solutions?(?: exists?| (?:to|of|for) {_ONE})?|(?:the )?(?:empty|null) set",
    re.IGNORECASE,
)
PIECES = 60  # of a union, or points left out of a set
_INFINITY = mpmath.inf
_ABSOLUTE = re.compile(r"\|\s*([A-Za-z])\s*(?:([-+])\s*([^|]+?))?\s*\|")
_RELATIONS = {
    "<": (-1, False),
    ">": (1, False),
    r"\le": (-1, True),
    r"\ge": (1, True),
    "=": (0, True),
    r"\ne": (2, False),
}


def _union(text: str) -> Region | None:
    without = split(text, r"\setminus", r"\backslash")
    if len(without) == 2 and (points := bracketed(without[1])) and points.kind == "{" and (whole := region(without[0])):
        places = [_end(item) for item in points.items[: PIECES + 1]]
        if None in places or len(places) > PIECES:
            return None
        pieces = whole.intervals
        for place in places:
            pieces = tuple(piece for interval in pieces for piece in _without(interval, place))
        return Region(_merged(pieces))
    found: list[Interval] = []
    sides = split(text, r"\cup", "U")
    if len(sides) > PIECES:
        return None
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


def _without(interval: Interval, place: Any) -> list[Interval]:
    low, low_in, high, high_in = interval
    return [(low, low_in, place, False), (place, False, high, high_in)] if low < place < high else [interval]


def _inequalities(text: str) -> Region | None:
    """Read inequalities joined by `or` (one holds), `and` (both hold) or a comma (both, unless none can)."""
    for word, joined in (("or", _either_one), ("and", _common), (",", _common_or_either)):
        sides = split(text, word)
        if len(sides) < 2:
            continue
        if len(sides) > PIECES:
            return None
        found = [_inequalities(side) for side in sides if side]
        kept = [side for side in found if side]
        if not kept or len(kept) < len(found) or len({side.variable for side in kept}) > 1:
            return None
        intervals = kept[0].intervals
        for side in kept[1:]:
            intervals = joined(intervals, side.intervals)
        return Region(intervals, kept[0].variable)
    return _inequality(text)


def _inequality(text: str) -> Region | None:
    signs = [token for token in re.findall(r"\\(?:le|ge|ne)(?![A-Za-z])|[<>=]", text) if token in _RELATIONS]
    sides = split(text, *_RELATIONS)
    if (
        not signs
        or len(sides) != len(signs) + 1
        or len(sides) > 3
        or (len(signs) > 1 and not set(signs) <= {"<", ">", r"\le", r"\ge"})
    ):
        return None
    if len(sides) == 2 and (distance := _ABSOLUTE.fullmatch(sides[0]) or _ABSOLUTE.fullmatch(sides[1])):
        return _around(distance, sides, signs[0])
    name = r"[A-Za-z]|\\[a-z]+" + ("" if "=" in signs else r"|[a-z] ?\( ?[a-z] ?\)")  # also 1 < f(x)
    names = [i for i, side in enumerate(sides) if re.fullmatch(name, side) and _end(side) is None]
    ends = [_end(side) for i, side in enumerate(sides) if i not in names]
    if len(names) != 1 or None in ends or (len(sides) == 3 and names != [1]) or set(signs) == {"="}:
        return (
            Region(((ends[0], True, ends[0], True),), sides[0])
            if len(sides) == 2 and names == [0] and ends[0] is not None
            else None
        )
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


def _around(distance: re.Match[str], sides: list[str], sign: str) -> Region | None:
    """Read `|x - a| < r`, or the sides the other way round."""
    first = _ABSOLUTE.fullmatch(sides[0]) is not None
    radius, centre = _end(sides[1 if first else 0]), _end(distance[3] or "0")
    direction, closed = _RELATIONS[sign]
    if radius is None or centre is None or direction not in (-1, 1) or radius < 0:
        return None
    centre = -centre if distance[2] == "+" else centre
    low, high = centre - radius, centre + radius
    if (direction < 0) == first:
        return Region(((low, closed, high, closed),) if radius or closed else (), distance[1])
    pieces = ((-_INFINITY, False, low, closed), (high, closed, _INFINITY, False))
    return Region(_merged(pieces), distance[1])


def _common(first: Intervals, second: Intervals) -> Intervals:
    found = []
    for a in first:
        for b in second:
            low, low_out = max((a[0], not a[1]), (b[0], not b[1]))
            high, high_in = min((a[2], a[3]), (b[2], b[3]))
            if low < high or (low == high and not low_out and high_in):
                found.append((low, not low_out, high, high_in))
    return _merged(found)


def _either_one(first: Intervals, second: Intervals) -> Intervals:
    return _merged([*first, *second])


def _common_or_either(first: Intervals, second: Intervals) -> Intervals:
    return _common(first, second) or _either_one(first, second)


def _merged(intervals: Iterable[Interval]) -> Intervals:
    """Sort intervals and join those that touch."""
    found: list[Interval] = []
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
    return None if value is None else inexact(value)


def constant(text: str) -> Any:
    """Return the real value of a formula without symbols; None for other texts."""
    try:
        read = formula.read(text)
        value = None if read.symbols else formula.value(read)
    except Unreadable:
        return None
    return value if value is None or isinstance(value, Fraction) else mpmath.re(value) if is_real(value) else None


def same_regions(gold: Region, other: Region) -> bool:
    """Return whether two sets are equal, and their variables where both are named."""
    if gold.variable and other.variable and gold.variable != other.variable:
        return False
    return len(gold.intervals) == len(other.intervals) and all(
        a[1] == b[1] and a[3] == b[3] and close(a[0], b[0]) and close(a[2], b[2])
        for a, b in zip(gold.intervals, other.intervals, strict=True)
    )

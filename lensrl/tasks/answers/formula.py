r"""Read a whole formula, in LaTeX or plain text, and compare two formulas by their values.

A formula is read completely or not at all: `4\sqrt(2)` is 4 times a root, and `3 \clubsuit 5` is `Unreadable`. Numbers
are exact fractions while they can be, and else have 50 digits. Two formulas are equal if they have the same values at
four fixed points: two positive ones, one of mixed signs and a negative one (Schwartz 1980, Zippel 1979: different
polynomials rarely agree at an arbitrary point). Where a value is not real, positive points alone count.

Everything is bounded: the length of a formula, the size of an exact number, the arguments of slow functions. So a
hostile formula costs milliseconds, and `9^{9^{9^9}}` is `Unreadable`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import mpmath

from lensrl.tasks.answers.syntax import WORD, Parser
from lensrl.tasks.answers.values import Node, Unreadable, Value, close, evaluate, inexact, is_real

LENGTH = 600  # characters of a formula


class Formula(NamedTuple):
    """A formula: its tree, its symbols, and the place of the last digit if it is a decimal (`0.25`: 1/100)."""

    tree: Node
    symbols: frozenset[str]
    last_digit: Fraction | None = None


def read(text: str) -> Formula:
    """Return the formula that is all of `text`. Raises Unreadable."""
    if len(text) > LENGTH or WORD.fullmatch(text) or re.fullmatch(r"\d+(?:-\d+){2,}", text):  # 30-60-90
        raise Unreadable(text[:20])
    try:
        parser = Parser(text)
        tree = parser.sum()
    except (RecursionError, ValueError) as error:
        raise Unreadable(text[:20]) from error
    if parser.kind:
        raise Unreadable(text[:20])
    return Formula(tree, frozenset(parser.symbols), _last_digit(text))


def same(gold: Formula, other: Formula) -> bool:
    """Return whether two formulas have the same values. A decimal may be a rounding to 6 digits of the other."""
    found = False
    for point in points(gold.symbols | other.symbols):
        try:
            a, b = value(gold, point), value(other, point)
        except Unreadable:
            if not point:
                return False
            continue  # outside the domain
        if any(x < 0 for x in point.values()) and not (is_real(a) and is_real(b)):
            continue  # roots and logarithms: which of the complex values is meant depends on the form
        if not (close(a, b) or (not point and rounded(gold, other, a, b))):
            return False
        found = True
    return found


def value(formula: Formula, point: dict[str, Fraction] | None = None) -> Value:
    """Return the value of a formula at a point. Raises Unreadable for what is undefined, or too large to compute."""
    try:
        result = evaluate(formula.tree, point or {})
    except (ArithmeticError, ValueError, TypeError, RecursionError, KeyError) as error:
        raise Unreadable from error
    if isinstance(result, Fraction) or mpmath.isinf(result):
        return result
    if mpmath.isnan(result):
        raise Unreadable
    return result


def points(symbols: Iterable[str]) -> list[dict[str, Fraction]]:
    """Return the points at which formulas in these symbols are compared."""
    names = sorted(symbols)
    if not names:
        return [{}]
    draw = random.Random(0)
    found = [{name: Fraction(draw.randrange(1200, 2900), 997) for name in names} for _ in range(4)]
    mixed = ({name: x * (-1) ** (i + 1) for i, (name, x) in enumerate(at.items())} for at in found[2:3])
    negative = ({name: -x for name, x in at.items()} for at in found[3:])
    return [*found[:2], *mixed, *negative]


def rounded(gold: Formula, other: Formula, a: Value, b: Value, *, digits: int = 6) -> bool:
    """Return whether one of two constants is a decimal of at least `digits` digits, and the other's rounding or cut."""
    if not (is_real(a) and is_real(b)) or not a or not b or mpmath.isinf(a) or mpmath.isinf(b):
        return False
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = mpmath.re(inexact(a)), mpmath.re(inexact(b))
    if digits > 5 and 200_000 * abs(a - b) > abs(a):
        return False
    for formula, own in ((gold, a), (other, b)):
        if (place := formula.last_digit) is not None:
            unit = place if isinstance(a, Fraction) else inexact(place)
            if abs(a - b) < unit and (place <= Fraction(1, 10**digits) or abs(own) >= unit * 10 ** (digits - 1)):
                return True
    return False


def natural(formula: Formula) -> Formula:
    r"""Return the formula with `\log` without a base read as the natural logarithm."""
    return formula._replace(tree=_natural(formula.tree))


def _natural(tree: Node) -> Node:
    if tree[:2] == ("call", "log"):
        return ("call", "ln", _natural(tree[2]))
    return tuple(_natural(part) if isinstance(part, tuple) else part for part in tree)


def renamed(formula: Formula, old: str, new: str) -> Formula:
    """Return the formula with another name for one of its symbols."""
    return formula._replace(tree=_renamed(formula.tree, old, new), symbols=formula.symbols - {old} | {new})


def _renamed(tree: Node, old: str, new: str) -> Node:
    if tree == ("symbol", old):
        return ("symbol", new)
    return tuple(_renamed(part, old, new) if isinstance(part, tuple) else part for part in tree)


def has(formula: Formula, function: str) -> bool:
    """Return whether a formula calls a function."""
    return _has(formula.tree, function)


def _has(tree: Node, function: str) -> bool:
    return tree[:2] == ("call", function) or any(_has(part, function) for part in tree if isinstance(part, tuple))


def has_pi(formula: Formula) -> bool:
    r"""Return whether a formula holds \pi."""
    return _holds(formula.tree, ("pi",))


def _holds(tree: Node, node: Node) -> bool:
    return tree == node or any(_holds(part, node) for part in tree if isinstance(part, tuple))


def _last_digit(text: str) -> Fraction | None:
    match = re.fullmatch(
        r"\s*[-+]?\s*(?:[\d,]*)\.(\d+)\s*(?:e([-+]?\d{1,4})|(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*([-+]?\d{1,4})\s*\}?)?\s*",
        text,
    )
    return Fraction(10) ** (int(match[2] or match[3] or 0) - len(match[1])) if match else None

"""Compute the value of the tree of a formula: exact fractions while they can be, else 50 digits.

The size of an exact number and the arguments of slow functions are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, isqrt
from typing import Any

import mpmath
from mpmath import mp

BITS = 60_000  # of an exact number; 3000! has 30,000
EXPONENT = 10**9  # of two, of a number of 50 digits
EQUAL = mpmath.mpf(10) ** -30  # relative
mp.dps = 50

Value = Any  # Fraction, or a number of mpmath
Node = tuple[Any, ...]


class Unreadable(Exception):
    """The text is no formula, or the formula has no value that can be computed."""


FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "sec": mpmath.sec, "csc": mpmath.csc, "cot": mpmath.cot,
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
    "tanh": mpmath.tanh, "cis": mpmath.expj, "ln": mpmath.log, "log": mpmath.log10, "lg": mpmath.log10,
    "exp": mpmath.exp, "abs": abs,
}  # fmt: skip


def close(gold: Value, other: Value) -> bool:
    """Return whether two values are equal: exactly for fractions, else to 30 digits; absolutely where the gold is 0."""
    if isinstance(gold, Fraction) and isinstance(other, Fraction):
        return gold == other
    a, b = inexact(gold), inexact(other)
    if mpmath.isinf(a) or mpmath.isinf(b):
        return bool(a == b)
    return bool(abs(a - b) <= EQUAL * (abs(a) if a else 1))


def evaluate(tree: Node, point: dict[str, Fraction]) -> Value:
    """Return the value of a tree at a point. Raises Unreadable and what arithmetic raises."""
    name, *parts = tree
    if name == "number":
        return parts[0]
    if name == "symbol":
        return point[parts[0]]
    if name in ("pi", "e", "i", "infinity"):
        return {"pi": mp.pi + 0, "e": mp.e + 0, "i": mp.j, "infinity": mp.inf}[name]
    if name == "call":
        return _call(parts[0], evaluate(parts[1], point))
    values = [evaluate(part, point) for part in parts]
    return _OPERATIONS[name](*values)


def _add(a: Value, b: Value) -> Value:
    return _bounded(a + b) if isinstance(a, Fraction) and isinstance(b, Fraction) else inexact(a) + inexact(b)


def _multiply(a: Value, b: Value) -> Value:
    return _bounded(a * b) if isinstance(a, Fraction) and isinstance(b, Fraction) else inexact(a) * inexact(b)


def _divide(a: Value, b: Value) -> Value:
    return _bounded(a / b) if isinstance(a, Fraction) and isinstance(b, Fraction) else inexact(a) / inexact(b)


def _power(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction) and b.denominator == 1:
        size = max(a.numerator.bit_length(), a.denominator.bit_length())
        if abs(b) * size <= BITS or a in (0, 1, -1):
            return a**b.numerator if a not in (1, -1) else a ** (b.numerator % 2)
    if a == 0:
        return Fraction(0) if mpmath.re(inexact(b)) > 0 else _undefined()
    a, b = inexact(a), inexact(b)
    if mpmath.isinf(a) or mpmath.isinf(b) or abs(b * mpmath.log(abs(a), 2)) > EXPONENT:
        raise Unreadable
    return mpmath.power(a, b)


def _root(a: Value, degree: Value) -> Value:
    if degree == 2 and isinstance(a, Fraction) and a >= 0:
        exact = Fraction(isqrt(a.numerator), isqrt(a.denominator))
        return exact if exact * exact == a else mpmath.sqrt(inexact(a))
    if is_real(a) and a < 0 and isinstance(degree, Fraction) and degree.denominator == 1 and degree % 2:
        return -_power(-a, 1 / degree)
    return _power(a, 1 / degree if isinstance(degree, Fraction) else 1 / inexact(degree))


@lru_cache(maxsize=64)
def _exact_factorial(n: int) -> Fraction:
    return Fraction(factorial(n))


def _factorial(a: Value) -> Value:
    if isinstance(a, Fraction) and a.denominator == 1 and 0 <= a <= 3000:
        return _exact_factorial(a.numerator)
    if not is_real(a) or abs(inexact(a)) > 10**6:
        raise Unreadable
    return mpmath.gamma(inexact(a) + 1)


def _binomial(n: Value, k: Value) -> Value:
    if (
        isinstance(n, Fraction)
        and isinstance(k, Fraction)
        and n.denominator == k.denominator == 1
        and 0 <= k <= n <= 3000
    ):
        return Fraction(comb(n.numerator, k.numerator))
    if not (is_real(n) and is_real(k)) or max(abs(inexact(n)), abs(inexact(k))) > 10**6:
        raise Unreadable
    return mpmath.binomial(inexact(n), inexact(k))


def _floor(a: Value) -> Value:
    if not is_real(a) or abs(inexact(a)) > 10**40:
        raise Unreadable
    return Fraction(a.numerator // a.denominator if isinstance(a, Fraction) else int(mpmath.floor(a)))


def _call(name: str, a: Value) -> Value:
    if name == "abs":
        return abs(a)
    if a == 0 and name in ("sin", "tan", "arcsin", "arctan", "sinh", "tanh"):
        return Fraction(0)
    if name not in ("ln", "log", "lg") and abs(inexact(a)) > 10**6:
        raise Unreadable  # a sine of a huge number needs all of its digits
    if a == 0 and name in ("ln", "log", "lg"):
        raise Unreadable
    return FUNCTIONS[name](inexact(a))


def _undefined() -> Value:
    raise Unreadable


def _bounded(a: Fraction) -> Value:
    return a if max(a.numerator.bit_length(), a.denominator.bit_length()) <= BITS else inexact(a)


def inexact(a: Value) -> Value:
    """Return a value as a number of mpmath."""
    return mpmath.mpf(a.numerator) / a.denominator if isinstance(a, Fraction) else a


def is_real(a: Value) -> bool:
    """Return whether a value is real, to 30 digits."""
    return isinstance(a, Fraction) or abs(mpmath.im(a)) <= EQUAL * abs(a)


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": _add, "mul": _multiply, "div": _divide, "pow": _power, "root": _root, "factorial": _factorial,
    "binomial": _binomial, "floor": _floor, "negative floor of negative": lambda a: -_floor(-a),
}  # fmt: skip

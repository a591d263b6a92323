r"""Read a whole formula, in LaTeX or plain text, and compare two formulas by their values.

A formula is read completely or not at all: `4\sqrt(2)` is 4 times a root, and `3 \clubsuit 5` is `Unreadable`. Numbers are
exact fractions while they can be, and else have 50 digits. Two formulas are equal if they have the same symbols and the
same values at fixed points, two of them positive and one of mixed signs (Schwartz 1980, Zippel 1979: different
polynomials rarely agree at an arbitrary point).

Everything is bounded: the length of a formula, the size of an exact number, the arguments of slow functions. So a
hostile formula costs milliseconds, and `9^{9^{9^9}}` is `Unreadable`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from math import comb, factorial, isqrt
from typing import Any, NamedTuple

import mpmath
from mpmath import mp

LENGTH = 600  # characters of a formula
BITS = 60_000  # of an exact number; 3000! has 30,000
EXPONENT = 10**9  # of two, of a number of 50 digits
EQUAL = mpmath.mpf(10) ** -30  # relative
mp.dps = 50

Value = Any  # Fraction, or a number of mpmath
Node = tuple[Any, ...]


class Unreadable(Exception):
    """The text is no formula that this module knows."""


class Formula(NamedTuple):
    """A formula: its tree, its symbols, and the place of the last digit if it is a decimal (`0.25`: 1/100)."""

    tree: Node
    symbols: frozenset[str]
    last_digit: Fraction | None = None


_NUMBER = r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+"
_REPEATING = r"\d*\.\d*\\overline\s*(?:\{\s*\d+\s*\}|\d)"
_FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "sec": mpmath.sec, "csc": mpmath.csc, "cot": mpmath.cot,
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
    "tanh": mpmath.tanh, "ln": mpmath.log, "log": mpmath.log10, "lg": mpmath.log10, "exp": mpmath.exp, "abs": abs,
}  # fmt: skip
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_NAMED = "|".join(sorted(("sqrt", "pi", *_FUNCTIONS), key=len, reverse=True))
_TOKEN = re.compile(
    rf"\s*(?:(?P<repeating>{_REPEATING})|(?P<number>(?:{_NUMBER})(?:[eE][+-]?\d+(?![\w.]))?)|(?P<command>\\(?:[A-Za-z]+|.))"
    rf"|(?P<function>(?:{_NAMED})(?=[a-z]?(?![A-Za-z])))|(?P<letters>[^\W\d_]+)|(?P<sign>\*\*|\S))"
)
# A text of letters alone is a word if it has a vowel or capitals: `no` is not `on`, `CD` is not `DC`, but `xy` is `yx`.
_WORD = re.compile(rf"(?!(?:{_NAMED})$)(?:[A-Za-z]*[AEIOUaeiou][A-Za-z]+|[A-Za-z]+[AEIOUaeiou]|[A-Za-z]+[A-Z]|[A-Z][A-Za-z]+)")
_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega Gamma "
    "Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
_STARTS = {"repeating", "number", "function", "letters"}
_START_COMMANDS = _GREEK | {"frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", "sum", "int", *_FUNCTIONS}


def read(text: str) -> Formula:
    """Return the formula that is all of `text`. Raises Unreadable."""
    if len(text) > LENGTH or _WORD.fullmatch(text):
        raise Unreadable(text[:20])
    try:
        parser = _Parser(text)
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
        result = _value(formula.tree, point or {})
    except (ArithmeticError, ValueError, TypeError, RecursionError, KeyError, mpmath.libmp.NoConvergence) as error:
        raise Unreadable from error
    if isinstance(result, Fraction) or mpmath.isinf(result):
        return result
    if mpmath.isnan(result):
        raise Unreadable
    return result


def points(symbols: Iterable[str]) -> list[dict[str, Fraction]]:
    """Return the points at which formulas in these symbols are compared: two positive ones, and one of mixed signs."""
    names = sorted(symbols)
    if not names:
        return [{}]
    draw = random.Random(0)
    found = [{name: Fraction(draw.randrange(1200, 2900), 997) for name in names} for _ in range(4)]
    mixed = ({name: x * (-1) ** (i + 1) for i, (name, x) in enumerate(at.items())} for at in found[2:3])
    negative = ({name: -x for name, x in at.items()} for at in found[3:])
    return [*found[:2], *mixed, *negative]


def close(gold: Value, other: Value) -> bool:
    """Return whether two values are equal: exactly for fractions, else to 30 digits; absolutely where the gold is 0."""
    if isinstance(gold, Fraction) and isinstance(other, Fraction):
        return gold == other
    a, b = inexact(gold), inexact(other)
    if mpmath.isinf(a) or mpmath.isinf(b):
        return bool(a == b)
    return bool(abs(a - b) <= EQUAL * (abs(a) if a else 1))


def rounded(gold: Formula, other: Formula, a: Value, b: Value, *, digits: int = 6) -> bool:
    """Return whether one of two constants is a decimal of at least `digits` digits, and the other's rounding or cut."""
    if not (is_real(a) and is_real(b)) or not a or not b or mpmath.isinf(a) or mpmath.isinf(b):
        return False
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        a, b = mpmath.re(inexact(a)), mpmath.re(inexact(b))
    if digits > 5 and abs(a - b) > 5e-6 * abs(a):
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


def has(formula: Formula, function: str) -> bool:
    """Return whether a formula calls a function."""
    return _has(formula.tree, function)


def _has(tree: Node, function: str) -> bool:
    return tree[:2] == ("call", function) or any(_has(part, function) for part in tree if isinstance(part, tuple))


def _last_digit(text: str) -> Fraction | None:
    match = re.fullmatch(
        r"\s*[-+]?\s*(?:[\d,]*)\.(\d+)\s*(?:e([-+]?\d{1,4})|(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*([-+]?\d{1,4})\s*\}?)?\s*",
        text,
    )
    return Fraction(10) ** (int(match[2] or match[3] or 0) - len(match[1])) if match else None


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of every token. Up to three letters are symbols, one by one; more are a word."""
    word_end = None
    for match in _TOKEN.finditer(text):
        kind, token = str(match.lastgroup), match[0].strip()
        start = match.end() - len(token)
        if word_end is not None and start > word_end and kind in ("letters", "number", "function"):
            raise Unreadable(token)  # prose: letters, a space and something else
        word_end = match.end() if kind == "letters" and len(token) > 1 else None
        if kind != "letters":
            yield kind, token
        elif token.lower() in ("infinity", "infty"):
            yield "command", r"\infty"
        elif len(token) > 3:
            raise Unreadable(token)
        else:
            yield from ((kind, letter) for letter in token)


class _Parser:
    """A recursive descent: sum, product, sign, power, postfix, atom. `kind` and `text` are the next token's."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = -1
        self.bars = 0
        self.symbols: set[str] = set()
        self.next()

    def next(self) -> str:
        """Step to the next token and return the text of the one left behind."""
        left = self.text if self.at >= 0 else ""
        self.at += 1
        self.kind, self.text = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        return left

    def take(self, *texts: str) -> bool:
        """Step over the next token if it is one of these."""
        if self.text in texts and self.kind:
            self.next()
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            raise Unreadable(self.text)

    def sum(self) -> Node:
        tree = self.product()
        while self.text in ("+", "-"):
            sign = self.next()
            term = self.product()
            tree = ("add", tree, term if sign == "+" else ("mul", ("number", Fraction(-1)), term))
        return tree

    def product(self) -> Node:
        tree, last = self.signed(), self.tokens[self.at - 1][0]
        while True:
            if self.take("*", r"\cdot", r"\times"):
                tree = ("mul", tree, self.signed())
            elif self.take("/", r"\div"):
                tree = ("div", tree, self.signed())
            elif self.starts():
                if self.kind in ("number", "repeating") and last in ("number", "repeating"):
                    raise Unreadable(self.text)  # 1 8
                tree = ("mul", tree, self.power())
            else:
                return tree
            last = self.tokens[self.at - 1][0]

    def signed(self) -> Node:
        if self.take("-"):
            return ("mul", ("number", Fraction(-1)), self.signed())
        return self.signed() if self.take("+") else self.power()

    def power(self) -> Node:
        tree = self.postfix()
        if not self.take("^", "**"):
            return tree
        return ("pow", tree, self.exponent())

    def exponent(self) -> Node:
        return ("mul", ("number", Fraction(-1)), self.exponent()) if self.take("-") else self.power()

    def postfix(self) -> Node:
        tree = self.atom()
        while True:
            if self.take("!"):
                tree = ("factorial", tree)
            elif self.take(r"\%", "%"):
                tree = ("div", tree, ("number", Fraction(100)))
            elif self.take(r"\degree"):
                tree = ("div", ("mul", tree, ("pi",)), ("number", Fraction(180)))
            else:
                return tree

    def starts(self) -> bool:
        """Return whether the next token begins a factor that needs no sign of multiplication."""
        if self.text == "|":
            return not self.bars
        if self.kind == "command":
            return self.text[1:] in _START_COMMANDS
        return self.kind in _STARTS or self.text in ("(", "{")

    def atom(self) -> Node:
        kind, text = self.kind, self.next()
        if kind == "number":
            return self.mixed(_number(text))
        if kind == "repeating":
            return ("number", _repeating(text))
        if text in ("(", "{"):
            bars, self.bars = self.bars, 0
            tree = self.sum()
            self.need(")" if text == "(" else "}")
            self.bars = bars
            return tree
        if text == "|":
            self.bars += 1
            tree = self.sum()
            self.need("|")
            self.bars -= 1
            return ("call", "abs", tree)
        if kind == "letters":
            return self.symbol(text)
        if kind in ("command", "function"):
            return self.named(text.removeprefix("\\"))
        raise Unreadable(text)

    def mixed(self, whole: Fraction) -> Node:
        r"""Read `3\frac12`, `3 1/2`: a whole number and a fraction below 1 after it."""
        start = self.at
        if self.text == r"\frac" and whole.denominator == 1:
            part = self.atom()
        elif self.kind == "number":
            over, sign, under = ((*self.tokens[self.at : self.at + 3], ("", ""), ("", ""))[i] for i in range(3))
            if sign[1] != "/" or under[0] != "number" or whole.denominator != 1:
                raise Unreadable(self.text)
            part = ("div", ("number", _number(over[1])), ("number", _number(under[1])))
            self.at += 2
            self.next()
        else:
            return ("number", whole)
        match part:
            case ("div", ("number", Fraction() as over), ("number", Fraction() as under)) if 0 < over < under:
                if over.denominator == under.denominator == 1:
                    return ("add", ("number", whole), part)
        self.at = start - 1
        self.next()
        if self.kind == "number":
            raise Unreadable(self.text)
        return ("number", whole)

    def symbol(self, name: str) -> Node:
        """Read a symbol with its subscript, primes and, for a function such as f, its argument as text."""
        if self.take("_"):
            name += "_" + self.verbatim()
        while self.take("'"):
            name += "'"
        if name[0] in "fghFGHP" and self.text == "(":
            name += self.verbatim()
        return self.constant(name)

    def constant(self, name: str) -> Node:
        if name in ("e", "i"):
            return (name,)
        self.symbols.add(name)
        return ("symbol", name)

    def verbatim(self) -> str:
        """Step over a group or a token and return its text."""
        closing = {"{": "}", "(": ")"}.get(self.text)
        if closing is None:
            if not self.kind:
                raise Unreadable
            return self.next()
        opening, depth, text = self.next(), 1, ""
        while depth:
            if not self.kind:
                raise Unreadable
            depth += (self.text == opening) - (self.text == closing)
            text += self.next() if depth else ""
        self.next()
        return text if opening == "{" else f"({text})"

    def named(self, name: str) -> Node:
        if name == "frac":
            return ("div", self.argument(), self.argument())
        if name == "binom":
            return ("binomial", self.argument(), self.argument())
        if name == "sqrt":
            degree: Node = ("number", Fraction(2))
            if self.take("["):
                degree = self.sum()
                self.need("]")
            return ("root", self.whole_argument(), degree)
        if name in ("pi", "infty"):
            return ("pi",) if name == "pi" else ("infinity",)
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.need("\\r" + name[1:])
            return ("floor", tree) if name == "lfloor" else ("negative floor of negative", tree)
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _GREEK:
            return self.symbol(name)
        raise Unreadable(name)

    def function(self, name: str) -> Node:
        base = power = None
        for _ in range(2):
            if name == "log" and self.take("_"):
                base = self.argument()
            elif self.take("^"):
                power = self.exponent() if self.text == "-" else self.argument()
        if power == ("mul", ("number", Fraction(-1)), ("number", Fraction(1))) and name in _INVERSE:
            name, power = _INVERSE[name], None
        if self.text in ("(", "{", "|"):
            argument = self.postfix()
        else:
            argument = self.signed()
            while self.starts() and self.kind != "function" and self.text[1:] not in _FUNCTIONS:
                argument = ("mul", argument, self.power())
        tree: Node = ("call", name, argument)
        if base is not None:
            tree = ("div", ("call", "ln", argument), ("call", "ln", base))
        return tree if power is None else ("pow", tree, power)

    def argument(self) -> Node:
        r"""Read an argument as TeX does: a group, or one digit, letter or command. `\frac12` is a half."""
        if self.kind == "number" and len(self.text) > 1 and self.text.isdigit():
            digit, rest = self.text[0], self.text[1:]
            self.tokens[self.at : self.at + 1] = [("number", digit), ("number", rest)]
            self.text = digit
            self.next()
            return ("number", Fraction(int(digit)))
        return self.whole_argument()

    def whole_argument(self) -> Node:
        if self.kind == "number":
            return ("number", _number(self.next()))
        if self.text in ("-", "+", "/", "*", "^"):
            raise Unreadable(self.text)
        return self.atom()


def _number(text: str) -> Fraction:
    if "e" in text.lower() and abs(int(re.split("[eE]", text)[1])) > 4000:
        raise Unreadable(text)
    return Fraction(text.replace(",", "").replace("E", "e").rstrip(".").replace(".e", "e"))


def _repeating(text: str) -> Fraction:
    before, cycle = text.split(r"\overline")
    digits, cycle = before.split(".")[1], re.sub(r"\D", "", cycle)
    unit = Fraction(1, 10 ** len(digits))
    return Fraction(f"0{before}0") + unit * Fraction(int(cycle), 10 ** len(cycle) - 1)


def _value(tree: Node, point: dict[str, Fraction]) -> Value:
    """Compute a tree."""
    name, *parts = tree
    if name == "number":
        return parts[0]
    if name == "symbol":
        return point[parts[0]]
    if name in ("pi", "e", "i", "infinity"):
        return {"pi": mp.pi + 0, "e": mp.e + 0, "i": mp.j, "infinity": mp.inf}[name]
    if name == "call":
        return _call(parts[0], _value(parts[1], point))
    values = [_value(part, point) for part in parts]
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


def _factorial(a: Value) -> Value:
    if isinstance(a, Fraction) and a.denominator == 1 and 0 <= a <= 3000:
        return Fraction(factorial(a.numerator))
    if not is_real(a) or abs(inexact(a)) > 10**6:
        raise Unreadable
    return mpmath.gamma(inexact(a) + 1)


def _binomial(n: Value, k: Value) -> Value:
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1 and 0 <= k <= n <= 3000:
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
    return _FUNCTIONS[name](inexact(a))


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

r"""Parse a formula, in LaTeX or plain text, into a tree of nested tuples.

("add", a, b)  ("mul", a, b)  ("div", a, b)  ("pow", a, b)  ("root", a, degree)  ("factorial", a)  ("binomial", n, k)
("call", "sin", a)  ("number", Fraction)  ("symbol", "x_1")  ("pi",)  ("e",)  ("i",)  ("infinity",)  ("floor", a)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from lensrl.tasks.answers.values import FUNCTIONS, Node, Unreadable

_NUMBER = r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+"
_REPEATING = (  # 0.1\overline{6}, 0.1666\ldots
    r"\d*\.\d*\\overline\s*(?:\{\s*\d+\s*\}|\d)"
    r"|\d*\.\d{0,12}?(?:(?P<digit>\d)(?P=digit){2,}|(?P<cycle>\d{2,6})(?P=cycle)+)\s*\\ldots(?![A-Za-z])"
)
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_NAMED = "|".join(sorted(("sqrt", "pi", *FUNCTIONS), key=len, reverse=True))
_TOKEN = re.compile(
    rf"\s*(?:(?P<repeating>{_REPEATING})|(?P<number>(?:{_NUMBER})(?:[eE][+-]?\d+(?![\w.]))?)"
    rf"|(?P<command>\\(?:[A-Za-z]+|.))|(?P<function>(?:{_NAMED})(?=[a-z]?(?![A-Za-z])))"
    r"|(?P<letters>[^\W\d_]+)|(?P<sign>\*\*|\S))"
)
# A text of letters alone is a word if it has a vowel or capitals: `no` is not `on`, `CD` is not `DC`, but `xy` is `yx`.
WORD = re.compile(
    rf"(?!(?:{_NAMED})$)(?:[A-Za-z]*[AEIOUaeiou][A-Za-z]+|[A-Za-z]+[AEIOUaeiou]|[A-Za-z]+[A-Z]|[A-Z][A-Za-z]+)"
)
_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar"
)
_GREEK = frozenset(_LETTERS.split())
_STARTS = {"repeating", "number", "function", "letters"}
_START_COMMANDS = _GREEK | {"frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", "sum", "int", *FUNCTIONS}


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


class Parser:
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
        if name in FUNCTIONS:
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
            while self.starts() and self.kind != "function" and self.text[1:] not in FUNCTIONS:
                argument = ("mul", argument, self.power())
        tree: Node = ("call", name, argument)
        if base is not None:
            tree = ("div", ("call", "log", argument), ("call", "log", base))
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
    if dots := re.fullmatch(r"(\d*\.\d*?)(?:(\d)\2{2,}|(\d{2,6})\3+)\s*\\ldots", text):
        text = rf"{dots[1]}\overline{dots[2] or dots[3]}"
    before, cycle = text.split(r"\overline")
    digits, cycle = before.split(".")[1], re.sub(r"\D", "", cycle)
    unit = Fraction(1, 10 ** len(digits))
    return Fraction(f"0{before}0") + unit * Fraction(int(cycle), 10 ** len(cycle) - 1)

r"""Take an answer apart: at `,`, `;`, `and`, `or` outside brackets, at its brackets, at its `=` and its `\pm`."""

from __future__ import annotations

import re
from typing import NamedTuple

_OPEN, _CLOSE = (
    ("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"),
    (")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"),
)
_PIECE = re.compile(
    r"\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[A-Za-z]+|\\.|\b(?:and|or)\b|&"
    r"|\d{1,3}(?:,\d{3})+(?![\d,]\d)(?!\d)|[A-Za-z]+|\d+|.",
    re.DOTALL,
)
_SEQUENCE = re.compile(r"(?:\\?\$?\s*[\d.,/]+\s*(?:[A-Za-z]{2,}|h|m|s|g|l)\.?(?:\s+|$)){2,}")
_MATRIX = re.compile(
    r"(?P<factor>(?:(?!\\begin)[^=,&])*?)(?:\\cdot|\\times|\*)?\s*[(\[]?\s*"
    r"\\begin\s*\{(?P<kind>[pbBvV]?)(?:small)?(?:matrix|array)\}(?:\s*\{[lcr| ]*\})?(?P<cells>(?:(?!\\begin).)*)"
    r"\\end\s*\{[pbBvV]?(?:small)?(?:matrix|array)\}\s*[)\]]?",
    re.DOTALL,
)
_SYSTEM = re.compile(r"\\begin\s*\{(?:cases|aligned|align\*?|gathered)\}(.*)\\end\s*\{[a-z]+\*?\}", re.DOTALL)
_SIGNED = re.compile(r"\\([pm])[pm](?![A-Za-z])")
_NAME = re.compile(
    r"(?:[A-Za-z]|[A-Z]{2,3}|sum|ans|max|min|gcd|lcm|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|Delta|sigma|rho|tau))"
    r"(?:\s*_\s*(?:\{[^{}]*\}|\w))?'*(?:\s*\^\s*\{?\s*-\s*1\s*\}?)?(?:\s*\((?:[^()=]|\([^()=]*\))*\))?"
    r"|m?\s*\\(?:angle|triangle|overline|widehat|measuredangle)\s*\{?[A-Z ]{1,6}\}?|\|\s*[A-Z]{2}\s*\|"
    r"|\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)"
    r"|\(\s*[a-z]\s*\\circ\s*[a-z]\s*\)\s*\(\s*\w+\s*\)|\\frac\s*\{\s*[A-Z]{2}\s*\}\s*\{\s*[A-Z]{2}\s*\}"
    r"|[A-Za-z]{4,}(?:\s+[A-Za-z]+){0,6}|[A-Za-z]+(?:\s+[A-Za-z]{2,}){1,6}"
    r"|\\(?:lim|int|iint|oint|sum|prod|det|max|min|gcd|lcm|Pr|deg|dim)(?![A-Za-z]).*"
    r"|\\frac\s*\{\s*d\s*[a-z]?\s*\}\s*\{\s*d\s*[a-z]\s*\}(?:\s*[a-z])?"
)


class Bracketed(NamedTuple):
    """The items between brackets. `kind` is `(`, `[`, `{`, `[)`, `(]`, or column, row, matrix."""

    kind: str
    items: tuple[str, ...]


def pieces(text: str) -> list[tuple[str, int]]:
    """Return the tokens of a text with their depth in brackets. A bracket has the depth outside it."""
    found: list[tuple[str, int]] = []
    depth = 0
    for match in _PIECE.finditer(text):
        token = match[0]
        if token in _CLOSE or token.startswith(r"\end"):
            depth -= 1
        found.append((token, depth))
        if token in _OPEN or token.startswith(r"\begin"):
            depth += 1
    return found


def split(text: str, *signs: str) -> list[str]:
    """Split a text at signs outside brackets."""
    if not any(sign in text for sign in signs):
        return [text.strip()]
    found = [""]
    for token, depth in pieces(text):
        if depth == 0 and token in signs:
            found.append("")
        else:
            found[-1] += token
    return [part.strip() for part in found]


def split_answer(text: str) -> list[str]:
    r"""Return the parts of an answer. `1,000` is one part, `1, 000` two; `4 dimes 3 nickels` two; `\pm 2` two."""
    text = re.sub(r"\s+by\s+(?=\\?\$?\d)", ", ", re.sub(r"^(?:both|either)\s+", "", text))  # 5 ft by 8 ft
    if system := _SYSTEM.fullmatch(text):
        text = system[1].replace("\\\\", ", ").replace("&", " ")
    if _SEQUENCE.fullmatch(text) and not re.search(r"\b(?:and|or)\b|,\s", text):
        text = re.sub(r"(?<=[A-Za-z.])\s+(?=\\?\$?\d)", ", ", text)
    found = [part for part in split(text, ",", ";", "and", "or", "&") if part]
    return [spelled for part in found for spelled in _plus_minus(part)]


def _plus_minus(part: str) -> list[str]:
    r"""Return a part with each sign of its `\pm`."""
    if r"\pm" not in part and r"\mp" not in part:
        return [part]
    return [
        _SIGNED.sub(lambda sign, signs=signs: signs[sign[1]], part)
        for signs in ({"p": "+", "m": "-"}, {"p": "-", "m": "+"})
    ]


def bracketed(text: str) -> Bracketed | None:
    """Return the items of a text that is one pair of brackets, or a matrix. None for another text, or for `(5)`."""
    text, transposed = re.subn(r"(?<=[)\]}])\s*\^\s*\{?\s*(?:T|\\top|\\intercal)\s*\}?$", "", text.strip())
    if matrix := _MATRIX.fullmatch(text):
        found = None if matrix["kind"] in ("v", "V") else _matrix(matrix["cells"], _factor(matrix["factor"]))
        turned = {"row": "column", "column": "row"}
        return found._replace(kind=turned.get(found.kind, found.kind)) if found and transposed else found
    if vector := re.fullmatch(r"<([^<>]*,[^<>]*)>", text):
        text = f"({vector[1]})"
    tokens = pieces(text)
    if len(tokens) < 2 or tokens[0][0] not in _OPEN or any(depth == 0 for _, depth in tokens[1:-1]) or tokens[-1][1]:
        return None
    first, last = tokens[0][0], tokens[-1][0]
    inside = text[len(first) : len(text) - len(last)].strip()
    if (first, last) == (r"\langle", r"\rangle"):
        first, last = "(", ")"
    kind = {"()": "(", "[]": "[", r"\{\}": "{", "[)": "[)", "(]": "(]", "{}": "{"}.get(first + last)
    items = _items(inside)
    if items == (r"\emptyset",):
        return None  # a set that holds the empty set is not empty
    if kind is None or (len(items) < 2 and kind == "(") or (kind == "{" and first == "{" and len(items) < 2):
        return None
    if kind == "[" and len(items) > 1 and all((row := bracketed(item)) and row.kind in "([" for item in items):
        return Bracketed("matrix", tuple(f"({item[1:-1]})" for item in items))
    if kind == "[" and len(items) > 2:  # no interval
        kind = "("
    return Bracketed(kind, items)


_LOOSE = [{"(", "{"}, {"(", "column"}, {"(", "row"}, {"(", "matrix"}, {"{", "column"}, {"[", "column"}, {"[", "row"}]


def interchangeable(gold: str, answer: str) -> bool:
    """Return whether brackets may stand for each other: a column for a tuple, braces or none for round ones."""
    return gold == answer or {gold, answer} in _LOOSE


def _items(inside: str) -> tuple[str, ...]:
    """Split at every comma. `1,000` is a number only if other commas have spaces after them."""
    if not re.search(r",\s", inside):
        inside = re.sub(r"(?<=\d),(?=\d)", ", ", inside)
    return tuple(item for part in split(inside, ",", ";") if part for item in _plus_minus(part))


def _factor(text: str) -> str:
    """Return the number before a matrix: empty for none, `-1` for a sign."""
    text = text.strip()
    return f"{text}1" if text in ("-", "+") else text


def _matrix(inside: str, factor: str) -> Bracketed:
    r"""Return the cells of a matrix, each times the factor before it: `\frac{1}{7} \begin{pmatrix}...`."""
    rows = [
        [f"({factor}) \\cdot ({cell.strip()})" if factor else cell.strip() for cell in row.split("&")]
        for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", inside)
        if row.strip()
    ]
    if all(len(row) == 1 for row in rows):
        return Bracketed("column", tuple(row[0] for row in rows))
    if len(rows) == 1:
        return Bracketed("row", tuple(rows[0]))
    return Bracketed("matrix", tuple(f"({', '.join(row)})" for row in rows))


class Part(NamedTuple):
    """A part of an answer: its name (`x` of `x = 5`), its values, and the sides of an equation that is no value."""

    text: str
    name: str | None
    values: tuple[str, ...]
    sides: tuple[str, ...] = ()


def part(text: str) -> Part:
    r"""Read `x = 5` as the value 5 of x, and `9 + 9 = 18` as values. `\approx` separates values, too."""
    text = re.sub(r"^\s*(?:\\approx|=|\\therefore|\\Rightarrow|\\implies)(?![A-Za-z])\s*", "", text)
    text = re.sub(r"^([A-Za-z]{2,}(?: [A-Za-z]+)*)\s*:\s*", r"\1 = ", text)  # width: 5
    if member := re.fullmatch(r"([A-Za-z])\s*\\in(?![A-Za-z])\s*(\\\{.*\\\})", text):
        return Part(text, member[1], (member[2],))
    sides = tuple(side for side in split(text, "=", r"\approx") if side)
    if len(sides) < 2 or any(token in ("<", ">", r"\le", r"\ge", r"\ne", r"\in") for token, _ in pieces(text)):
        return Part(text, None, (text,))
    values = sides
    while len(values) > 1 and _NAME.fullmatch(values[0]):
        values = values[1:]
    if len(values) == len(sides) == 2 and _NAME.fullmatch(sides[1]):  # 5 = x
        return Part(text, sides[1], sides[:1], sides)
    name = (
        sides[0]
        if len(values) < len(sides) and re.fullmatch(r"\\?[A-Za-z]+(?:\s*_\s*\{?\s*\w+\s*\}?)?", sides[0])
        else None
    )
    return Part(text, name, values, sides if len(sides) == 2 else ())

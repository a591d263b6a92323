r"""Write numbers in words in digits: `twenty-one` is `21`, `one hundred and five` `105`, `two thirds` `2/3`.

A word alone may be no number. `one` is one only at the beginning, or after a few words such as `is`. Ordinals (`twenty
third`) stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_UNDER_HUNDRED = {word: i for i, word in enumerate(_ONES.split())}
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_UNDER_HUNDRED |= {word: 10 * i for i, word in enumerate(_TENS, 2)}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBERS = _UNDER_HUNDRED.keys() | SCALES.keys() | {"hundred"}
_ORDINALS = ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth")
_DENOMINATORS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
_DENOMINATORS |= {f"{word}{s}": i for i, word in enumerate(_ORDINALS, 3) for s in ("", "s")}
_DENOMINATORS |= {f"{word}{s}": n for word, n in (("hundredth", 100), ("thousandth", 1000)) for s in ("", "s")}
_NO_FRACTION = {*_ORDINALS, "first", "second"}
_BEFORE_ONE = {"is", "are", "and", "or", "exactly", "only", "just", "to", "be", "equals", "answer", "base", "negative"}
_AFTER_PRONOUN = frozenset(
    ("must", "can", "may", "should", "could", "would", "might", "will", "needs", "has", "of", "who", "which", "that")
)
_WORD = re.compile(r"(?<![\w\\])[A-Za-z]+(?![\w'])")


class _Number(NamedTuple):
    """A number in digits, and the place after its last word."""

    digits: str
    end: int


def in_digits(text: str, *, lone_one: bool = True) -> str:
    """Return a text with its numbers in words written in digits. `lone_one` says whether `one` alone is a number."""
    words = list(_WORD.finditer(text))
    if not any(word[0].lower() in _NUMBERS or word[0].lower() == "half" for word in words):
        return text
    names = [word[0].lower() for word in words]
    # What stands between a word and the one before it; a number goes on over a space or a hyphen.
    gaps = ["", *(text[a.end() : b.start()] for a, b in pairwise(words))]
    joined = [gap in (" ", "-") for gap in gaps]
    kept, at, i = [], 0, 0
    while i < len(words):
        found = _number(names, joined, i)
        begins = not text[: words[i].start()].strip(" (${") or re.search(r"[=:,;]\s*$", text[: words[i].start()])
        if found is None or (
            names[i : found.end] == ["one"]
            and (
                not lone_one
                or (i + 1 < len(words) and names[i + 1] in _AFTER_PRONOUN)
                or not (begins or (joined[i] and names[i - 1] in _BEFORE_ONE))
            )
        ):
            i = max(i + 1, found.end if found else 0)
            continue
        kept += [text[at : words[i].start()], found.digits]
        at, i = words[found.end - 1].end(), found.end
    return "".join(kept) + text[at:]


def _number(names: list[str], joined: list[bool], at: int) -> _Number | None:
    """Read a number that begins at a word: whole, a fraction, a mixed number or a decimal."""

    def word(i: int) -> str:
        return names[i] if i < len(names) and (i == at or joined[i]) else ""

    if word(at) == "half" and word(at + 1) in ("a", "an"):  # half an hour
        return _Number("1/2", at + 2)
    if word(at) == "a" and word(at + 1) == "half":
        return _Number("1/2", at + 2)
    whole = _whole(word, at)
    if whole is None:
        return None
    value, end = whole
    if word(end) in _NO_FRACTION and value != 1 and (value % 10 == 0 or value > 20):
        return None  # twenty third
    if word(end) == "point":
        digits = ""
        while (digit := _UNDER_HUNDRED.get(word(end + 1 + len(digits)), 10)) < 10:
            digits += str(digit)
        return _Number(f"{value}.{digits}", end + 1 + len(digits)) if digits else _Number(str(value), end)
    if under := _denominator(word(end), value):
        return _Number(f"{value}/{under}", end + 1)
    if word(end) == "and":
        over, after = (1, end + 2) if word(end + 1) == "a" else _whole(word, end + 1) or (0, end)
        if over and (under := _denominator(word(after), over)) and over < under:
            return _Number(f"{value} {over}/{under}", after + 1)
    return _Number(str(value), end)


def _denominator(word: str, over: int) -> int | None:
    """Return 3 for `third` after 1, and for `thirds` after other numbers."""
    return _DENOMINATORS.get(word) if word.endswith("s") == (over != 1) else None


def _whole(word: Callable[[int], str], at: int) -> tuple[int, int] | None:
    """Read a whole number: its value, and the place after its last word."""
    total, group, scale, i = 0, -1, 10**15, at
    if word(at) in ("a", "an") and (word(at + 1) == "hundred" or word(at + 1) in SCALES):
        group, i = 1, at + 1
    while name := word(i):
        before = word(i - 1) if i > at else ""
        if name in _UNDER_HUNDRED:
            one = _UNDER_HUNDRED[name]
            if group < 0 or (group >= 100 and group % 100 == 0):
                group = one + max(group, 0)
            elif _UNDER_HUNDRED.get(before, 0) >= 20 and 0 < one < 10:
                group += one
            else:
                break
        elif name == "hundred" and 0 < group < 100:
            group *= 100
        elif name in SCALES and group > 0 and SCALES[name] < scale:
            scale = SCALES[name]
            total, group = total + group * scale, -1
        elif name == "and" and (before == "hundred" or before in SCALES) and word(i + 1) in _UNDER_HUNDRED:
            # `one hundred and five` is a number, `one hundred and two hundred` are two.
            larger = ("hundred",) if before == "hundred" else ("hundred", *SCALES)
            if word(i + 2) in larger or word(i + 3) in larger:
                break
        else:
            break
        i += 1
    if group < 0 and not total:
        return None
    return total + max(group, 0), i

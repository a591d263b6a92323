"""Whether a completion's final answer equals the gold one: where the answer stands, and math-verify's judgement of it.

The answer of a text is what is in its last `\\boxed{}` or after its last `####`, whichever comes later. A text with
neither is read by math-verify, which looks for "answer" and else takes the last formula or number; only points, sets
and intervals after "answer is", which it would take for their last number, are found here.

Two answers are equal when they are the same string, apart from spaces, case and `\\text{}`, or when math-verify finds
them equal as mathematics (floats to 6 decimals). An answer in words, and one that math-verify cannot read, is
compared as a string alone. As math-verify has it, units do not count (5 cm is 5 m), a percentage is both its number
and its share (50 % is 50 and is 0.5), `x = 5` is 5, and an ordered pair is also an open interval.

Not understood: repeating decimals (`0.\\overline{3}` is read as 0), bases (`24_7` is 24) and `3.5 million`.

Nothing here bounds time or memory, and a completion is hostile text: call it through `lensrl.tasks.judge`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from lensrl.tasks.marks import final_answer

_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_NO_PROSE = re.compile(rf"{_TEXT.pattern}|\\(?:begin|end)\{{[a-z*]+\}}")
_WORDS = re.compile(r"[^\W\d_][^\W\d_]+(?:[ ,.'-]+[^\W\d_]+)*\.?")
_STATED = re.compile(r"answer(?:\s+is)?\s*:?\s*", re.IGNORECASE)
_LISTED = re.compile(r"\$?(?:\\left)?\\?[({\[](?=[^)}\]]*,)(?:[^()\[\]]|\([^()]*\))*?[)}\]]")
_POWER = r"(?:\^\{?\d\}?|[²³])?"
_MEASURE = rf"(?:[munckM]?[mgL]|ml|l|s|h|hr|min|in|ft|yd|mi|lb|oz){_POWER}"
_UNIT = re.compile(rf"(?<=\d)\s+{_MEASURE}(?:/{_MEASURE})?\s*$")  # in letters: words and \\text{{}} math-verify knows
_REWRITES = (
    (re.compile(r"\\?[$€£₹]"), ""),
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\[, ]|~|[ \u00a0\u2009\u202f])(?=\d{3}(?!\d))"), ""),  # 1{,}000 and 1 000
    (re.compile(r"^\s*(-?\d+) +(\d+)/(\d+)\s*$"), r"\1\\frac{\2}{\3}"),  # 3 1/2
    (re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|log|exp)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"(?<=\d)\s*(?:percent|pct)\b"), r"\\%"),
    (re.compile(r"(?<=\d)e([+-]?\d+)\b"), r"\\times10^{\1}"),  # as JSON writes 0.00001
    (re.compile(r"(?<=\d)\s+(?!thousand|million|billion)[A-Za-z]{3,}[A-Za-z .]*$"), ""),  # 18 dollars
)


def same_answer(gold: str, completion: str) -> bool:
    """Whether a completion's answer equals the gold answer, as a string or by math-verify."""
    answer, tail = final_answer(completion), _STATED.split(completion)[-1]
    plain = _plain(gold)
    if plain == _plain(re.split(r"\.\s|\n", tail.strip())[0] if answer is None else answer):
        return True
    if _WORDS.fullmatch(_TEXT.sub(r"\1", gold).strip()):
        return False  # math-verify would multiply letters: `no` is `on`
    if answer is None and (listed := _LISTED.match(tail)):
        answer = listed[0]
    read = _parse(completion) if answer is None else _read(answer)
    if verify(_read_gold(gold), read, timeout_seconds=None):
        return True
    bare_gold, bare = (_UNIT.sub("", text) for text in (gold, answer or ""))  # only now: 5 m^2 may be algebra
    if (bare_gold, bare) == (gold, answer or ""):
        return False
    return bool(verify(_read_gold(bare_gold), read if answer is None else _read(bare), timeout_seconds=None))


def _plain(answer: str) -> str:
    """An answer as a string to compare: without `\\text{}`, dollars, full stop, case and spaces beside signs."""
    bare = re.sub(r"\\[,!; ]|\\?\$|\\left|\\right", "", _TEXT.sub(r"\1", answer))
    return re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", bare.strip().strip("*").removesuffix(".")).casefold()


def _read(answer: str) -> list[Any]:
    """An answer as math-verify reads it: as LaTeX, or as prose where there are words in it."""
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    if _WORD.search(_NO_PROSE.sub("", answer)):
        return _parse(answer)
    return _parse(f"${answer}$") or _parse(answer)


@lru_cache(maxsize=2**16)
def _read_gold(gold: str) -> list[Any]:
    return _read(gold)


def _parse(text: str) -> list[Any]:
    return parse(text, parsing_timeout=None)  # pyright: ignore[reportArgumentType]

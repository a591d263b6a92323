"""Compare the final answer of a completion with the gold answer: find it in the text, and let math-verify judge it.

The answer of a text is the content of its last `\\boxed{}` or the text after its last `####`, whichever comes later.
math-verify reads a text with neither: it looks for "answer", and else takes the last formula or number. Only points,
sets and intervals after "answer is" are found here, because math-verify would take their last number.

Two answers are equal if they are the same string, apart from spaces, case and `\\text{}`, or if math-verify finds them
mathematically equal (floats to 6 decimals). An answer in words, or an answer that math-verify cannot read, is compared
only as a string. math-verify sets these rules: units do not count (5 cm is 5 m); a percentage equals both its number
and its share (50 % is 50 and is 0.5); `x = 5` is 5; an ordered pair is also an open interval.

Not understood: repeating decimals (`0.\\overline{3}` is read as 0), bases (`24_7` is 24) and `3.5 million`.

Nothing here limits time or memory, and a completion is hostile text: call this module through `lensrl.tasks.judge`.
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
# Units written as letters. math-verify itself knows units in words and in \text{}.
_UNIT = re.compile(rf"(?<=\d)\s+{_MEASURE}(?:/{_MEASURE})?\s*$")
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
    """Return whether the answer of a completion equals the gold answer, as a string or by math-verify."""
    # First as strings: the marked answer, or the sentence after "answer is".
    answer, tail = final_answer(completion), _STATED.split(completion)[-1]
    plain = _normalised(gold)
    if plain == _normalised(re.split(r"\.\s|\n", tail.strip())[0] if answer is None else answer):
        return True
    if _WORDS.fullmatch(_TEXT.sub(r"\1", gold).strip()):
        return False  # math-verify would multiply the letters of a word: `no` would equal `on`
    if answer is None and (listed := _LISTED.match(tail)):
        answer = listed[0]
    # Then as mathematics.
    read = _parse(completion) if answer is None else _read(answer)
    if verify(_read_gold(gold), read, timeout_seconds=None):
        return True
    # Then without units. Not earlier, because 5 m^2 may be algebra.
    bare_gold, bare = (_UNIT.sub("", text) for text in (gold, answer or ""))
    if (bare_gold, bare) == (gold, answer or ""):
        return False
    return bool(verify(_read_gold(bare_gold), read if answer is None else _read(bare), timeout_seconds=None))


def _normalised(answer: str) -> str:
    """Normalise an answer for string comparison: no `\\text{}`, dollars, full stop, case, or spaces beside signs."""
    bare = re.sub(r"\\[,!; ]|\\?\$|\\left|\\right", "", _TEXT.sub(r"\1", answer))
    return re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", bare.strip().strip("*").removesuffix(".")).casefold()


def _read(answer: str) -> list[Any]:
    """Read an answer with math-verify: as LaTeX, or as prose if it contains words."""
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

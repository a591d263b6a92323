r"""Compare the answer of a completion with the gold answer. ANSWERS.md lists what counts as the same, with examples.

1. `find`: which part of the completion is the answer.
2. `spelling`: one spelling of signs, fonts, colours and spaces.
3. `parts`: split at `,`, `;`, `and`, `or` outside brackets. Parts are compared as a set, or in order if the gold has
   brackets, dots, or a different name or unit for each part.
4. `kinds`, `units`: times, dates, ratios, ranges, bases, options and sets of numbers are read as what they are.
5. `formula`: all of a formula is read, and two formulas are compared by their values.

What cannot be read completely is compared as text, never by a part of it. Everything is bounded, so a hostile
completion costs milliseconds. Nevertheless it is hostile text: call this module through `lensrl.tasks.judge`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from lensrl.tasks.answers import kinds
from lensrl.tasks.answers.compare import readable, same
from lensrl.tasks.answers.find import answers_in, names_in
from lensrl.tasks.answers.spelling import unmarked
from lensrl.tasks.marks import final_answer

_PLAIN = re.compile(r"\s*-?(?:\d{1,3}(?:,\d{3})+|\d{1,30})(?:\.\d{1,30})?\s*")


def same_answer(gold: str, completion: str) -> bool:
    """Return whether the answer of a completion equals the gold answer, which may be a solution with a box."""
    wanted = _gold(gold)
    names = kinds.names_like(wanted)
    for answer in (names and names_in(completion, names)) or answers_in(completion):
        if _PLAIN.fullmatch(answer) and _PLAIN.fullmatch(wanted):
            return Fraction(wanted.replace(",", "")) == Fraction(answer.replace(",", ""))
        if same(wanted, answer):
            return True
        if readable(answer):
            return False
    return False


@lru_cache(maxsize=2**14)
def _gold(gold: str) -> str:
    """Return the marked answer of a gold text, or the sentence after "answer is", or all of it."""
    marked = final_answer(gold)
    if marked is not None:
        return marked
    says_so = re.search(r"\banswers?\b\s+(?:is|are)\b", unmarked(gold), re.IGNORECASE)
    return next(iter(answers_in(gold) if says_so else ()), gold.strip())

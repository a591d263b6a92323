r"""Compare sequences with dots, `1, 3, 5, \ldots, 2n-1`: their first and last terms, and their steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lensrl.tasks.answers import formula
from lensrl.tasks.answers.values import Unreadable

DOTS = r"\ldots"


def same_sequence(gold: Sequence[str], answer: Sequence[str]) -> bool:
    r"""Return whether both are one arithmetic sequence: `1, 2, \ldots, n` is `1, 2, 3, \ldots, n-1, n`.

    Of other sequences, `1, 2, 4, \ldots, 2^n`, two terms do not tell the third. They need the same terms.
    """
    first, second = _ends(gold), _ends(answer)
    if first is None or second is None or (first[2] is None) != (second[2] is None):
        return False
    return all(a is None or b is None or formula.same(a, b) for a, b in zip(first, second, strict=True))


def _ends(terms: Sequence[str]) -> tuple[formula.Formula, formula.Formula, formula.Formula | None] | None:
    """Return first term, step and last term (None if it goes on) of an arithmetic sequence; None for another text."""
    if terms.count(DOTS) != 1 or terms.index(DOTS) < 2:
        return None
    at = terms.index(DOTS)
    try:
        runs = [[formula.read(term) for term in run] for run in (terms[:at], terms[at + 1 :])]
        steps = [
            formula.read(f"({later}) - ({earlier})")
            for run in (terms[:at], terms[at + 1 :])
            for earlier, later in pairwise(run)
        ]
    except Unreadable:
        return None
    if not all(formula.same(steps[0], step) for step in steps[1:]):
        return None
    return runs[0][0], steps[0], runs[1][-1] if runs[1] else None

"""Answers that have several accepted forms, or a tolerance, as OlympiadBench's answers do (He et al. 2024, 2402.14008).

`lensrl.tasks.answers` compares each form. Call this module through `lensrl.tasks.judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lensrl.tasks.answers import same_answer
from lensrl.tasks.answers.find import answers_in
from lensrl.tasks.answers.parts import part, split_answer
from lensrl.tasks.answers.regions import constant
from lensrl.tasks.answers.spelling import cleaned
from lensrl.tasks.answers.values import inexact


def right_answer(forms: Sequence[str], completion: str, error: float | None = None) -> bool:
    """Return whether a completion's answer equals one of the accepted forms.

    With `error`, numbers may differ by so much: |found - form| <= error. A form of several numbers needs as many
    numbers, in any order.
    """
    if any(same_answer(form, completion) for form in forms):
        return True
    if error is None:
        return False
    found = next((numbers for answer in answers_in(completion) if (numbers := _numbers(answer))), None)
    return any(_within(_numbers(form), found, error) for form in forms)


def spelled_answer(completion: str) -> str | None:
    """Return the answer of a completion without marks of LaTeX and spacing, in lower case; None without one."""
    found = answers_in(completion)
    return "".join(cleaned(found[0]).split()).lower() or None if found else None


def _within(wanted: list[Any] | None, found: list[Any] | None, error: float) -> bool:
    if wanted is None or found is None or len(wanted) != len(found):
        return False
    slack = 1e-9 * (1 + error)  # 0.3 is within 0.1 of 0.2, whatever binary fractions say
    return all(abs(a - b) <= error + slack for a, b in zip(sorted(wanted), sorted(found), strict=True))


def _numbers(text: str) -> list[Any] | None:
    """Return the numbers of an answer: its parts between commas or `and`. None if a part is no number."""
    values = [constant(part(each).values[-1]) for each in split_answer(cleaned(text))]
    numbers = [inexact(value) for value in values if value is not None]
    return numbers if numbers and len(numbers) == len(values) else None

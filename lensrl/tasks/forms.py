"""Answers that have several accepted forms, or a tolerance, as OlympiadBench's answers do (He et al. 2024, 2402.14008).

`lensrl.tasks.answers` compares each form. Call this module through `lensrl.tasks.judge`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from math_verify import parse

from lensrl.tasks.answers import same_answer
from lensrl.tasks.marks import final_answer


def right_answer(forms: Sequence[str], completion: str, error: float | None = None) -> bool:
    """Return whether a completion's answer equals one of the accepted forms.

    With `error`, numbers may differ by so much: |found - form| <= error. A form of several numbers needs as many
    numbers, in any order.
    """
    if any(same_answer(form, completion) for form in forms):
        return True
    if error is None:
        return False
    answer = final_answer(completion)
    found = _numbers(_last(completion)) if answer is None else _numbers(answer)
    return any(_within(_numbers(form), found, error) for form in forms)


def _within(wanted: list[float] | None, found: list[float] | None, error: float) -> bool:
    if wanted is None or found is None or len(wanted) != len(found):
        return False
    slack = 1e-9 * (1 + error)  # 0.3 is within 0.1 of 0.2, whatever binary fractions say
    return all(abs(a - b) <= error + slack for a, b in zip(sorted(wanted), sorted(found), strict=True))


def _numbers(text: str) -> list[float] | None:
    """Return the numbers of an answer: its parts between commas or `and`. None if a part is no number."""
    parts = [part.strip().strip("$").strip() for part in re.split(r",(?!\d{3}\b)\s*|;|\band\b", text)]
    values = [_number(part) for part in parts if part]
    return [value for value in values if value is not None] if values and None not in values else None


def _number(text: str) -> float | None:
    read: list[Any] = parse(f"${text}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    value = getattr(read[0], "rhs", read[0]) if read else None  # x = 5
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):  # a set, a text, a complex number
        return None


def _last(completion: str) -> str:
    """Return what stands after the last "answer is", else the last number."""
    stated = re.split(r"answer(?:\s+is)?\s*:?\s*", completion, flags=re.IGNORECASE)
    if len(stated) > 1:
        return re.split(r"\.\s|\n|\.$", stated[-1].strip())[0]
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?", completion)
    return numbers[-1] if numbers else ""

"""Find the marked final answer of a text: in `\\boxed{}`, or after GSM8K's `####`. It does not compare answers."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_BRACES = re.compile(r"\\[{}]|\\(?:boxed|fbox)\s*\{|[{}]")


def final_answer(text: str) -> str | None:
    """Return the last marked answer of a text, by `\\boxed{}` or GSM8K's `####`; None if nothing is marked."""
    marked = [*_boxed(text), *_after_hashes(text)]
    return max(marked)[1] if marked else None


def gold_answer(solution: str) -> str:
    """Return the answer of a reference solution: its marked answer, or the whole text."""
    marked = final_answer(solution)
    return solution.strip() if marked is None else marked


def _boxed(text: str) -> Iterator[tuple[int, str]]:
    """Yield the content of every closed box, with the place where the box closes."""
    opened: list[int | None] = []  # start of a box's content; None for any other brace
    for brace in _BRACES.finditer(text):
        if brace[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None:
                yield brace.start(), text[begin : brace.start()].strip()
        elif brace[0] not in (r"\{", r"\}"):
            opened.append(None if brace[0] == "{" else brace.end())


def _after_hashes(text: str) -> Iterator[tuple[int, str]]:
    """Yield the text after each `####`, unless it is a heading: words with more text below."""
    for match in _HASHES.finditer(text):
        words = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", match[1]))
        if not words or not text[match.end() :].strip():
            yield match.start(), match[1].strip()

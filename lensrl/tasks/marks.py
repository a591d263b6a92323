r"""Find the marked final answer of a text: in `\boxed{}`, or after GSM8K's `####`. It does not compare answers."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_BRACES = re.compile(r"\\[{}]|\\(?:boxed|fbox)\s*\{|[{}]")
# `\boxed 9`, `\boxed\frac12`, `\boxed C`: a number, a command with its arguments, or a letter
_BARE = re.compile(
    r"\\(?:boxed|fbox)\s*(-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?|-?\\[A-Za-z]+\s*(?:\{[^{}]*\}|\d\d?){0,2}|(?<=\s)[A-Za-z]\b|\([^()]*\))"
)
_BETWEEN = re.compile(r"[\s$.,;]*(?:\\text\s*\{)?\s*(?:,|;|and|or|\\quad)\s*\}?[\s$]*")


def final_answer(text: str) -> str | None:
    r"""Return the last marked answer of a text, by `\boxed{}` or GSM8K's `####`; None if nothing is marked.

    Boxes that only `and`, `or` or a comma separates are one answer: `\boxed{6}` and `\boxed{9}`.
    """
    boxes = sorted([*_boxed(text), *_bare(text)], key=lambda box: box[1])
    hashes = list(_after_hashes(text))
    if hashes and (not boxes or hashes[-1][0] > boxes[-1][1]):
        return hashes[-1][1]
    if not boxes:
        return None
    start, _, answer = boxes.pop()
    while boxes and _BETWEEN.fullmatch(text[boxes[-1][1] + 1 : start]):
        start, _, before = boxes.pop()
        answer = f"{before}, {answer}"
    return answer


def gold_answer(solution: str) -> str:
    """Return the answer of a reference solution: its marked answer, or the whole text."""
    marked = final_answer(solution)
    return solution.strip() if marked is None else marked


def _boxed(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, last character and content of every closed box."""
    opened: list[tuple[int, int] | None] = []  # start of a box and of its content; None for any other brace
    for brace in _BRACES.finditer(text):
        if brace[0] == "}":
            begin = opened.pop() if opened else None
            if begin is not None:
                yield begin[0], brace.start(), text[begin[1] : brace.start()].strip()
        elif brace[0] not in (r"\{", r"\}"):
            opened.append(None if brace[0] == "{" else (brace.start(), brace.end()))


def _bare(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, last character and content of every box without braces."""
    for match in _BARE.finditer(text):
        yield match.start(), match.end() - 1, match[1].rstrip(",").strip()


def _after_hashes(text: str) -> Iterator[tuple[int, str]]:
    """Yield the text after each `####`, unless it is a heading: words with more text below."""
    for match in _HASHES.finditer(text):
        words = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", match[1]))
        if not words or not text[match.end() :].strip():
            yield match.start(), match[1].strip()

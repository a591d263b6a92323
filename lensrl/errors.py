"""Errors meant for a person: one line that says what was given, where, what was expected, and what to type next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class LensrlError(Exception):
    """Bad input or a bad file. The command line prints it as one line and exits with code 2."""


class RecipeError(LensrlError):
    """A recipe that cannot be run as it stands."""


class StoreError(LensrlError):
    """A run file or a study folder that cannot be read or written. `status` is what listings call such a file."""

    status: ClassVar[str] = "damaged"


class Damaged(StoreError):
    """A file whose bytes are not those that were written."""


class Unfinished(StoreError):
    """A file without a seal: its writing did not end, or another program has changed it since."""

    status = "unfinished"


class TooNew(StoreError):
    """A file of a later version of the format than this lensrl knows."""

    status = "too new"


class Taken(StoreError):
    """A file that another process is writing, or has written since this process looked."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'steps'?`, or the list of what is known when nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def reason(error: BaseException) -> str:
    """The first line of an exception's message, or its name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

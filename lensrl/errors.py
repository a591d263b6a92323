"""Errors for a person: one line that names the input, the place, the expected value, and the command to type next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class LensrlError(Exception):
    """Bad input or a bad file. The command line prints it as one line and exits with code 2."""


class RecipeError(LensrlError):
    """A recipe that cannot be run."""


class NoGain(LensrlError):
    """Full RL gained nothing, so its single layers are not made yet. The command line exits with code 1."""


class StoreError(LensrlError):
    """A run file or a study folder that cannot be read or written. Listings show `status` for such a file."""

    status: ClassVar[str] = "damaged"


class Damaged(StoreError):
    """A file whose bytes differ from the bytes that were written."""


class Unfinished(StoreError):
    """A file without a seal: its writing did not end, or another program changed it later."""

    status = "unfinished"


class TooNew(StoreError):
    """A file whose format version is later than the versions that this lensrl reads."""

    status = "too new"


class NotOurs(StoreError):
    """A file of another format, or no HDF5 at all. It is not damaged, and nobody should delete it."""

    status = "not ours"


class Taken(StoreError):
    """A file that another process is writing, or has written since this process looked."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'steps'?`, or `; known: ...` with all known words when no known word is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def reason(error: BaseException) -> str:
    """Return the first line of an exception's message, or the exception's name when it has no message.

    A first line that ends in a colon announces the second, which is returned with it.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()]
    announced = lines[1:2] if lines and lines[0].endswith(":") else []
    return " ".join([*lines[:1], *announced]) if lines else type(error).__name__

"""Progress of long calls: a bar in a terminal and in a notebook, silence in a pipe and in a script's log.

A function that takes long has the argument `on_progress`. Who gives it draws the progress; else a bar is drawn here.
A long call inside a long call draws none of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from lensrl.compare.patching import OnProgress

P = ParamSpec("P")
R = TypeVar("R")

EVERY = 0.5  # seconds between two drawings: a notebook keeps every one in its file
_inside: ContextVar[bool] = ContextVar("inside a long call", default=False)


def with_bar(label: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a function with the argument `on_progress` a bar of its own, for calls that give none."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*arguments: Any, on_progress: OnProgress | None = None, **options: Any) -> R:
            with _shown(label, on_progress) as shown:
                return cast(Callable[..., R], function)(*arguments, on_progress=shown, **options)

        return cast(Callable[P, R], call)

    return decorate


@contextmanager
def _shown(label: str, given: OnProgress | None) -> Iterator[OnProgress]:
    """Yield `given`, or a function that draws a bar for each step; nothing where nobody looks."""
    looked_at = sys.stderr.isatty() or "ipykernel" in sys.modules
    outermost = not _inside.get()
    token = _inside.set(True)
    bars: list[tuple[str, Any]] = []

    def draw(step: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if not bars or bars[0][0] != step:  # one bar at a time: a second one would be a line of its own in a notebook
            for _, bar in bars:
                bar.close()
            bar = tqdm(desc=f"{label}, {step}", total=total, leave=False, mininterval=EVERY, file=sys.stderr)
            bars[:] = [(step, bar)]
        bars[0][1].update(done - bars[0][1].n)

    try:
        yield given or (draw if looked_at and outermost else _silent)
    finally:
        _inside.reset(token)
        for _, bar in bars:
            bar.close()


def _silent(step: str, done: int, total: int) -> None:
    """Draw nothing."""

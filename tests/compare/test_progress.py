"""Bars of long calls: drawn where somebody looks, once, and never into a pipe."""

from __future__ import annotations

import sys

import pytest

from lensrl.compare.patching import OnProgress
from lensrl.compare.progress import with_bar


@with_bar("inner")
def inner(*, on_progress: OnProgress | None = None) -> int:
    assert on_progress is not None
    on_progress("parts", 1, 2)
    return 1


@with_bar("outer")
def outer(*, on_progress: OnProgress | None = None) -> int:
    assert on_progress is not None
    for done in range(3):
        on_progress("layers", done, 3)
    return inner()


def look_on(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(sys.stderr, "isatty", lambda: True)


def test_a_terminal_gets_one_bar_and_a_call_inside_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    assert outer() == 1
    drawn = capsys.readouterr()
    assert "outer, layers" in drawn.err
    assert "inner" not in drawn.err
    assert drawn.out == ""
    inner()
    assert "inner, parts" in capsys.readouterr().err  # alone, it has a bar


def test_there_is_one_bar_at_a_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    look_on(monkeypatch)

    @with_bar("both")
    def both(*, on_progress: OnProgress | None = None) -> None:
        assert on_progress is not None
        for done in range(3):
            for step in ("weights", "activations"):
                on_progress(step, done, 3)

    both()
    drawn = capsys.readouterr().err
    assert "both, weights" in drawn
    assert "both, activations" in drawn
    assert "\n" not in drawn  # the cursor never leaves the line, which a notebook could not follow
    assert "\x1b[A" not in drawn


def test_who_draws_the_progress_gets_it_and_no_bar_is_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_on(monkeypatch)
    seen: list[tuple[str, int, int]] = []
    outer(on_progress=lambda *step: seen.append(step))
    assert seen == [("layers", 0, 3), ("layers", 1, 3), ("layers", 2, 3)]
    assert capsys.readouterr().err == ""


def test_a_pipe_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    outer()
    assert capsys.readouterr().err == ""

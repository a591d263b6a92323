"""Tables in terminals of any width: nothing is cut off."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from lensrl_cli import output
from rich.console import Console

ROWS = [
    {"file": "patches/weights.block.full-rl-into-base.layer-3.h5", "status": "too new", "p": "0.001",
     "where": "has format version 9; this lensrl reads up to 2: upgrade lensrl"},
    {"file": "layer-3.seed-1.h5", "status": "unfinished", "p": "-12345.678",
     "where": "its structure (headers, names, attributes)"},
]  # fmt: skip
COLUMNS = {"file": "left", "status": "left", "p": "right", "where": "left"}


@pytest.mark.parametrize("width", range(40, 180))
def test_no_letter_is_lost_and_no_line_is_longer_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=width, file=io.StringIO())
    monkeypatch.setattr(output, "console", console)
    output.print_table("", COLUMNS, ROWS)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    # the key column is repeated where the rest goes on below, so there may be more of a letter
    wanted, found = (
        Counter("".join(texts).replace(" ", "")) for texts in ([v for row in ROWS for v in row.values()], lines)
    )
    assert not wanted - found

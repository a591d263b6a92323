"""Texts without a task: read from a file, or built in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensrl.errors import RecipeError
from lensrl.tasks.texts import BUILT_IN, Texts


def texts(file: Path | None = None) -> list[str | tuple[str, ...]]:
    return [item.reference for item in Texts(file).items("test")]


def test_the_built_in_texts_are_sentences_sums_and_code() -> None:
    assert texts() == [*BUILT_IN]
    assert len({*BUILT_IN}) == 24
    assert all(text.isascii() and 8 < len(text) < 100 for text in BUILT_IN)
    assert Texts().items("train") == []


def test_a_line_or_a_row_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\ufefffirst\n\nsecond line\n", encoding="utf-8")
    assert texts(tmp_path / "t.txt") == ["first", "second line"]
    rows = [{"text": "a\nb"}, {"text": " "}, {"text": "c", "id": 3}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert texts(tmp_path / "t.jsonl") == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("one.txt", "alone\n", "holds 1 texts: give 2 or more"),
        ("t.csv", "a,b\n", "give a .txt file with a text a line, or a .jsonl file"),
        ("t.jsonl", '{"prompt": "a"}\n', "line 1: none of the keys text; it has prompt"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError, match=complaint):
        texts(tmp_path / name)
    with pytest.raises(RecipeError, match="cannot be read"):
        texts(tmp_path / "nothing.txt")

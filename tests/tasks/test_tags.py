"""The tags that models write around reasoning and answers."""

from __future__ import annotations

import pytest

from lensrl.tasks.tags import last_tagged, without_tags, without_thoughts


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think>b",
        "a</think>b",
        "b<think>a",
        "<THINK>a</THINK>b<think>c",
        "<think>a</think>b<think>c</think>",
        "< thinking >a</ thinking>b",
        "<think><think>a</think>b",
        "a<think>a</think></think>b",
    ],
)
def test_reasoning_is_dropped_however_it_is_closed(text: str) -> None:
    assert without_thoughts(text) == "b"


def test_all_other_text_stays_as_it_is() -> None:
    assert without_thoughts("a <b> c") == "a <b> c"
    assert without_thoughts("<think>a</think>    return b") == "    return b"  # a margin is a part of code


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("no", None),
        ("</answer>", None),
        ("<answer> a</answer><Answer> b</ANSWER>c", " b"),
        ("<answer>a</answer><answer>b", "b"),
        ("<answer>a<answer>b</answer>c</answer>", "b"),
    ],
)
def test_the_last_of_several_tags_counts(text: str, content: str | None) -> None:
    assert last_tagged(text, "answer") == content


def test_tags_without_their_content_are_removed() -> None:
    assert without_tags("a<answer>b</answer>c<action>", "answer") == "abc<action>"

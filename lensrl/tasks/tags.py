"""Read the tags that models write: `<think>`, `<answer>` and `<action>`, in any case. It knows no task."""

from __future__ import annotations

import re
from functools import lru_cache


def without_thoughts(text: str) -> str:
    """Drop reasoning: `<think>...</think>`, the text after a lone `<think>`, the text before a lone `</think>`."""
    kept: list[str] = []
    at, opened = 0, False
    for tag in _tag("think(?:ing)?").finditer(text):
        if not tag[1]:
            kept += [] if opened else [text[at : tag.start()]]
        elif not opened:  # the prompt began it
            kept.clear()
        opened, at = not tag[1], tag.end()
    return "".join(kept if opened else [*kept, text[at:]])


def last_tagged(text: str, name: str) -> str | None:
    """Return the content of the last `<name>`; None without one. Generation often stops before its closing tag."""
    opened = None
    for tag in _tag(name).finditer(text):
        if not tag[1]:
            opened = tag
    if opened is None:
        return None
    closed = _tag(name).search(text, opened.end())
    return text[opened.end() : closed.start() if closed else len(text)]


def without_tags(text: str, name: str) -> str:
    """Return a text without the tags `<name>` and `</name>`, and with all that stands between them."""
    return _tag(name).sub("", text)


@lru_cache
def _tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"<\s*(/?)\s*{name}\s*>", re.IGNORECASE)

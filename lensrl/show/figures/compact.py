"""Shorter SVG of the same drawing: a page holds dozens of figures, and a heat map of 36 layers has 1296 cells.

matplotlib writes six digits after the point, and every cell of a map and every bar of an interval with its own colour
and clipping. Here a coordinate has two digits, a hundredth of a point, and marks of one collection that look alike are
one path.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLLECTION = re.compile(r'(<g id="(?:QuadMesh|LineCollection)_\d+"[^>]*>)(.*?)(</g>)', re.DOTALL)
_CELL = re.compile(r"M (\S+) (\S+) L (\S+) \2 L \3 (\S+) L \1 \4 L \1 \2")  # a rectangle
_MARK = re.compile(r'\s*<path d="([^"]*)"([^>]*)/>')


def compact(svg: str) -> str:
    """Return the SVG with rounded coordinates, without needless spaces and comments, and with alike marks joined."""
    head, end, rest = svg.partition("</desc>")  # the title and the description keep their words
    rest = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = _COLLECTION.sub(lambda found: f"{found[1]}{_joined(found[2])}{found[3]}", rest)
    rest = re.sub(r'(?<= d=")[^"]*', lambda path: _tidy(path[0]), rest)
    rest = re.sub(r"(?<=<)[^>]*", lambda tag: re.sub(r"(?<=[;:]) ", "", _NUMBER.sub(_short, tag[0])), rest)
    return head + end + re.sub(r"\n\s+", "\n", rest)


def _joined(marks: str) -> str:
    """Join the paths that have the same colour and clipping; see-through ones stay apart, for they add up."""
    if "opacity" in marks or _MARK.sub("", marks).strip():
        return marks
    alike: dict[str, list[str]] = {}
    for path, look in _MARK.findall(marks):
        alike.setdefault(look, []).append(_CELL.sub(r"M\1 \2H\3V\4H\1z", _tidy(path)))
    return "".join(f'\n<path d="{"".join(paths)}"{look}/>' for look, paths in alike.items()) + "\n"


def _tidy(path: str) -> str:
    return " ".join(_NUMBER.sub(_short, path).split())


def _short(number: re.Match[str]) -> str:
    return f"{round(float(number[0]), 2) + 0.0:g}"

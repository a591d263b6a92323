"""The walls of the house: imports run one way, from the top floor down."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import circles, floors, imports, room, rooms

FLOORS = (
    {"errors"},
    {"measures", "recipe"},
    {"tasks", "store"},
    {"models"},
    {"train", "compare"},
    {"judge"},
    {"show"},
    {"__init__"},
    {"cli", "analyses"},
)
FILES = imports()


def test_no_files_import_each_other() -> None:
    assert circles(FILES) == []


def test_the_house_has_few_rooms_on_few_floors() -> None:
    """`lensrl/__init__.py` names what it hands on; analyses and the command line stand above it."""
    levels = floors(rooms(FILES))
    assert levels.keys() == set.union(*FLOORS)
    assert max(levels.values()) < 10
    assert len([name for name in levels if name not in ("cli", "analyses")]) <= 14


def test_imports_between_rooms_only_run_down() -> None:
    height = {name: level for level, names in enumerate(FLOORS) for name in names}
    upward = [
        f"{module} -> {other}"
        for module, named in FILES.items()
        for other in named
        if room(other) != room(module) and height[room(other)] >= height[room(module)]
    ]
    assert upward == []


@pytest.mark.parametrize(
    ("wing", "walls"),
    [
        ("store", {"models", "tasks", "train"}),  # a file knows no model
        ("measures", {"store", "recipe", "models"}),  # a measure knows no file
        ("compare", {"train"}),
        ("train", {"compare"}),
        ("recipe", {"measures", "store"}),
    ],
)
def test_walls(wing: str, walls: set[str]) -> None:
    assert not rooms(FILES)[wing] & walls


def test_measures_load_neither_torch_nor_h5py() -> None:
    from tests.house import modules

    heavy = ("torch", "h5py", "transformers")
    for module, path in modules().items():
        if room(module) == "measures":
            text = path.read_text(encoding="utf-8")
            assert not [name for name in heavy if f"import {name}" in text or f"from {name}" in text], module


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_no_import_is_overlooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative imports, the front door, and modules that are imported by a string."""
    files = {
        "lensrl/__init__.py": "",
        "lensrl/a.py": "from . import b",
        "lensrl/b.py": "from .room import c",
        "lensrl/room/__init__.py": "from ..a import x",
        "lensrl/room/c.py": "import lensrl\nfrom importlib import import_module\nimport_module('lensrl.room.d')",
        "lensrl/room/d.py": "def f():\n    from ..b import y",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("tests.house.ROOT", tmp_path)
    monkeypatch.setattr("tests.house.OUTSIDE", {})
    assert imports() == {
        "lensrl": set(),
        "lensrl.a": {"lensrl.b"},
        "lensrl.b": {"lensrl.room.c"},
        "lensrl.room": {"lensrl.a"},
        "lensrl.room.c": {"lensrl", "lensrl.room.d"},
        "lensrl.room.d": {"lensrl.b"},
    }

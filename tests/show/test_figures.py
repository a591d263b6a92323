"""Every figure: its texts lie on the canvas and apart, its file appears whole, and fonts and titles are kept in it."""

import errno
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from lensrl.errors import LensrlError
from lensrl.show.figures.style import save_figure, svg
from lensrl.show.words import Look
from tests.show.drawn import DEPTHS, KINDS, drawn_texts, figure

WIDTHS = [None, 3.25]  # inches: as wide as the layers need, and a column


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("layers", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_lies_on_the_canvas_and_apart_from_the_others(kind: str, layers: int, width: float | None) -> None:
    drawn = figure(kind, layers, Look(width=width, shown=False))
    texts = list(dict.fromkeys(drawn_texts(drawn)))
    canvas = drawn.bbox
    for text in texts:
        box = extent(text)
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= canvas.width + 1 and box.y1 <= canvas.height + 1
        assert inside, f"{described(text)} is outside {canvas}"
    for axes in drawn.axes:
        ticks = {tick.label1 for tick in axes.xaxis.get_major_ticks()}
        labels = sorted((text for text in texts if text in ticks), key=lambda text: text.get_window_extent().x0)
        assert len(labels) >= 2 or not axes.get_xlabel()
        for left, right in pairwise(labels):
            assert left.get_window_extent().x1 + 2 <= right.get_window_extent().x0, described(left, right)
    if kind == "scatter":  # the number of a layer may lie over that of another, which has the same point
        return
    for i, text in enumerate(texts):
        for other in texts[i + 1 :]:
            assert not extent(text).overlaps(extent(other)), described(text, other)


def extent(text: Text) -> Any:
    """The box of a text, without the arrow of an annotation."""
    return Text.get_window_extent(text)


def described(*texts: Text) -> str:
    return " and ".join(f"{text.get_text()!r} at {text.get_window_extent()}" for text in texts)


@pytest.mark.parametrize(("name", "magic"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml"), ("C.PDF", b"%PDF")])
def test_a_figure_is_saved_whole_or_the_old_file_stays(
    name: str, magic: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figures" / name
    save_figure(figure("delta", 8), path)
    before = path.read_bytes()
    assert before.startswith(magic)

    def savefig_on_a_full_disk(self: Figure, target: Path, **_: Any) -> None:
        target.write_bytes(magic)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", savefig_on_a_full_disk)
    with pytest.raises(LensrlError, match=f"{name} could not be written .*No space left"):
        save_figure(figure("contribution", 8), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_another_format_is_refused_with_the_known_ones_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(LensrlError, match=r"cannot save a figure as 'c\.gif': end the name in \.png, \.svg, \.pdf"):
        save_figure(figure("delta", 8), tmp_path / "c.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_pdf_holds_no_type_3_font_and_an_svg_its_title_and_description(kind: str, tmp_path: Path) -> None:
    drawn = figure(kind, 8)
    save_figure(drawn, tmp_path / "f.pdf")
    written = (tmp_path / "f.pdf").read_bytes()
    assert b"/FontFile2" in written or b"/CIDFontType2" in written
    assert b"/Type3" not in written
    save_figure(drawn, tmp_path / "f.svg")
    for text in ((tmp_path / "f.svg").read_text(encoding="utf-8"), svg(drawn)):
        root = ElementTree.fromstring(text)
        first, second = list(root)[:2]
        assert [first.tag.rpartition("}")[2], second.tag.rpartition("}")[2]] == ["title", "desc"]
        assert len(str(second.text)) > 20
        assert root.get("role") == "img"


def test_a_title_that_is_not_drawn_is_kept_in_the_file() -> None:
    bare = figure("contribution", 8, Look(title=False, shown=False))
    assert "layer contribution, 95 % intervals" in svg(bare)
    assert not any("95 %" in text.get_text() for text in drawn_texts(bare))
    sizes = {
        float(text.get_fontsize()) for text in drawn_texts(figure("contribution", 8, Look(font_size=14, shown=False)))
    }
    assert max(sizes) >= 14
    assert figure("contribution", 36, Look(width=3.25, shown=False)).get_figwidth() == 3.25

"""How studies and runs look in a notebook: text is shown and not run, bars are to scale, and no array is read."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest

from lensrl.store.file.lazy import LazyArray
from lensrl.store.file.seal import read_seal
from lensrl.store.look import bars_html
from lensrl.store.names import RECIPE_FILE
from lensrl.store.run import Run
from lensrl.store.study import Study, open_study
from lensrl.store.verify import FileCheck
from tests.reseal import resealed
from tests.store.synthetic import add_run, make_study, write_full_run

HOSTILE = "<script>alert(1)</script>"
NO_SLASH = '<img src=x onerror="alert(1)">'  # what a file can be named


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def solved(count: int, of: int = 40) -> dict[str, list[float]]:
    return {"only": [1.0] * count + [0.0] * (of - count)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with a base, full RL, two layers, one that diverged, and a run with weight deltas."""
    folder = make_study(tmp_path / "study")
    add_run(folder, "base", solved(10))
    add_run(folder, "full-rl", solved(30))
    add_run(folder, "layer-0", solved(20))
    add_run(folder, "layer-1", None, status="diverged", reason="no gradient")
    write_full_run(folder / "full-rl.seed-3.h5")
    return folder


def test_reasons_have_a_column_where_there_is_one(folder: Path) -> None:
    def shown() -> list[bool]:
        with open_study(folder) as study:
            return ["reason" in text for text in (repr(study), repr(study.runs), study._repr_html_())]

    assert shown() == [True] * 3
    add_run(folder, "layer-1", solved(20))
    assert shown() == [False] * 3


def test_hostile_text_in_a_run_is_shown_and_not_run(tmp_path: Path) -> None:
    write_full_run(tmp_path / "run.h5")
    with resealed(tmp_path / "run.h5") as file:
        for name in ("study", "run", "reason", "base", "status"):
            file.attrs[name] = HOSTILE
    with Run(tmp_path / "run.h5") as run:
        page = Page(run._repr_html_())
    assert not page.named("script")
    assert page.text.count(HOSTILE) == 5


def test_hostile_text_in_a_study_is_shown_and_not_run(folder: Path) -> None:
    add_run(folder, NO_SLASH, solved(15), status="collapsed", reason=HOSTILE)
    recipe = folder / RECIPE_FILE
    recipe.write_text(recipe.read_text().replace("tiny:none", HOSTILE))
    folder = folder.rename(folder.with_name(NO_SLASH))
    with open_study(folder) as study:
        pages = [Page(study._repr_html_()), Page(study.runs._repr_html_())]
    for page in pages:
        assert not page.named("script")
        assert not page.named("img")
    assert (pages[0].text.count(HOSTILE), pages[0].text.count(NO_SLASH)) == (2, 2)
    assert (pages[1].text.count(HOSTILE), pages[1].text.count(NO_SLASH)) == (1, 1)


def test_deltas_and_checks_of_files_are_small_tables(tmp_path: Path) -> None:
    write_full_run(tmp_path / "run.h5")
    with Run(tmp_path / "run.h5") as run:
        parts, names = Page(run.deltas._repr_html_()), Page(run.deltas[0]._repr_html_())
        assert len(parts.named("tr")) == 1 + len(run.deltas)
        assert len(names.named("tr")) == 1 + len(run.deltas[0])
        assert all(name in names.text for name in run.deltas[0])
    page = Page(FileCheck(tmp_path / NO_SLASH, "damaged", HOSTILE)._repr_html_())
    assert not page.named("script")
    assert HOSTILE in page.text
    assert NO_SLASH in page.text


def test_the_page_of_a_study_lists_every_run_with_its_score_and_reason(folder: Path) -> None:
    with open_study(folder) as study:
        page = Page(study._repr_html_())
        rows = study.runs.table().to_dict("records")
    assert len(page.named("tr")) == 1 + len(rows)
    for expected in ("base", "full-rl", "0.250", "0.750", "0.500", "diverged", "no gradient", "tiny:none"):
        assert expected in page.text
    assert "nan" not in page.text.lower()
    assert "None" not in page.text


@pytest.mark.parametrize(
    "contributions",
    [
        {0: 0.5},
        {0: 0.5, 1: -0.25, 2: math.nan, 3: 1.2, 4: 1.0, 5: 0.0, 6: 0.08, 7: -0.4},
        {layer: math.sin(layer) / 2 + 0.5 if layer % 7 else math.nan for layer in range(36)},
        {3: math.nan, 9: math.inf},
    ],
    ids=["1 layer", "8 layers", "36 layers", "nothing defined"],
)
def test_there_is_a_bar_for_every_finite_contribution_as_high_as_it_is(contributions: dict[int, float]) -> None:
    page = Page(str(bars_html(contributions, 1.0)))
    zero, full = (float(line["y1"]) for line in page.named("line"))
    finite = {layer: value for layer, value in contributions.items() if math.isfinite(value)}
    bars = page.named("rect")
    assert len(bars) == len(finite)
    left = [float(bar["x"]) for bar in bars]
    assert left == sorted(set(left))
    total = float(page.named("line")[0]["x2"])
    for bar, (layer, value) in zip(bars, finite.items(), strict=True):
        top, height = float(bar["y"]), float(bar["height"])
        length = abs(value) * (zero - full)
        assert height == pytest.approx(max(0.5, length), abs=0.21), layer
        assert (top if value < 0 else top + height) == pytest.approx(zero, abs=0.51), layer
        assert 0 <= float(bar["x"]) < float(bar["x"]) + float(bar["width"]) <= total
        assert f"layer {layer}: gain {value:.3f}" in page.text


def test_a_bar_that_would_leave_the_picture_is_cut_at_its_edge() -> None:
    page = Page(str(bars_html({0: 50.0, 1: -50.0, 2: 0.5}, 1.0)))
    height = float(page.named("svg")[0]["viewbox"].split()[3])
    for bar in page.named("rect"):
        assert float(bar["y"]) >= 0
        assert float(bar["y"]) + float(bar["height"]) < height
    assert "gain 50.000" in page.text


def test_without_contributions_there_is_no_picture(tmp_path: Path) -> None:
    assert not str(bars_html({}, 1.0))
    folder = make_study(tmp_path / "study")
    add_run(folder, "base", solved(10))
    with open_study(folder) as study:
        assert "<svg" not in study._repr_html_()


def test_the_bars_of_a_page_are_mean_gains_over_seeds(tmp_path: Path) -> None:
    """Two benchmarks and three seeds, of which a layer lacks one and full RL another."""
    folder, rng = make_study(tmp_path / "study"), np.random.default_rng(5)

    def scores(share: float) -> dict[str, list[float]]:
        return {"easy": (rng.random(60) < share).tolist(), "hard": (rng.random(30) < share / 2).tolist()}

    add_run(folder, "base", scores(0.1))
    for seed in range(3):
        if seed < 2:
            add_run(folder, "full-rl", scores(0.9), seed)
        add_run(folder, "layer-0", scores(0.5), seed)
        if seed:
            add_run(folder, "layer-1", scores(0.7), seed)
    with open_study(folder) as study:
        gains = {layer: np.mean([run.score - study["base"].score for run in study.runs.of(f"layer-{layer}").values()])
                 for layer in (0, 1)}  # fmt: skip
        page = Page(study._repr_html_())
    assert gains[0] != pytest.approx(gains[1])
    for layer, gain in gains.items():
        assert f"layer {layer}: gain {gain:.3f}" in page.text


@pytest.mark.parametrize("full", [10, 5], ids=["no gain", "a loss"])
def test_without_a_gain_of_full_rl_there_is_no_share_and_still_a_bar(tmp_path: Path, full: int) -> None:
    folder = make_study(tmp_path / "study")
    for name, count in [("base", 10), ("full-rl", full), ("layer-0", 20)]:
        add_run(folder, name, solved(count))
    with open_study(folder) as study:
        assert math.isnan(study.contributions()["contribution"][0])
        assert study._repr_html_().count("<rect") == 1


SHOWN: dict[str, Callable[[Study, Run], object]] = {
    "repr(study)": lambda study, _: repr(study),
    "study in a notebook": lambda study, _: study._repr_html_(),
    "repr(study.runs)": lambda study, _: repr(study.runs),
    "study.runs in a notebook": lambda study, _: study.runs._repr_html_(),
    "repr(run)": lambda _, run: repr(run),
    "run in a notebook": lambda _, run: run._repr_html_(),
    "repr(run.deltas)": lambda _, run: repr(run.deltas),
    "repr(run.deltas[0])": lambda _, run: repr(run.deltas[0]),
    "run.deltas in a notebook": lambda _, run: run.deltas._repr_html_(),
    "run.deltas[0] in a notebook": lambda _, run: run.deltas[0]._repr_html_(),
    "repr of a delta": lambda _, run: repr(run.deltas[0]["attn.q.weight"]),
    "repr of activations": lambda _, run: repr(run.activations),
    "repr of snapshots": lambda _, run: repr(run.snapshots),
}


def shown(folder: Path) -> dict[str, object]:
    with open_study(folder) as study:
        return {name: look(study, study["full-rl", 3]) for name, look in SHOWN.items()}


@pytest.fixture
def no_array(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever reads a byte of a dataset, through h5py or past it, fails."""
    taken = {}
    for path in folder.glob("*.h5"):
        seal = read_seal(path)
        assert seal is not None
        taken[path.stat().st_ino] = [r for extent in seal.datasets.values() for r in extent.ranges]
    pread = os.pread

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an array was read")

    def watched(file: int, count: int, offset: int) -> bytes:
        for start, length in taken.get(os.fstat(file).st_ino, []):
            assert offset + count <= start or offset >= start + length, "an array was read"
        return pread(file, count, offset)

    for name in ("__getitem__", "__array__", "read_direct", "__iter__"):
        monkeypatch.setattr(h5py.Dataset, name, refuse)
    monkeypatch.setattr(os, "preadv", refuse)
    monkeypatch.setattr(os, "pread", watched)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("no_array")
@pytest.mark.parametrize("look", SHOWN.values(), ids=SHOWN)
def test_looking_at_something_reads_no_array(folder: Path, look: Callable[[Study, Run], object]) -> None:
    with open_study(folder) as study:
        assert look(study, study["full-rl", 3])
        with pytest.raises(AssertionError, match="an array was read"):
            study["full-rl", 3].deltas[0]["attn.q.weight"][...]
        with pytest.raises(AssertionError, match="an array was read"):
            study.scores()


def test_what_is_shown_does_not_depend_on_the_bytes_of_any_array(folder: Path) -> None:
    before = shown(folder)
    for path in folder.glob("*.h5"):
        seal = read_seal(path)
        assert seal is not None
        content = bytearray(path.read_bytes())
        for extent in seal.datasets.values():
            for start, length in extent.ranges:
                content[start : start + length] = b"\xff" * length
        path.write_bytes(content)
    assert shown(folder) == before


def test_the_repr_of_an_array_says_what_it_is_without_reading_it(folder: Path) -> None:
    with open_study(folder) as study:
        lazy = study["full-rl", 3].deltas["embed"]["model.embed.weight"]
        assert isinstance(lazy, LazyArray)
        assert repr(lazy) == "<deltas/embed/model.embed.weight: float32 (7, 4), unread>"
        assert repr(study["full-rl", 3].deltas) == "<Deltas of 0, 1, embed>"
        assert "attn.q.weight: float32 (4, 4)" in repr(study["full-rl", 3].deltas[0])

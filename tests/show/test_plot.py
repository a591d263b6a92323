"""Every public function of `lensrl.plot`, as the files that journals get."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensrl import Study, plot
from lensrl.show.figures.compact import compact
from lensrl.show.figures.style import svg
from lensrl.show.words import Look

LOOK = Look(shown=False)
HEADS = pd.DataFrame(
    [(3, matrix, head, 0.1 * head) for matrix in "qkvo" for head in range(4)],
    columns=["layer", "matrix", "head", "relative"],
)
CALLS: dict[str, Callable[[Study], Any]] = {  # those that take more than a study
    "agreement": lambda study: plot.agreement([study, published(study)], look=LOOK),
    "heads": lambda _: plot.heads(HEADS, title="heads of layer 3", look=LOOK),
    "patching_panels": lambda study: plot.patching_panels(study, patched(study), look=LOOK),
}
FUNCTIONS = sorted({*plot.__all__} - {"Look", "save"})


def published(study: Study) -> Path:
    """A table of contributions beside a study, as other people publish theirs."""
    path = study.path.parent / "profile.csv"
    study.contributions()[["layer", "contribution"]].iloc[::-1].assign(layer=range(study.n_layers)).to_csv(
        path, index=False
    )
    return path


def patched(study: Study) -> pd.DataFrame:
    rows = study.patches()
    return rows[(rows["into"] == "base") & (rows["seed"] == 0)].assign(contribution=0.5, share_of="gain", trained=True)


def drawn(name: str, study: Study) -> list[Axes]:
    call = CALLS.get(name, lambda study: getattr(plot, name)(study, look=LOOK))
    found = call(study)
    return found if isinstance(found, list) else [found]


def test_type_3_would_be_seen() -> None:
    written = io.BytesIO()
    figure = Figure()
    figure.add_subplot().set_title("a title")
    with matplotlib.rc_context({"pdf.fonttype": 3}):
        figure.savefig(written, format="pdf")
    assert b"/Type3" in written.getvalue()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_figure_has_fonts_that_journals_take_and_says_what_it_shows(
    name: str, planted: Study, tmp_path: Path
) -> None:
    axes = drawn(name, planted)
    plot.save(axes, tmp_path / "f.pdf")
    written = (tmp_path / "f.pdf").read_bytes()
    assert b"/CIDFontType2" in written
    assert b"/Type3" not in written
    plot.save(axes, tmp_path / "f.svg")
    title, description = list(ElementTree.parse(tmp_path / "f.svg").getroot())[:2]
    assert title.tag.endswith("title")
    assert len(str(title.text)) > 4
    assert description.tag.endswith("desc")
    assert len(str(description.text)) > 20


def test_patches_of_several_seeds_are_drawn_as_their_mean_or_one_is_chosen(planted: Study) -> None:
    mean, one = (plot.patching(planted, seed=seed, look=LOOK) for seed in (None, 1))
    assert "mean over seeds 0, 1" in mean.get_title(loc="left")
    assert "seed 1" in one.get_title(loc="left")
    assert len(mean.lines) > len(one.lines)


@pytest.mark.parametrize("name", ["cka_map", "patching", "predictor_panels"])
def test_a_figure_of_the_page_has_the_same_marks_and_words_in_fewer_bytes(name: str, planted: Study) -> None:
    figure = drawn(name, planted)[0].get_figure(root=True)
    assert figure is not None
    before = svg(figure)
    after = compact(before)
    assert len(after) < 0.9 * len(before)
    assert words(after) == words(before)
    (old, new) = (positions(text) for text in (before, after))
    assert len(old) == len(new) > 50
    assert max(abs(a - b) for a, b in zip(sorted(old), sorted(new), strict=True)) <= 0.00501
    assert re.findall(r'id="\w+_\d+"', after) == re.findall(r'id="\w+_\d+"', before)


def words(text: str) -> list[str]:
    return [
        str(node.text).strip() for node in ElementTree.fromstring(text).iter() if node.tag.endswith(("}text", "}desc"))
    ]


def positions(text: str) -> list[float]:
    """The places where marks stand, and where the paths of cells and bars begin."""
    uses = re.findall(r'<use [^>]*x="(\S+)" y="(\S+)"', text)
    starts = re.findall(r"M ?(-?[\d.]+) (-?[\d.]+)", text)
    return [float(number) for pair in [*uses, *starts] for number in pair]

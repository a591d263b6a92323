"""The report of a study that really ran, and of one whose text is hostile."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensrl import Study, agree, open_study, patch, write_report
from lensrl.judge.verdict import verdict
from lensrl.show.page import as_json, render
from lensrl.show.readings import reading
from lensrl.show.words import number
from lensrl.store.run import Run
from tests.cli.test_bottleneck_verb import judged_or_refused
from tests.reseal import resealed
from tests.show.planted import make_planted_study


class Page(HTMLParser):
    """Tags and text of a page; a browser would not forgive more."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


@pytest.fixture
def copied(small_study_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_study_folder, tmp_path / "copied"))


def read(folder: Path) -> Page:
    with open_study(folder) as study:
        return Page(write_report(study).read_text(encoding="utf-8"))


def test_the_page_holds_every_section_and_fetches_nothing(copied: Path) -> None:
    with open_study(copied) as study:
        patch(study, layers=[0, 3])
        profile = study.contributions()
    page = read(copied)
    assert page.tags.count("svg") >= 4
    assert {reference[:1] for reference in page.references} <= {"#"}
    assert not re.search(r"@import|url\(\s*['\"]?http", page.text)
    for heading in ("Layer contribution", "Scores", "Training", "Weight deltas", "Patching", "Provenance"):
        assert heading in page.text
    for value in profile["contribution"].dropna():
        assert f"{value:.3f}" in page.text
    assert f"{reading(profile, 8)}" in page.text


def test_other_studies_stand_beside_the_study_with_their_agreement(
    copied: Path, planted: Study, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    planted.contributions().to_csv(table, index=False)
    page = Page(write_report(planted, tmp_path / "page.html", beside=[copied, table]).read_text(encoding="utf-8"))
    pairs = agree(planted, copied, table).pairs.iloc[:2]
    assert (pairs["first"] == planted.name).all()
    rows = page.text[page.text.index("if one profile") :]
    for pair in pairs.to_dict("records"):
        row = rows[rows.index(pair["second"]) :]
        if pair["status"] == "defined":
            shown = (
                f"{number(pair['spearman'], 2)} [{number(pair['spearman_low'], 2)}, {number(pair['spearman_high'], 2)}]"
            )
            assert row.index(shown) < row.index(number(pair["ceiling"], 2))
        else:
            assert pair["reason"] in row
    assert (pairs["status"] == "defined").any()
    assert "Beside other studies" not in read(copied).text


def test_hostile_text_is_shown_and_not_run(copied: Path) -> None:
    hostile = "<script>alert(1)</script>"
    with resealed(copied / "layer-3.seed-0.h5") as file:
        file.attrs["reason"] = hostile
        file.attrs["status"] = "collapsed"
    recipe = copied / "recipe.json"
    recipe.write_text(recipe.read_text().replace("tiny:qwen3", hostile))
    page = read(copied)
    assert page.tags.count("script") == 3  # the data, Vega and the page's own
    assert page.text.count(hostile) >= 2


def test_text_in_embedded_json_cannot_leave_its_element() -> None:
    hostile = {"</script><img src=x onerror=alert(1)>": ["<!--<script>", "\u2028", "é", None, 0.5]}
    written = as_json(hostile)
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == hostile


def test_a_study_without_full_rl_still_has_a_report_that_says_so(copied: Path) -> None:
    (copied / "full-rl.seed-0.h5").unlink()
    page = read(copied)
    assert "full-rl" in page.text
    assert "Scores" in page.text


def test_a_damaged_run_is_named(copied: Path) -> None:
    (copied / "layer-7.seed-0.h5").write_bytes(b"nothing")
    assert "layer-7.seed-0.h5 is damaged" in read(copied).text


def test_the_page_gives_the_verdict_or_says_why_there_is_none(copied: Path) -> None:
    page = read(copied)
    text = " ".join(page.text.split())
    assert "The verdict" in text
    with open_study(copied) as study:
        found, refused = judged_or_refused(study)
    if found is None:
        assert refused in text
        return
    for claim in found.claims:
        assert f"{claim.verdict}{claim.name} {claim.statement}" in text
        assert (claim.reason or claim.rejected()) in text
    assert all(limit in text for limit in found.limits)


def test_a_study_that_cannot_be_judged_says_why_in_one_line(copied: Path) -> None:
    (copied / "layer-7.seed-0.h5").unlink()
    with open_study(copied) as study:
        found, refused = judged_or_refused(study)
    assert found is None
    text = " ".join(read(copied).text.split())
    assert f"The verdict {refused}" in text


def test_a_verdict_is_shown_whole_and_escaped(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "<script>alert(1)</script>"
    path = copied / f"{hostile.replace('/', '|')}.csv"
    path.write_text("layer,contribution\n" + "\n".join(f"{i},{0.9 - 0.6 * (i > 4) + 0.01 * i**2}" for i in range(8)))
    planted = replace(verdict(path), limits=[hostile])
    monkeypatch.setattr("lensrl.show.sections.judge", lambda _: planted)
    page = read(copied)
    assert page.tags.count("script") == 3
    assert hostile in page.text
    assert "contradicted" in page.text or "undetermined" in page.text
    assert all(
        claim.statement in page.text and claim.rejected() in page.text for claim in planted.claims if not claim.reason
    )
    assert re.search(r"[−\d.]+\N{NO-BREAK SPACE}\[[−\d.]+,\N{NO-BREAK SPACE}[−\d.]+\]", page.text)


def test_the_page_shows_what_changed_in_the_answers(copied: Path) -> None:
    with open_study(copied) as study:
        rows = study.completions("full-rl")
        page = read(copied)
    moved = rows[rows["item_score"] != rows["base_item_score"]].drop_duplicates(["benchmark", "item"])
    assert len(moved), "the small study changes answers"
    first = moved.iloc[0]
    shown = page.text[page.text.rindex("What the models answer") :]  # after the list of contents
    for text in (first["prompt"], first["completion"], first["base_completion"]):
        assert text.strip() in shown
    better = (moved["item_score"] > moved["base_item_score"]).sum()
    assert f"answers {better} better than the base and {len(moved) - better} worse" in shown


def test_a_table_of_a_run_is_read_once_for_the_whole_page(planted: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[tuple[str, str]] = Counter()
    read = Run._read

    def counted(self: Run, group: Any, name: str) -> np.ndarray:
        reads[self.path.name, f"{group.name}/{name}"] += 1
        return read(self, group, name)

    monkeypatch.setattr(Run, "_read", counted)
    with open_study(planted.path) as study:
        render(study)
    assert len(reads) > 15 * 10  # runs, and tables in each
    most = max(reads, key=lambda place: reads[place])
    assert reads[most] <= 2, most  # scores: as a table of items, and as samples


@pytest.mark.slow
def test_the_page_of_36_layers_and_3_seeds_has_less_than_5_mb(tmp_path: Path) -> None:
    with open_study(make_planted_study(tmp_path / "deep", 36, (0, 1, 2))) as study:
        path = write_report(study)
    assert 1_000_000 < path.stat().st_size < 5_000_000

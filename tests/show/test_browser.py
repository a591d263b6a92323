"""The page in a real browser: what a reader points at, chooses, sorts, saves, prints and holds in a hand.

Skipped only where no Chromium is installed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lensrl import Study, open_study, write_report
from tests.show.browser import CHROMIUM, Page, browser
from tests.show.planted import make_planted_study

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

HOSTILE = "</script><img src=x onerror=window.ran=1><script>window.ran=1</script>"
PAPER = 717  # pixels: the width of A4 within Chromium's margins
CHART = "document.querySelector('[data-chart={}]')"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Six layers and two seeds; a layer's reason, a benchmark and the study's name are hostile."""
    folder = tmp_path_factory.mktemp("browser") / "<img src=x onerror=window.ran=1>"
    make_planted_study(folder, 6, (0, 1), items=160, benchmarks=("additions", HOSTILE), reason=HOSTILE)
    with open_study(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(study: Study) -> str:
    return write_report(study, study.path.parent / "report.html").as_uri()


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def page(tab: Page, url: str) -> Iterator[Page]:
    """The page, opened anew. No test may leave an error in the console, or have run anything of the study's text."""
    tab.problems.clear()
    tab.open(url)
    yield tab
    assert tab.problems == []
    assert tab.value("window.ran") is None


def choose(page: Page, chart: str, choice: str, value: str) -> None:
    page.value(
        f"(() => {{ const one = {CHART.format(chart)}.querySelector('select[name={choice}]'); one.value = {value!r}; "
        "one.dispatchEvent(new Event('change')); })()"
    )


def column(page: Page, table: str, place: int) -> list[str]:
    return page.value(f"[...{table}.querySelectorAll('tbody tr')].map((row) => row.children[{place}].innerText)")


def numbers(cells: list[str]) -> np.ndarray:
    return np.array([float(cell.replace("−", "-").replace("–", "nan")) for cell in cells])


def test_every_chart_is_drawn_and_text_of_the_study_is_shown(page: Page) -> None:
    page.draw_all()
    assert page.value("document.querySelectorAll('[data-chart] .chart svg').length") >= 10
    assert HOSTILE in page.value("document.body.innerText")


def test_a_point_says_its_layer_its_value_and_its_interval(page: Page, study: Study) -> None:
    page.draw_all()
    page.hover(f"[...{CHART.format('contribution')}.querySelectorAll('.mark-symbol path')].at(-1)")
    page.wait("document.querySelector('#vg-tooltip-element')?.classList.contains('visible')")
    said = page.value("document.querySelector('#vg-tooltip-element').innerText")
    last = study.contributions().iloc[-1]
    assert "layer" in said
    assert f"{last['layer']}" in said
    for name in ("contribution", "low", "high"):
        assert f"{last[name]:.4g}".rstrip("0").replace("-", "−") in said


def test_a_seed_and_a_score_are_chosen_for_chart_table_and_file(page: Page, study: Study) -> None:
    page.draw_all()
    table = CHART.format("contribution") + ".querySelector('[data-table]')"
    np.testing.assert_allclose(numbers(column(page, table, 2)), study.contributions()["contribution"], atol=6e-4)
    choose(page, "contribution", "seed", "1")
    choose(page, "contribution", "metric", "pass@4")
    expected = study.contributions(1, score="pass@4")["contribution"].to_numpy()
    page.wait(f"{table}.querySelector('tbody td:nth-child(2)').innerText === '1'")
    np.testing.assert_allclose(numbers(column(page, table, 2)), expected, atol=6e-4)
    button = CHART.format("contribution") + ".querySelector('.save')"
    saved = page.value(
        "(async () => { let kept; const real = URL.createObjectURL; "
        f"URL.createObjectURL = (blob) => {{ kept = blob; return real(blob); }}; {button}.click(); "
        "return kept.text(); })()"
    )
    head, *rows = saved.splitlines()
    assert head.startswith("layer,seed,contribution,low,high")
    found = [row.split(",") for row in rows]
    assert [row[1] for row in found] == ["1"] * 6
    values = np.array([float(row[2] or "nan") for row in found])
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_runs_to_compare_are_switched_on_and_off(page: Page) -> None:
    page.draw_all()
    lines = f"{CHART.format('training')}.querySelectorAll('.mark-line path').length"
    assert page.value(lines) == 7  # full RL and six layers
    page.value(f"{CHART.format('training')}.querySelector('.chips button[title=layer-2]').click()")
    page.wait(f"{lines} === 6")


def test_a_few_lines_have_their_names_at_their_ends(page: Page) -> None:
    page.draw_all()
    chart = CHART.format("training")
    named = f"[...{chart}.querySelectorAll('.mark-text.role-mark text')].map((one) => one.textContent)"
    assert page.value(named) == []  # seven lines
    for layer in (0, 1, 2):
        page.value(f"{chart}.querySelector('.chips button[title=layer-{layer}]').click()")
    page.wait(f"{named}.length === 4")
    assert sorted(page.value(named)) == ["full-rl", "layer-3", "layer-4", "layer-5"]


def test_the_legend_of_patching_names_what_is_drawn_and_c_l_has_its_interval(page: Page) -> None:
    page.draw_all()
    chart = CHART.format("patching")
    named = f"[...{chart}.querySelectorAll('.role-legend-label text')].map((one) => one.textContent)"
    assert page.value(named) == ["score", "log p(reference)", "Cₗ, trained alone"]
    drawn = f"{chart}.querySelectorAll('.mark-symbol path[aria-roledescription=point]').length"
    rules = f"{chart}.querySelectorAll('.mark-rule line[aria-label*=low]').length"
    assert 3 * page.value(rules) == page.value(drawn) == 3 * 18  # two seeds beside every mean; one has no interval
    choose(page, "patching", "seed", "1")
    page.wait(f"{drawn} < 54")
    assert page.value(rules) == page.value(drawn) == 18
    choose(page, "patching", "what", "activations")
    page.wait(f"{named}.includes('logit difference')")
    assert "score" not in page.value(named)


def test_tables_are_sorted_both_ways_with_what_has_no_value_last(page: Page) -> None:
    table = "[...document.querySelectorAll('table')].find((one) => one.innerText.startsWith('run'))"
    for direction in (1, -1):
        page.value(f"[...{table}.querySelectorAll('th')].find((head) => head.innerText.startsWith('gain')).click()")
        gains = numbers(column(page, table, 3))
        assert np.isnan(gains[-1])  # of the base
        assert len(gains) == 15  # the base, and seven runs of two seeds
        assert (np.diff(direction * gains[:-1]) >= 0).all()


def test_light_and_dark_follow_the_reader(tab: Page, url: str) -> None:
    def light() -> float:
        return tab.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)")

    tab.open(url, dark=True)
    assert light() < 150
    tab.value("document.getElementById('theme').click()")
    assert light() > 700
    tab.value("document.getElementById('theme').click(); localStorage.clear()")


def test_nothing_is_off_screen_on_a_telephone(page: Page) -> None:
    page.resize(390, 844)
    page.draw_all()
    page.wait("[...document.querySelectorAll('.chart svg')].every((one) => one.getBoundingClientRect().right <= 391)")
    assert page.value("document.scrollingElement.scrollWidth <= innerWidth && innerWidth === 390")
    texts = "[...document.querySelectorAll('.chart svg text, .stack td')]"
    assert (
        page.value(f"{texts}.filter((one) => one.getBoundingClientRect().right > 391).map((x) => x.textContent)") == []
    )


def test_paper_cuts_nothing(page: Page) -> None:
    page.draw_all()
    page.resize(PAPER, 1000)
    page.call("Emulation.setEmulatedMedia", media="print")
    try:
        cut = page.value(
            "[...document.querySelectorAll('main table, main figure svg, main pre')]"
            f".filter((one) => one.getBoundingClientRect().right > {PAPER + 1} || !one.getBoundingClientRect().height)"
            ".map((one) => one.outerHTML.slice(0, 200))"
        )
        assert cut == []
        assert page.value("[...document.querySelectorAll('.chart')].every((one) => !one.offsetHeight)")
    finally:
        page.call("Emulation.setEmulatedMedia", media="")
    assert page.pdf().startswith(b"%PDF")


def test_without_javascript_pictures_stand_for_the_charts(tab: Page, url: str) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(url)
        hidden = tab.value(
            "[...document.querySelectorAll('[data-chart]')]"
            ".filter((one) => one.querySelector('.static').offsetHeight < 100)"
            ".map((one) => one.dataset.chart)"
        )
        assert hidden == ["scores"]  # its table says the same
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)

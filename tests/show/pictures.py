"""Take the pictures of the report for the README: python -m tests.show.pictures STUDY (make pictures)."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from lensrl import open_study, write_report
from tests.show.browser import browser
from tests.show.planted import make_planted_study

RUNS = Path(__file__).parents[2] / "runs"
TOP, CHART = "report-top.png", "report-chart.png"


def take(study: Path, into: Path = RUNS) -> list[Path]:
    """Save the top of the study's report, and a chart of a planted study with 36 layers and 3 seeds, in the dark.

    Needs Chromium.
    """
    with (
        TemporaryDirectory() as folder,
        open_study(study) as opened,
        open_study(make_planted_study(Path(folder) / "planted")) as planted,
        browser() as page,
    ):
        report = write_report(opened, Path(folder) / "report.html")
        large = write_report(planted, Path(folder) / "large.html")
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        page.open(report.as_uri(), width=1400, height=880)
        page.draw_all()
        page.value("document.querySelectorAll('details').forEach((one) => (one.open = false)), scrollTo(0, 0)")
        page.picture(into / TOP, whole=False)
        page.open(large.as_uri(), width=1000, height=510, dark=True)
        page.draw_all()
        page.value("scrollBy(0, document.querySelector('[data-chart=patching]').getBoundingClientRect().top - 70)")
        page.picture(into / CHART, whole=False)
        assert page.problems == []
    return [into / TOP, into / CHART]


if __name__ == "__main__":
    for path in take(Path(sys.argv[1])):
        print(path)

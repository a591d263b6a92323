"""`lensrl report`: an HTML report about a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lensrl
from lensrl_cli.output import StudyArgument, note


def report(
    study: StudyArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write; by default STUDY/report.html.")
    ] = None,
) -> None:
    """Write an HTML report about a study: profile, training, deltas, patching, correlations, provenance.

    The report is one file that loads nothing from elsewhere.

    Example: lensrl report runs/tiny
    """
    with lensrl.open_study(study) as opened:
        path = lensrl.write_report(opened, out)
    note(f"report: {path}")

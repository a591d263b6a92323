"""`lensrl report`: one HTML page about a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensrl import open_study
from lensrl_cli.output import StudyArgument, note


def report(
    study: StudyArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write; by default report.html in the study.")
    ] = None,
) -> None:
    """Write a self-contained HTML report: profile, training, deltas, patching, correlations, provenance.

    Example: lensrl report runs/tiny
    """
    from lensrl import write_report

    with open_study(study) as opened:
        path = write_report(opened, out)
    note(f"report: {path}")

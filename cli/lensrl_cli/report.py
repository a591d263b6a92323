"""`lensrl report`: an HTML report about a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lensrl
from lensrl.recipe.layers import parse_layers
from lensrl_cli.output import StudyArgument, note
from lensrl_cli.progress import progress_bars


def report(
    study: StudyArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file to write; by default STUDY/report.html.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layer", "--layers", metavar="L", help="Draw the training curves of these layers: 20, 0-7, 1,3,5 or all."
        ),
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also measure controls that take models and minutes: KL, random deltas.")
    ] = False,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside", metavar="STUDY", help="Compare with the profile of another study, or of a CSV file; repeatable."
        ),
    ] = None,
) -> None:
    """Write an HTML report about a study: profile, training, deltas, patching, correlations, provenance.

    The report is one file that loads nothing from elsewhere.

    --beside shows how far the profile agrees with that of another study, such as a control without RL.

    Example: lensrl report runs/tiny
    """
    with lensrl.open_study(study) as opened:
        chosen = None if layers is None else parse_layers(layers, opened.n_layers)
        with progress_bars("report,", quiet=False) as on_progress:
            path = lensrl.write_report(
                opened, out, layers=chosen, controls=controls, beside=beside or (), on_progress=on_progress
            )
    note(f"report: {path}")

"""Progress bars of long measurements, in a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

import lensrl
from lensrl.errors import LensrlError
from lensrl_cli.output import console, note, plain

if TYPE_CHECKING:
    from lensrl import Study
    from lensrl.compare.cluster import Cluster


@contextmanager
def progress_bars(label: str, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield `on_progress(kind, done, total)`, which draws one bar `LABEL KIND` for each kind.

    Nothing is drawn with `quiet`, or when the output is not a terminal.
    """
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        console=console, transient=True, disable=quiet or not console.is_terminal,
    ) as progress:  # fmt: skip
        bars: dict[str, TaskID] = {}

        def on_progress(kind: str, done: int, total: int) -> None:
            if kind not in bars:
                bars[kind] = progress.add_task(f"{label} {kind}", total=total)
            progress.update(bars[kind], completed=done)

        yield on_progress


def measure_rivals(study: Study, *, quiet: bool, cluster: Cluster | None = None) -> None:
    """Measure and store the rivals that need the base model. If the model cannot be loaded, say so and go on.

    Rivals are predictors of C_l that are known before RL. With `quiet`, stdout is left to JSON.

    Raises LensrlError for a study without scores, which has no C_l.
    """
    study.runs.check_scored()
    try:
        with progress_bars("base model,", quiet=quiet) as on_progress:
            lensrl.base_rivals(study, cluster=cluster, on_progress=on_progress)
    except LensrlError as error:
        why = f"without the rivals from the base model: {' '.join(str(error).split())}"
        if quiet:
            typer.echo(plain(why), err=True)
        else:
            note(why, style="dim")

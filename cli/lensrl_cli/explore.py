"""`lensrl explore`: the reports of studies in the browser, made anew while the studies are made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensrl_cli.output import named_path, note


def explore(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY", parser=named_path, help="Folders of studies, such as runs/tiny.")
    ],
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65535,
            show_default=False,
            help="The port on 127.0.0.1; by default a free one.",
        ),
    ] = 0,
) -> None:
    """Serve the reports of studies to the browser on this machine, until Ctrl-C.

    A page is made anew when a run or a result of patching appears. While a study is made, its page says who makes what,
    and at which step. Nothing listens to other machines. For a study on another machine, forward the port: ssh -L.

    Example: lensrl explore runs/tiny
    """
    from lensrl.show.explore import Explorer

    explorer = Explorer(studies, port)
    note(f"{explorer.url}   (Ctrl-C ends)")
    try:
        explorer.serve()
    except KeyboardInterrupt:
        note("ended")

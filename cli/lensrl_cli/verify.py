"""`lensrl verify`: is every file what was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lensrl import verify
from lensrl_cli.output import Json, console, note, print_json, show


def verify_path(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, a study, or a folder of studies.")],
    json: Json = False,
) -> int:
    """Re-hash files and check them against the format: good, damaged (where), unfinished, too new.

    Exits with 0 when every file is good, with 1 when one is not.

    Example: lensrl verify runs/tiny
    """
    verdicts = []
    with console.status("verifying") as status:  # says nothing where there is no terminal
        for verdict in verify(path):
            verdicts.append(verdict)
            status.update(f"verifying: {len(verdicts)} files done, {escape(verdict.path.name)} the last")
    bad = [verdict for verdict in verdicts if verdict.status != "good"]
    if json:
        print_json([{"file": str(v.path), "status": v.status, "where": v.where} for v in verdicts])
    else:
        root = path if path.is_dir() else path.parent
        rows = [
            {"file": str(v.path.relative_to(root)), "status": v.status, "where": v.where.removeprefix(f"{v.path} ")}
            for v in verdicts
        ]
        show(str(root), {"file": "left", "status": "left", "where": "left"}, rows)
        note(f"{len(verdicts) - len(bad)} of {len(verdicts)} files are good", style="red" if bad else "")
    return 1 if bad else 0

"""`lensrl verify`: check that every file holds the bytes that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import lensrl
from lensrl_cli.output import Json, console, note, print_json, print_table


def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, a study, or a folder of studies.")],
    *,
    json: Json = False,
) -> int:
    """Compare files with their hashes and with the format: good, damaged (and where), unfinished, too new,
    or not ours.

    The exit code is 0 when every file is good, and 1 otherwise.

    Example: lensrl verify runs/tiny
    """
    checks = []
    with console.status("verifying") as status:  # prints nothing when the output is not a terminal
        for check in lensrl.verify(path):
            checks.append(check)
            status.update(f"verifying: {len(checks)} files done, {escape(check.path.name)} the last")
    bad = [check for check in checks if check.status != "good"]
    if json:
        print_json([{"file": str(c.path), "status": c.status, "where": c.where} for c in checks])
    else:
        root = path if path.is_dir() else path.parent
        rows = [
            {"file": str(c.path.relative_to(root)), "status": c.status, "where": c.where.removeprefix(f"{c.path} ")}
            for c in checks
        ]
        print_table(str(root), {"file": "left", "status": "left", "where": "left"}, rows)
        note(f"{len(checks) - len(bad)} of {len(checks)} files are good", style="red" if bad else "")
    return 1 if bad else 0

"""The command in this process: what a person types, without a second of imports each time."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from lensrl_cli.main import main


def lensrl(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `lensrl ARGUMENTS`, with the exit code and the output that a shell would see."""
    words = ["lensrl", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with chdir(cwd or Path.cwd()), patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

"""Where a result came from: versions, git state, machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("lensrl", "torch", "transformers", "trl", "transformer-lens", "numpy", "scipy", "h5py")


def provenance(*, device: str, dtypes: Mapping[str, str], items: Mapping[Any, str] | None = None) -> dict[str, object]:
    """`device` names the hardware; `dtypes` what the masters and the compute were in; `items` the sha256 by split."""
    record: dict[str, object] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "git": git_state(),
        "platform": platform.platform(),
        "device": device,
        "dtypes": dtypes,
    }
    return record | ({"items": items} if items else {})


def git_state() -> str:
    """`git describe` of the working folder: a commit, with `-dirty` when there are uncommitted changes."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "not a git repository"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

"""Where a result came from: versions, git state, machine, base model, items; and whether two share it.

A run's weights are its base's plus a delta, and scores are paired item by item. Files may be edited, data sets of the
hub move on, and packages that make problems change: a run keeps what it was made with, and whoever measures beside it
asks here first.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lensrl.errors import LensrlError
from lensrl.store.run import Run

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


def check_base(run: Run, name: str, fingerprint: str) -> None:
    """Raises LensrlError when `run` was trained from another base model than `name`, whose weights hash to this."""
    if run.fingerprint != fingerprint:
        raise LensrlError(
            f"{run.path} was made from another base model (fingerprint {run.fingerprint[:12]}) than {name} "
            f"({fingerprint[:12]}); give it its own study folder with --out"
        )


def check_items(run: Run, digests: Mapping[str, str]) -> None:
    """Raises LensrlError when `run` was made with other items (`lensrl.tasks.digest`).

    Older files do not say with which.
    """
    kept = run.provenance.get("items")
    for what, digest in digests.items():
        made = str(kept.get(what, digest)) if isinstance(kept, dict) else digest
        if made != digest:
            raise LensrlError(
                f"{run.path} was made with other {_named(what)} (sha256 {made[:12]}) than its recipe gives now "
                f"({digest[:12]}): a file, a data set or a package has changed; put it back, or give the new items "
                f"their own study folder with --out"
            )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _named(what: str) -> str:
    return what if what.endswith("answers") else f"{what} items"

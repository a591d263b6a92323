"""The origin of a result (versions, git state, machine, base model, items), and checks that two results share it.

The weights of a run are the weights of its base plus a delta, and scores are compared item by item. Files may be
edited, data sets on the hub may change, and so may packages that generate problems. A run therefore keeps its origin,
and `check_base` and `check_items` are called before anything is measured beside it.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lensrl.errors import LensrlError
from lensrl.store.run import Run

ROUNDING = {"bfloat16": 0.4, "float16": 0.05}  # stored type -> the most that rounding moves a weight, in percent
PACKAGES = ("lensrl", "torch", "transformers", "trl", "transformer-lens", "numpy", "scipy", "h5py")


def provenance(
    *,
    device: str,
    dtypes: Mapping[str, str],
    items: Mapping[Any, str] | None = None,
    checkpoint: Mapping[str, object] | None = None,
    generation: str | None = None,
) -> dict[str, object]:
    """Return the provenance of a result that is made now: time, versions, git state, platform, and the arguments.

    `device` names the hardware. `dtypes` gives the dtypes of the master weights and of the computation. `items` gives
    the sha256 of the items of every split (`lensrl.tasks.digest`). `checkpoint` describes the checkpoint that a run was
    taken from: source, revision, stored dtype. `generation` says how completions were sampled.
    """
    record: dict[str, object] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "git": git_state(),
        "platform": platform.platform(),
        "device": device,
        "dtypes": dtypes,
    }
    given = {"items": items, "checkpoint": checkpoint, "generation": generation}
    return record | {name: value for name, value in given.items() if value}


def git_state() -> str:
    """Return `git describe` of the working folder: a commit, with `-dirty` when there are uncommitted changes."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "not a git repository"


def check_base(run: Run, name: str, fingerprint: str) -> None:
    """Raise LensrlError when `run` has another base model than `name`, whose weights have this fingerprint."""
    if run.fingerprint != fingerprint:
        raise LensrlError(
            f"{run.path} was made from another base model (fingerprint {run.fingerprint[:12]}) than {name} "
            f"({fingerprint[:12]}); give it its own study folder with --out"
        )


def item_digests(run: Run) -> dict[str, str]:
    """Return the digests of the items that a run was made with; empty for an older file, which does not hold them."""
    kept = run.provenance.get("items")
    return {str(split): str(digest) for split, digest in kept.items()} if isinstance(kept, dict) else {}


def check_items(run: Run, digests: Mapping[str, str]) -> None:
    """Raise LensrlError when `run` was made with other items than `digests`: split -> sha256 (`lensrl.tasks.digest`).

    Older files do not hold the digests of their items. For such a file there is no check.
    """
    kept = item_digests(run)
    for split, digest in digests.items():
        recorded = kept.get(split, digest)
        if recorded != digest:
            raise LensrlError(
                f"{run.path} was made with other {_items_of(split)} (sha256 {recorded[:12]}) than its recipe gives now "
                f"({digest[:12]}): a file, a data set, a chat template or a package has changed; put it back, or give "
                f"the new items their own study folder with --out"
            )


def rounding_note(runs: Iterable[Run]) -> str:
    """Say how far rounding moves the weights of the runs that were taken from rounded checkpoints; empty for none.

    A normal number in bfloat16 is within a factor of 1 +- 2^-8 of the number that was rounded; in float16, 1 +- 2^-11.
    """
    stored = {
        kind for run in runs if run.checkpoint is not None for kind in str(run.checkpoint["dtype"]).split(" and ")
    }
    return " ".join(
        f"Checkpoints stored as {kind}: rounding alone moves a weight by up to {percent:g} % of its value. Smaller "
        f"changes are lost in the deltas, and the deltas of small updates are mostly rounding."
        for kind, percent in ROUNDING.items()
        if kind in stored
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _items_of(split: str) -> str:
    return split if split.endswith(("answers", "prompts")) else f"{split} items"

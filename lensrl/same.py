"""What must be the same before two results stand side by side: the base model, and the items.

A run's weights are its base's plus a delta, and scores are paired item by item. Files may be edited, data sets of the
hub move on, and packages that make problems change: a run keeps what it was made with, and whoever measures beside it
asks here first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lensrl.errors import LensrlError
from lensrl.store.run import Run
from lensrl.tasks import Item, Split

if TYPE_CHECKING:
    from lensrl.models import Base


def check_base(run: Run, base: Base) -> None:
    """Raises LensrlError when `run` was trained from another base model."""
    if run.fingerprint != base.fingerprint:
        raise LensrlError(
            f"{run.path} was made from another base model (fingerprint {run.fingerprint[:12]}) than {base.name} "
            f"({base.fingerprint[:12]}); give it its own study folder with --out"
        )


def check_items(run: Run, split: Split, digest: str) -> None:
    """Raises LensrlError when `run` was made with other items of a split; older files do not say with which."""
    kept = run.provenance.get("items")
    made = str(kept.get(split, digest)) if isinstance(kept, dict) else digest
    if made != digest:
        raise LensrlError(
            f"{run.path} was made with other {split} items (sha256 {made[:12]}) than its recipe gives now "
            f"({digest[:12]}): a file, a data set or a package has changed; put it back, or give the new items their "
            f"own study folder with --out"
        )


def digest_of(items: Iterable[Item]) -> str:
    """sha256 over the benchmark, id, prompt and reference of items, in their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.benchmark, item.id, item.prompt, item.written]).encode() + b"\n")
    return digest.hexdigest()

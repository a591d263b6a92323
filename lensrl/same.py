"""What must be the same before two results stand side by side: the base model, and the items.

A run's weights are its base's plus a delta, and scores are paired item by item. Files may be edited, data sets of the
hub move on, and packages that make problems change: a run keeps what it was made with, and whoever measures beside it
asks here first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lensrl.errors import LensrlError
from lensrl.store.run import Run
from lensrl.tasks import Item, Split

if TYPE_CHECKING:
    from lensrl.models.base import Base


def check_base(run: Run, base: Base) -> None:
    """Raises LensrlError when `run` was trained from another base model."""
    if run.fingerprint != base.fingerprint:
        raise LensrlError(
            f"{run.path} was made from another base model (fingerprint {run.fingerprint[:12]}) than {base.name} "
            f"({base.fingerprint[:12]}); give it its own study folder with --out"
        )


def check_items(run: Run, digests: Mapping[str, str]) -> None:
    """Raises LensrlError when `run` was made with other items (`digests_of`); older files do not say with which."""
    kept = run.provenance.get("items")
    for what, digest in digests.items():
        made = str(kept.get(what, digest)) if isinstance(kept, dict) else digest
        if made != digest:
            raise LensrlError(
                f"{run.path} was made with other {_named(what)} (sha256 {made[:12]}) than its recipe gives now "
                f"({digest[:12]}): a file, a data set or a package has changed; put it back, or give the new items "
                f"their own study folder with --out"
            )


def digests_of(split: Split, items: Sequence[Item]) -> dict[str, str]:
    """What a run keeps of a split's items, each a sha256 in their order.

    Under the split's name that of benchmark, id, prompt and reference; as `SPLIT answers` that of what completions are
    judged by, where it is not the reference.
    """
    found = {split: _sha256([item.benchmark, item.id, item.prompt, item.written] for item in items)}
    if any(item.judged_by for item in items):
        found[f"{split} answers"] = _sha256(item.judged_by for item in items)
    return found


def _named(what: str) -> str:
    return what if what.endswith("answers") else f"{what} items"


def _sha256(values: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value).encode() + b"\n")
    return digest.hexdigest()

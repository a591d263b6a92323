"""Digests of items. A run keeps them, so that scores are paired only between runs with the same items."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Literal

from lensrl.tasks.protocol import Item, Split


def digests_of(split: Split | Literal["also"], items: Sequence[Item]) -> dict[str, str]:
    """Return the digests that a run keeps of the items of a split, or of further tasks: sha256 over the items in order.

    The entry `SPLIT` covers benchmark, id, prompt and reference. The entry `SPLIT answers` covers `judged_by`, and
    exists only if some item has a `judged_by`.
    """
    found = {split: sha256_of([item.benchmark, item.id, item.prompt, item.written] for item in items)}
    if any(item.judged_by for item in items):
        found[f"{split} answers"] = sha256_of(item.judged_by for item in items)
    return found


def sha256_of(values: Iterable[object]) -> str:
    """Return the sha256 over one line of JSON per value."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value).encode() + b"\n")
    return digest.hexdigest()

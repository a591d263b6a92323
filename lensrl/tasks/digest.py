"""Digests of items: a run keeps them, so that scores are paired only where the items are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from lensrl.tasks.protocol import Item, Split


def digests_of(split: Split, items: Sequence[Item]) -> dict[str, str]:
    """What a run keeps of a split's items, each a sha256 in their order.

    Under the split's name that of benchmark, id, prompt and reference; as `SPLIT answers` that of what completions are
    judged by, where it is not the reference.
    """
    found = {split: _sha256([item.benchmark, item.id, item.prompt, item.written] for item in items)}
    if any(item.judged_by for item in items):
        found[f"{split} answers"] = _sha256(item.judged_by for item in items)
    return found


def _sha256(values: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value).encode() + b"\n")
    return digest.hexdigest()

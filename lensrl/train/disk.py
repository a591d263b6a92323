"""The bytes of run files, known before they are made, and whether the disk holds them.

    bytes of a run = (4 T + 8 KiB A) (1 + K) + 4 S L P D + 2 C + 64 KiB

T: trained parameters, in A arrays, each with a header and axes. K: snapshots before the last step. S: sites of
activations (3). L: layers. P: tokens of the probe set. D: width of the residual stream. C: tokens of all completions of
scoring, as if each were as long as it may be. 64 KiB stand for scores, curves and names. While a run is trained, its
snapshots lie beside it a second time: 4 T K. A checkpoint of training (`lensrl.train.resume`) is not counted: it takes
12 T, twice while it is replaced, where there is room.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lensrl.errors import StoreError
from lensrl.store.look import size

FLOAT = 4  # bytes
SITES = 3
TEXT = 2  # bytes of a token's text, compressed
ARRAY = 8 << 10  # bytes of the headers and axes of a delta (7.6 kB in the embedded study)
SMALL = 64 << 10  # bytes of scores, curves and names


@dataclass(frozen=True)
class RunBytes:
    """The bytes of a run's file, and of what lies beside it while the run is trained."""

    file: int
    scratch: int = 0


def run_bytes(
    trained: int, *, arrays: int, layers: int, width: int, tokens: int, sampled: int = 0, snapshots: int = 0
) -> RunBytes:
    """Return the bytes of a run of `trained` parameters, without compression of deltas and activations.

    `tokens` are those of the probe set, `sampled` those of all completions of scoring at most.
    """
    deltas = (FLOAT * trained + ARRAY * arrays) * (1 + snapshots)
    activations = FLOAT * SITES * layers * tokens * width
    return RunBytes(deltas + activations + TEXT * sampled + SMALL, FLOAT * trained * snapshots)


def check_disk(folder: Path, runs: Iterable[RunBytes]) -> None:
    """Raise StoreError where the disk of `folder` has no room for these runs. A quota of the user is not seen."""
    runs = list(runs)
    needed = sum(run.file for run in runs) + max((run.scratch for run in runs), default=0)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise StoreError(
            f"the {len(runs)} runs to make need about {size(needed)} in {folder}, and {size(free)} are free there: "
            f"make room, name a folder on another disk with --out DIR, keep fewer probe items or snapshots ([store] of "
            f"the recipe), or make some of the runs with --only"
        )

"""The bytes of run files, known before they are made, and whether the disk holds them.

    bytes of a run = 4 T (1 + K) + 4 S L P D + 64 KiB

T: trained parameters. K: snapshots before the last step. S: sites of activations (3). L: layers. P: tokens of the probe
set. D: width of the residual stream. 64 KiB stand for scores, curves and names. While a run is trained, its snapshots
lie beside it a second time: 4 T K. A checkpoint of training (`lensrl.train.resume`) is not counted: it takes 12 T, twice
while it is replaced, where there is room.
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
SMALL = 64 << 10  # bytes of scores, curves and names


@dataclass(frozen=True)
class RunBytes:
    """The bytes of a run's file, and of what lies beside it while the run is trained."""

    file: int
    scratch: int = 0


def run_bytes(trained: int, *, layers: int, width: int, tokens: int, snapshots: int = 0) -> RunBytes:
    """Return the bytes of a run of `trained` parameters, without compression. `tokens` are those of the probe set."""
    deltas, activations = FLOAT * trained * (1 + snapshots), FLOAT * SITES * layers * tokens * width
    return RunBytes(deltas + activations + SMALL, FLOAT * trained * snapshots)


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

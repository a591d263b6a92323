"""The folder of a run in training, `.NAME.h5.training` beside the run's file: a checkpoint, and snapshots.

The folder outlives a process that is stopped or killed, and is removed when the run's file is complete. Each entry is a
folder that appears whole or not at all (`lensrl.store.file.atomic.new_folder`):

    step-40/        the checkpoint after step 40 (`lensrl.train.resume`)
    snapshot-20/    the weights after step 20 (`lensrl.train.snapshots`)
    progress.jsonl  the training curve so far, a line a step (`lensrl.train.trackers`); this one grows
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRAINING = ".*.h5.training"


def training_folder(path: Path) -> Path:
    """Return the path of the training folder of a run's file."""
    return path.with_name(f".{path.name}.training")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after a step in a training folder."""
    return folder / f"step-{step}"


def snapshot_path(folder: Path, step: int) -> Path:
    """Return the path of the snapshot after a step in a training folder."""
    return folder / f"snapshot-{step}"


def latest_step(folder: Path) -> int | None:
    """Return the step of the latest checkpoint in a training folder; None without a checkpoint."""
    names = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    return max((int(name) for name in names if name.isdecimal()), default=None)


@contextmanager
def kept_with_checkpoint(folder: Path) -> Iterator[None]:
    """Remove a training folder when the block raises, unless it holds a checkpoint."""
    try:
        yield
    except BaseException:
        if latest_step(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def remove_trained(study: Path) -> None:
    """Remove the training folders of the runs whose file is complete: their process was killed at its very end."""
    for folder in study.glob(TRAINING):
        if folder.with_name(folder.stem.removeprefix(".")).exists():
            shutil.rmtree(folder, ignore_errors=True)

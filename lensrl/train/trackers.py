"""Where a training curve can be followed while it grows: `progress.jsonl`, and the trackers of `report_to`.

`progress.jsonl` lies in the training folder of the run (`.NAME.h5.training`), has a line of JSON a step, and goes with
the folder when the run's file is complete: the file has the whole curve.

    tail -f runs/tiny/.full-rl.seed-0.h5.training/progress.jsonl

A tracker gets one run of its own for each run of the study, in a group or project named after the study, and is
finished after each. The files of TensorBoard and of wandb lie in the study's folder, below `tensorboard` and `wandb`.
wandb stays offline unless WANDB_MODE says otherwise, and `wandb sync` sends its runs later. trackio keeps its runs in
its own folder (TRACKIO_DIR): trackio 0.43, installed beside the tested set, did so without a network. No tracker is a
part of a study: `report_to` may differ between two commands.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from lensrl.errors import LensrlError
from lensrl.train.curve import TrainingCurve

PROGRESS = "progress.jsonl"


class Tracker(Protocol):
    """A place where the rows of one run's curve are shown."""

    def log(self, step: int, row: Mapping[str, float]) -> None: ...
    def finish(self) -> None: ...


class TensorBoard:
    """Event files in `STUDY/tensorboard/RUN`: tensorboard --logdir STUDY/tensorboard."""

    def __init__(self, study: Path, run: str, config: Mapping[str, Any], first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Of a run that goes on, what an earlier process logged after the checkpoint is hidden.
        self._writer = SummaryWriter(str(study / "tensorboard" / run), purge_step=first if first > 1 else None)
        if first == 1:
            self._writer.add_text("recipe", f"```\n{json.dumps(config, indent=2)}\n```")

    def log(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(f"training/{name}", value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases in the group and project of the study, offline by default."""

    def __init__(self, study: Path, run: str, config: Mapping[str, Any], first: int) -> None:
        import wandb

        study.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lensrl"), group=study.name, name=run, config=dict(config),
            dir=str(study), mode=os.environ.get("WANDB_MODE", "offline"), reinit="create_new",  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log({f"training/{name}": value for name, value in row.items()}, step=step)

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio in the project of the study: trackio show --project STUDY."""

    def __init__(self, study: Path, run: str, config: Mapping[str, Any], first: int) -> None:
        self._run = import_module("trackio").init(  # not in the tested set: its packages conflict with others there
            project=study.name, name=run, group=study.name, config=dict(config), embed=False
        )

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log({f"training/{name}": value for name, value in row.items()}, step=step)

    def finish(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise LensrlError for a tracker whose package is not installed."""
    missing = next((name for name in names if find_spec(name) is None), None)
    if missing is not None:
        raise LensrlError(f"report_to = {missing!r} needs a package: pip install 'lensrl[{missing}]'")


@contextmanager
def followed(
    names: Sequence[str], study: Path, run: str, folder: Path, config: Mapping[str, Any]
) -> Iterator[Callable[[TrainingCurve], None]]:
    """Yield a function that shows the new rows of a growing curve, and finish all trackers at the end of the block.

    `folder` is the training folder of the run. Trackers are opened with the first row.
    """
    trackers: list[Tracker] = []
    shown = 0

    def show(curve: TrainingCurve) -> None:
        nonlocal shown
        first = shown == 0
        if first:  # all rows from before a resumption are in the file, and the last one alone is new to the trackers
            folder.mkdir(parents=True, exist_ok=True)
            trackers.extend(TRACKERS[name](study, run, config, len(curve)) for name in names)
        with (folder / PROGRESS).open("w" if first else "a", encoding="utf-8") as file:
            for step in range(shown, len(curve)):
                finite = {name: value if math.isfinite(value) else None for name, value in row(curve, step).items()}
                file.write(json.dumps({"step": step + 1} | finite) + "\n")
        for tracker in trackers:
            tracker.log(len(curve), row(curve, len(curve) - 1))
        shown = len(curve)

    try:
        yield show
    finally:
        for tracker in trackers:
            tracker.finish()


def row(curve: TrainingCurve, step: int) -> dict[str, float]:
    """Return the numbers of a step, counted from 0: those of the whole model, not of single layers."""
    columns = vars(curve).items()
    return {
        name: values[step]
        for name, values in columns
        if isinstance(values, list) and len(values) > step and isinstance(values[step], float)
    }

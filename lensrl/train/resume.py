"""Going on inside a run: checkpoints of training, written while it runs, and read when the run begins again.

    STUDY/.full-rl.seed-0.h5.training/step-40/
        weights.safetensors      the parameters that train
        optimizer.safetensors    the optimizer's state, INDEX/KEY
        state.json               step, origin, curve, optimizer's groups, scheduler, random states, resumed steps

A run that goes on from a checkpoint ends, on a CPU, with the bits of a run that was never interrupted. Frozen
parameters are the base's and are not kept. The order of the items is that of the sampler after as many steps, and the
noise of sampling comes from the step (`lensrl.models.noise`), so neither is kept.

A checkpoint is a state between two steps. SIGTERM may come in the middle of one. Until a step's first update, the
weights are those of the step before, so a checkpoint can be written at once. After it, the step is first ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback

from lensrl.errors import StoreError, reason
from lensrl.store.file.atomic import new_folder
from lensrl.store.file.training import checkpoint_path, latest_step, snapshot_path
from lensrl.train.curve import TrainingCurve
from lensrl.train.random_states import random_states, set_random_states

FORMAT = 1
SECONDS = 15 * 60.0  # of training between two checkpoints, where the recipe gives no steps
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
OTHER = {  # part of an origin -> the reason of a refusal
    "recipe": "it is of another recipe",
    "run": "it is of a run that trains other parameters",
    "base": "it is of another base model",
    "items": "it is of other items",
    "hardware": "it was made on another kind of device or in other types",
    "versions": "it was made by other versions",
}


class Stopped(BaseException):
    """SIGTERM has come, and the weights are those of a whole step. Raised inside training alone."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to go on from. `state` is the contents of `state.json`."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """The step after which it was written."""
        return self.state["step"]

    @property
    def resumed(self) -> tuple[int, ...]:
        """The steps from which the run has gone on so far, this one included."""
        return (*self.state["resumed"], self.step)

    @torch.no_grad()
    def load_weights(self, model: torch.nn.Module) -> None:
        """Give the trained parameters of a model their values."""
        with safe_open(self.folder / WEIGHTS, framework="pt") as kept:
            for name, parameter in _trained(model).items():
                parameter.copy_(kept.get_tensor(name))

    def load_optimizer(self, optimizer: Any, scheduler: Any) -> None:
        """Give a new optimizer and its scheduler their states."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, values in load_file(self.folder / OPTIMIZER).items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = values.clone()  # the file is mapped, and will be removed
        groups = optimizer.state_dict()["param_groups"]
        kept = [dict(given, params=group["params"]) for given, group in zip(self.state["groups"], groups, strict=True)]
        optimizer.load_state_dict({"state": state, "param_groups": kept})
        scheduler.load_state_dict(self.state["scheduler"])

    def load_random(self) -> None:
        """Set the random states of Python, NumPy and torch."""
        set_random_states(self.state["random"])


class Checkpoints(TrainerCallback):
    """Writes the checkpoints of one run in `folder`, and finds the one to go on from.

    `origin` is what a checkpoint rests on, as JSON: by the keys of `OTHER`. `every` counts steps; None means every 15
    minutes. `note` receives a line for a person.
    """

    def __init__(
        self,
        folder: Path,
        origin: Mapping[str, Any],
        *,
        every: int | None,
        note: Callable[[str], None],
    ) -> None:
        self._folder, self._origin, self._every, self._note = folder, origin, every, note
        self._resumed: tuple[int, ...] = ()
        self._step = 0  # the last whole step
        self._written_step, self._written_at = 0, 0.0
        self._random: Mapping[str, Any] = {}  # after the last whole step
        self._whole = True  # the weights are those of the last whole step
        self._asked = False  # by SIGTERM
        self._live = _Live()

    # ---- At the beginning of a run ----

    def find(self, model: PreTrainedModel, snapshots: Collection[int]) -> Checkpoint | None:
        """Return the latest checkpoint, if it is of this run; remove all else that an earlier process left.

        `snapshots` are the steps whose weights are kept: those up to the checkpoint must be there.
        """
        step = latest_step(self._folder)
        found = None if step is None else self._open(step, model, snapshots)
        kept = set() if found is None else {found.folder} | {
            snapshot_path(self._folder, s) for s in snapshots if s <= found.step
        }  # fmt: skip
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if path not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if found is not None:
            self._resumed, self._step = found.resumed, found.step
            self._written_step = found.step
            self._note(f"goes on from step {found.step}")
        return found

    def _open(self, step: int, model: PreTrainedModel, snapshots: Collection[int]) -> Checkpoint | None:
        """Open a checkpoint. Returns None, and says so, when it is of another run or cannot be read."""
        path = checkpoint_path(self._folder, step)
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            why = self._refusal(state, snapshots)
            if why is None:  # both files are whole, and hold what trains
                with safe_open(path / WEIGHTS, "pt") as weights, safe_open(path / OPTIMIZER, "pt"):
                    shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
                if shapes != {name: tuple(p.shape) for name, p in _trained(model).items()}:
                    why = OTHER["run"]
            if why is None:
                return Checkpoint(path, state)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            why = f"it cannot be read ({reason(error)})"
        self._note(f"its checkpoint after step {step} is not used: {why}; started anew")
        return None

    def _refusal(self, state: Mapping[str, Any], snapshots: Collection[int]) -> str | None:
        if state["format"] != FORMAT:
            return OTHER["versions"]
        for part, words in OTHER.items():
            there, here = state["origin"][part], _as_json(self._origin[part])
            if there != here:
                key = next(k for k in sorted(there.keys() | here.keys()) if there.get(k) != here.get(k))
                return f"{words} ({key} is {there.get(key)!r} there and {here.get(key)!r} here)"
        missing = [s for s in snapshots if s <= state["step"] and not snapshot_path(self._folder, s).is_dir()]
        return f"the snapshot after step {missing[0]} is missing" if missing else None

    # ---- In training: TRL's events ----

    def begin(self, curve: TrainingCurve, updates: int) -> None:
        """Say which curve is recorded, and how many updates a step has. To be called before training."""
        self._live.curve, self._live.updates = curve, updates

    def on_train_begin(self, args: Any, state: Any, control: Any, **live: Any) -> None:
        self._live.model, self._live.optimizer = live["model"], live["optimizer"]
        self._live.scheduler = live["lr_scheduler"]
        self._live.model.register_forward_pre_hook(lambda *_: self._stop_if_asked())
        self._written_at = time.monotonic()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._whole = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        # The event comes after the update, the schedule and the row of the curve. Training ends with one more.
        step, update = divmod(state.global_step, self._live.updates)
        if update or step == self._step:
            return
        self._step, self._random, self._whole = step, random_states(), True
        self._stop_if_asked()
        if step % self._every == 0 if self._every else time.monotonic() - self._written_at >= SECONDS:
            self.write()

    # ---- Writing ----

    def write(self) -> bool:
        """Write the checkpoint of the last whole step, and remove the one before. Returns whether it is there.

        A disk that refuses it is no reason to lose the run: the line says so, and training goes on.
        """
        self._written_at = time.monotonic()
        if self._step == self._written_step:
            return self._step > 0
        try:
            self._save(checkpoint_path(self._folder, self._step))
        except (StoreError, SafetensorError) as error:
            self._note(f"no checkpoint after step {self._step}: {reason(error)}")
            return False
        before, self._written_step = self._written_step, self._step
        if before:
            shutil.rmtree(checkpoint_path(self._folder, before), ignore_errors=True)
        return True

    def _save(self, path: Path) -> None:
        live = self._live
        optimizer = live.optimizer.state_dict()
        state = {
            "format": FORMAT,
            "step": self._step,
            "origin": self._origin,
            "resumed": self._resumed,
            "curve": live.curve.rows(self._step),
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in optimizer["param_groups"]],
            "scheduler": live.scheduler.state_dict(),
            "random": self._random,
        }
        with new_folder(path) as partial:
            save_file({name: _on_cpu(p) for name, p in _trained(live.model).items()}, partial / WEIGHTS)
            moments = ((f"{i}/{key}", v) for i, values in optimizer["state"].items() for key, v in values.items())
            save_file({name: _on_cpu(values) for name, values in moments}, partial / OPTIMIZER)
            (partial / STATE).write_text(json.dumps(state), encoding="utf-8")

    # ---- SIGTERM ----

    @contextmanager
    def before_sigterm(self) -> Iterator[None]:
        """Make SIGTERM wait until a checkpoint is written. Then it does what it did before: by default, it kills.

        Python has signals in its main thread only. In another thread, this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            try:
                yield
            finally:
                self._live = _Live()
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        except Stopped:
            if self.write():
                self._note(f"a checkpoint keeps step {self._step}")
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
            self._live = _Live()  # on a GPU, the optimizer would stand beside the scored model
            if self._asked:
                os.kill(os.getpid(), signal.SIGTERM)
        if self._asked:  # whoever handles the signal has gone on
            raise SystemExit(128 + signal.SIGTERM)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _stop_if_asked(self) -> None:
        if self._asked and self._whole:
            raise Stopped


@dataclass
class _Live:
    """What a checkpoint is taken from."""

    curve: Any = None
    updates: int = 1
    model: Any = None
    optimizer: Any = None
    scheduler: Any = None


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))

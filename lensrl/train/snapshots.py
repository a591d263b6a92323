"""Snapshots: the trained weights after some of a run's steps, kept on disk until the run's file is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from lensrl.models.lora import named_weights
from lensrl.models.shards import whole
from lensrl.store.file.atomic import new_folder
from lensrl.store.file.training import snapshot_path

PART = 2**26  # bytes: a file of a snapshot ends with the weight that makes it as large as this


class Snapshots:
    """Keeps the trained parameters of a model after each of `steps`: one folder per step in `folder`.

    They are read one by one, each whole from the shards of all ranks, and written in files of 64 MB, or of one weight.
    Without a folder, nothing is kept: another rank keeps it, and weights in shards are gathered for it.
    """

    def __init__(self, folder: Path | None, steps: Collection[int]) -> None:
        self._folder = folder
        self.steps = steps
        self._kept: dict[int, Path] = {}

    def keep(self, step: int, model: PreTrainedModel) -> None:
        """Save the trained parameters if `step` is one of the steps to keep. To be called after every step."""
        if step not in self.steps:
            return
        weights = ((name, whole(weight)) for name, weight in named_weights(model, trained=True))
        if self._folder is None:
            for _ in weights:  # a rank that keeps nothing takes part in gathering
                pass
            return
        path = snapshot_path(self._folder, step)
        with new_folder(path) as unfinished:  # on the disk before the checkpoint that rests on it
            _save(weights, unfinished)
        self._kept[step] = path

    def go_on(self, step: int) -> None:
        """Take over the snapshots up to `step` that an earlier process kept."""
        assert self._folder is not None
        self._kept = {kept: snapshot_path(self._folder, kept) for kept in self.steps if kept <= step}

    def weights(self, before: Mapping[str, Float32[np.ndarray, "..."]]) -> dict[int, KeptWeights]:
        """Return the kept weights by step. `before` are the weights of the base, for the parameters left frozen."""
        return {step: KeptWeights(_read(path), before) for step, path in self._kept.items()}


class KeptWeights(Mapping[str, np.ndarray]):
    """All weights of a model that was trained, one by one: those that trained are read, and the others are the base's.

    `trained` maps each parameter that trained to a function that reads it, from a device or from disk.
    """

    def __init__(
        self, trained: Mapping[str, Callable[[], torch.Tensor]], before: Mapping[str, Float32[np.ndarray, "..."]]
    ) -> None:
        self._trained = trained
        self._before = before

    def __getitem__(self, name: str) -> np.ndarray:
        return self._trained[name]().numpy() if name in self._trained else self._before[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._before)

    def __len__(self) -> int:
        return len(self._before)


def _save(weights: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Write weights to numbered files, each as soon as it has 64 MB."""
    part: dict[str, torch.Tensor] = {}
    number = 0
    for name, weight in weights:
        part[name] = weight.cpu().contiguous()
        if sum(one.nbytes for one in part.values()) >= PART:
            save_file(part, folder / f"{number}.safetensors")
            number, part = number + 1, {}
    if part:
        save_file(part, folder / f"{number}.safetensors")


def _read(folder: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """Return what reads each weight. The files are mapped, so nothing is copied until it is read."""
    files = [safe_open(path, framework="pt") for path in folder.glob("*.safetensors")]
    return {name: partial(file.get_tensor, name) for file in files for name in file.keys()}  # noqa: SIM118

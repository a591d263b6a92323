"""Snapshots: the trained weights after some of a run's steps, kept on disk until the run's file is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from lensrl.models.lora import trained_weights
from lensrl.models.shards import whole
from lensrl.store.file.atomic import new_folder
from lensrl.store.file.training import snapshot_path

WEIGHTS = "weights.safetensors"


class Snapshots:
    """Keeps the trained parameters of a model after each of `steps`: one folder per step in `folder`.

    Without a folder, it keeps nothing: another rank does, and weights in shards are gathered for it.
    """

    def __init__(
        self, folder: Path | None, steps: Collection[int], before: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self._folder = folder
        self.steps = steps
        self._before = before or {}  # the base's weights, to which adapters are added
        self._kept: dict[int, Path] = {}

    def keep(self, step: int, model: PreTrainedModel) -> None:
        """Save the trained parameters if `step` is one of the steps to keep. To be called after every step."""
        if step not in self.steps:
            return
        if self._folder is None:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    whole(parameter.detach())
            return
        path = snapshot_path(self._folder, step)
        with new_folder(path) as partial:  # on the disk before the checkpoint that rests on it
            save_file(trained_weights(model, self._before), partial / WEIGHTS)
        self._kept[step] = path / WEIGHTS

    def go_on(self, step: int) -> None:
        """Take over the snapshots up to `step` that an earlier process kept."""
        assert self._folder is not None
        self._kept = {kept: snapshot_path(self._folder, kept) / WEIGHTS for kept in self.steps if kept <= step}

    def weights(self, before: Mapping[str, Float32[np.ndarray, "..."]]) -> dict[int, KeptWeights]:
        """Return the kept weights by step. `before` are the weights of the base, for the parameters left frozen."""
        return {step: KeptWeights(path, before) for step, path in self._kept.items()}


class KeptWeights(Mapping[str, np.ndarray]):
    """All weights of a model after a step, read one by one from disk; the base's where a parameter was frozen."""

    def __init__(self, path: Path, before: Mapping[str, Float32[np.ndarray, "..."]]) -> None:
        self._file = safe_open(path, framework="pt")  # maps the file, so nothing is copied until it is read
        self._trained = set(self._file.keys())
        self._before = before

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name).numpy() if name in self._trained else self._before[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._before)

    def __len__(self) -> int:
        return len(self._before)

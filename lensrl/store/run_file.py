"""The file of a run: opened and checked, with what it says about where the run comes from."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import h5py
import numpy as np

from lensrl.errors import Damaged, LensrlError, reason
from lensrl.recipe import LayerSet
from lensrl.store.file.checked import (
    DAMAGE,
    attribute,
    dataset_at,
    group_at,
    has,
    located,
    open_for_reading,
    read_array,
    read_strings,
)
from lensrl.store.file.completeness import CHECKPOINT, DIVERGED, LEFT_OUT, SITES, keep_of, origin_of
from lensrl.store.file.seal import Seal, read_seal
from lensrl.store.write import RUN_FORMAT, RUN_VERSION

# Not Self: tests check the types of single methods, and Self needs its class.
Opened = TypeVar("Opened", bound="RunFile")

MOST_LAYERS = 10_000  # far more than any model has, and few enough to list at once


class RunFile:
    """A run file that is open for reading: its attributes, its recipe, its provenance, its checkpoint."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = open_for_reading(self.path, RUN_FORMAT, RUN_VERSION)
        try:
            root: Any = self.file["/"]  # opened once: each access to the attributes of a file opens it again
            self.study = str(attribute(root, "study"))
            self.name = str(attribute(root, "run"))
            self.seed = int(attribute(root, "seed"))
            self.layers = [int(layer) for layer in attribute(root, "layers")]
            self.status = str(attribute(root, "status"))
            self.reason = str(attribute(root, "reason"))
            self.base = str(attribute(root, "base"))
            self.fingerprint = str(attribute(root, "fingerprint"))
            self.n_layers = int(attribute(root, "n_layers"))
            if not 0 <= self.n_layers == len(dataset_at(self.file, "layer")) <= MOST_LAYERS:
                raise ValueError(f"{self.n_layers} layers are too many, or differ from the length of the layer axis")
            self.bytes = os.fstat(self.file.id.get_vfd_handle()).st_size  # the size of the file
            self.run_id = str(attribute(root, "run_id"))
            self.format_version = int(attribute(root, "format_version"))
            self._score = float(attribute(root, "score")) if self.format_version > 1 else None
            self._snapshots = [int(step) for step in attribute(root, "snapshots")] if self.format_version > 1 else []
        except DAMAGE as error:
            self.file.close()
            raise Damaged(f"{self.path} is damaged ({reason(error)}); delete it and run again") from None

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe with which the run was made, as JSON data."""
        return self._json("recipe")

    @property
    def layer_set(self) -> LayerSet | None:
        """The named set of layers that the run trained, from its recipe; None when the run is not the run of a set."""
        with located(self.file, "its recipe"):
            found = dict(self.recipe.get("sets", {})).get(self.name)
            return None if found is None else LayerSet.model_validate(found)

    @property
    def provenance(self) -> dict[str, Any]:
        """Library versions, git state, device, dtypes, creation time."""
        return self._json("provenance")

    @property
    def origin(self) -> str:
        """Where the weights come from: `training`, or `checkpoint` for a model trained elsewhere."""
        with located(self.file, "attribute origin"):
            return origin_of(self.file)

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint from which the run was taken; None for a run that was trained here.

        Keys: source, revision, snapshots (step -> source), dtype, commit (empty for a folder); `rounding` and
        `parameter_dtypes`; `merged` of a LoRA adapter, and `vocabulary` where its size is not the base's. `dtype` names
        the stored types. The difference of two checkpoints in bfloat16 is mostly rounding where the update was small.
        """
        if self.origin != CHECKPOINT:
            return None
        found = self.provenance.get("checkpoint")
        unknown: dict[str, Any] = {
            "source": "an unknown place",
            "revision": None,
            "snapshots": {},
            "dtype": "unknown",
            "commit": "",
        }
        return unknown | (found if isinstance(found, dict) else {})

    @property
    def rounding(self) -> dict[str, float] | None:
        """Part -> the norm that rounding to the stored types alone would give its deltas; empty without rounding.

        None for a run from a checkpoint whose file does not say.
        """
        if self.checkpoint is None:
            return {}
        found = self.checkpoint.get("rounding")
        return {str(part): float(norm) for part, norm in found.items()} if isinstance(found, dict) else None

    @property
    def notes(self) -> list[str]:
        """What loading changed about the base model, and what the run lacks, in one line each."""
        found = self.provenance.get("notes", [])
        loading = [str(line) for line in found] if isinstance(found, list) else []
        return [*loading, *self.missing_sites]

    @property
    def missing_sites(self) -> list[str]:
        """Which activations the run lacks, in one line each. A model with linear attention has no `attn_out`."""
        with located(self.file, "attribute sites"):
            kept = str(attribute(self.file, "sites")).split(",") if "sites" in self.file.attrs else SITES
        return [f"activations at {s} are left out: some layers have none that is known" for s in SITES if s not in kept]

    @property
    def keep(self) -> str:
        """What the file keeps of the model: `all`, `deltas` without activations, or `norms` without both."""
        with located(self.file, "its recipe"):
            return keep_of(self.file)

    @property
    def has_weights(self) -> bool:
        """False for a run that diverged. The weights of the base are those of its model: it has no deltas."""
        return self.status != DIVERGED

    def close(self) -> None:
        self.file.close()

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @cached_property
    def _seal(self) -> Seal | None:
        return read_seal(self.path, self.file.id.get_vfd_handle())

    def _group(self, name: str, absence: str) -> h5py.Group:
        """Return the group with this name. An error message names the missing data as `absence`."""
        with located(self.file, name):
            if has(self.file, name):
                return group_at(self.file, name)
        if name in LEFT_OUT.get(self.keep, ()) and self.has_weights:
            raise LensrlError(f"run {self.name!r} has {absence}: {self._left_out()}")
        taken = "it was taken from a checkpoint" if self.origin == CHECKPOINT else "the base is not trained"
        raise LensrlError(f"run {self.name!r} has {absence}: {self.reason or taken}")

    def _left_out(self) -> str:
        return f"it was made with store.keep = {self.keep!r}; run the recipe with keep = 'all' into another folder"

    def _json(self, name: str) -> dict[str, Any]:
        with located(self.file, name):
            value = json.loads(attribute(self.file, name))
            if not isinstance(value, dict):
                raise ValueError("it is not a JSON object")
            return value

    def _read(self, group: h5py.Group, name: str) -> np.ndarray:
        with located(self.file, f"{str(group.name).rstrip('/')}/{name}"):
            return read_array(group, name)

    def _strings(self, group: h5py.Group, name: str) -> list[str]:
        with located(self.file, f"{str(group.name).rstrip('/')}/{name}"):
            return read_strings(group, name)

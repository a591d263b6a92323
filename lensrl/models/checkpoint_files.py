"""Find the files of a checkpoint that was trained elsewhere: a folder or a hub name, its config.json, its safetensors.

A folder of another kind is refused in one line, which names the command that turns it into a model folder
(`lensrl.models.folder`). Nothing is unpickled. No tokenizer is needed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers import AutoConfig

from lensrl.errors import LensrlError, reason
from lensrl.models.folder import ADAPTER, INDEX, WEIGHTS, check_config, check_files, not_found
from lensrl.recipe import ModelPlace

BLOCK = 2**24  # entries that are read at once: 32 MB of bf16


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file, unread."""

    key: str
    path: Path
    file: Any  # open: its header is known

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.key).get_shape())

    @property
    def dtype(self) -> str:
        """The type in safetensors' words: BF16."""
        return str(self.file.get_slice(self.key).get_dtype())

    def read(self, rows: int | None = None) -> torch.Tensor:
        """Read the tensor, or its first rows."""
        # The file is mapped anew for each tensor: the pages of one mapping would stay in memory.
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.key) if rows is None else file.get_slice(self.key)[:rows]

    def read_in_fp32(self, rows: int | None = None) -> torch.Tensor:
        """Read the tensor, or its first rows, in fp32. Of another type, a block or one row is read at once."""
        shape = self.shape if rows is None else (rows, *self.shape[1:])
        step = BLOCK // max(1, math.prod(shape[1:])) or 1
        if self.dtype == "F32" or not shape or shape[0] <= step:
            return self.read(rows).to(torch.float32)
        values = torch.empty(shape, dtype=torch.float32)
        for start in range(0, shape[0], step):
            with safe_open(self.path, framework="pt") as file:
                values[start : start + step] = file.get_slice(self.key)[start : min(start + step, shape[0])]
        return values


def find_folder(place: ModelPlace) -> tuple[Path, str]:
    """Return the folder of a checkpoint, downloaded where it is on the hub, and its commit there."""
    folder = Path(place.model).expanduser()
    if folder.is_dir():
        if place.revision is not None:
            raise LensrlError(
                f"{what(place)} is a folder, and revision = {place.revision!r} is of a hub name: leave it out"
            )
        return folder, ""
    if folder.is_file():
        raise LensrlError(f"{place.model} is a file; give the folder with config.json and safetensors")
    if place.model.startswith((".", "/", "~")) or place.model.count("/") != 1:
        raise LensrlError(f"no checkpoint folder at {place.model}; give a folder with config.json and safetensors")
    try:
        found = snapshot_download(
            place.model, revision=place.revision, allow_patterns=["*.safetensors", "*.json"],
            ignore_patterns=["*/*", "consolidated*"],
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise not_found(what(place), place.model, error) from None
    return Path(found), Path(found).name


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter alone, without a full model beside it."""
    return (folder / ADAPTER).is_file() and not any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def read_config(folder: Path, place: ModelPlace) -> dict[str, Any]:
    """Return what config.json says. Raises LensrlError for a folder that is no complete model, and quantised weights.

    The checks are those of a base (`lensrl.models.folder`).
    """
    check_files(folder, what(place))
    # The file as it is written: transformers refuses some of what is refused here, in more words.
    try:
        written = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise LensrlError(f"{what(place)}: config.json cannot be read ({reason(error)})") from None
    check_config(what(place), written)
    return written


def parse_config(folder: Path, place: ModelPlace) -> Any:
    """Return the configuration of a checkpoint, with the defaults of its class."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise LensrlError(f"{what(place)}: config.json has {reason(error.__cause__ or error)}") from None


def open_files(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint by name, from one safetensors file or from shards that were checked."""
    names = [WEIGHTS]  # where both are there, transformers loads this one
    if not (folder / WEIGHTS).is_file():
        names = sorted({*json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()})
    opened = [(folder / name, safe_open(folder / name, framework="pt")) for name in names]  # nothing is read yet
    return {key: StoredTensor(key, path, file) for path, file in opened for key in file.keys()}  # noqa: SIM118


def what(place: ModelPlace) -> str:
    """Return a checkpoint's name for an error message."""
    return f"checkpoint {place.spelled}"

"""Find the files of a checkpoint that was trained elsewhere: a folder or a hub name, its config.json, its safetensors.

A folder of another kind is refused in one line, which names the command that turns it into a model folder. Nothing is
unpickled. `lensrl.models.folder` has the same checks for a base, whose tokenizer is needed, too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from lensrl.errors import LensrlError, reason
from lensrl.models.folder import ADAPTER, INDEX, WEIGHTS
from lensrl.recipe import ModelPlace


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


def find_folder(place: ModelPlace) -> tuple[Path, str]:
    """Return the folder of a checkpoint, downloaded where it is on the hub, and its commit there."""
    folder = Path(place.model).expanduser()
    if folder.is_dir():
        if place.revision is not None:
            raise LensrlError(f"{what(place)} is a folder, and revision = {place.revision!r} is of a hub name")
        return folder, ""
    if place.model.startswith((".", "/", "~")) or place.model.count("/") != 1:
        raise LensrlError(f"no checkpoint folder at {place.model}; give a folder with config.json and safetensors")
    try:
        found = snapshot_download(
            place.model, revision=place.revision, allow_patterns=["*.safetensors", "*.json"],
            ignore_patterns=["*/*", "consolidated*"],
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise LensrlError(
            f"{what(place)} cannot be loaded ({reason(error)}); give a local folder, or a hub name that this machine "
            f"can reach or has in its cache"
        ) from None
    return Path(found), Path(found).name


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter alone, without a full model beside it."""
    return (folder / ADAPTER).is_file() and not any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def read_config(folder: Path, place: ModelPlace) -> dict[str, Any]:
    """Return what config.json says. Raises LensrlError for an adapter, no configuration, and quantised weights."""
    if (folder / ADAPTER).exists():
        beside = "" if is_adapter(folder) else " beside a full model, so it may mean either"
        raise LensrlError(
            f"{what(place)} holds an adapter ({ADAPTER}){beside}: merge it with PEFT, model.merge_and_unload(), save "
            f"the model, and give its folder"
        )
    if not (folder / "config.json").is_file():
        raise LensrlError(f"{what(place)} has no config.json{_shards(folder)}")
    # The file first, as it is written: transformers refuses some of what is refused here, in more words.
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        quantised = written.get("quantization_config")
        method = quantised and quantised.get("quant_method", "quantization_config")
    except (OSError, ValueError, AttributeError) as error:
        raise LensrlError(f"{what(place)}: config.json cannot be read ({reason(error)})") from None
    if quantised:
        raise LensrlError(f"{what(place)} is quantised ({method}): give one in bf16 or fp32")
    return written


def parse_config(folder: Path, place: ModelPlace) -> Any:
    """Return the configuration of a checkpoint, with the defaults of its class."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise LensrlError(f"{what(place)}: config.json has {reason(error.__cause__ or error)}") from None


def open_files(folder: Path, place: ModelPlace) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint by name, from one safetensors file or from shards."""
    try:
        if (folder / WEIGHTS).is_file():  # where both are there, transformers loads this one
            names = [WEIGHTS]
        elif (folder / INDEX).is_file():
            names = sorted({*json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()})
        else:
            raise LensrlError(f"{what(place)} has no {WEIGHTS}{_shards(folder)}")
        absent = next((name for name in names if not (folder / name).is_file()), None)
        if absent is not None:
            raise LensrlError(f"{what(place)} has no {absent}, which {INDEX} names: copy or download it again")
        paths = [folder / name for name in names]
        opened = [(path, safe_open(path, framework="pt")) for path in paths]  # maps the files: nothing is read yet
        return {key: StoredTensor(key, path, file) for path, file in opened for key in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise LensrlError(f"{what(place)} cannot be read ({reason(error)}): copy or download it again") from None


def _shards(folder: Path) -> str:
    """Say which other kind of checkpoint a folder without safetensors is, and the command that turns it into one."""
    files = [path.name for path in folder.rglob("*") if path.is_file()]
    if any(name.startswith("model_world_size_") for name in files):
        return (
            f": it holds shards of verl; merge them: python -m verl.model_merger merge --backend fsdp --local_dir "
            f"{folder} --target_dir MERGED"
        )
    if any(name.endswith(".distcp") for name in files):
        return f": it holds shards of FSDP; merge them: accelerate merge-weights {folder} MERGED"
    if any(re.fullmatch(r"model-\d+-of-\d+\.safetensors", name) for name in files):
        return f": it holds shards without {INDEX}, which names them; copy or download it again"
    if any(name.startswith("pytorch_model") for name in files):
        return ": it holds pickled weights, which are not opened; save it with save_pretrained"
    return f"; give a folder with config.json and {WEIGHTS}"


def what(place: ModelPlace) -> str:
    """Return a checkpoint's name for an error message."""
    return f"checkpoint {place.spelled}"

"""Read the weights of a checkpoint that was trained elsewhere, under the parameter names of a base that is loaded.

    a folder or a hub name  ->  config.json compared with the base's  ->  tensors of safetensors, one at a time, in fp32

`open_pair` reads the base in the same way, against a model without weights (`lensrl.models.skeleton`).
Nothing is unpickled, and no code of a model folder runs. A checkpoint is refused in one line where it is another model
than the base, and where a tensor is missing, left over, quantised or of another shape. No model with weights is built.

What is stored in bfloat16 has been rounded. At a true change of 1e-5, the difference of two such checkpoints has a
cosine of 0.46 with the change; at 1e-6, of 0.15 (weights from N(0, 0.02)). `CheckpointWeights.dtype` names the types.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from lensrl.errors import LensrlError, reason
from lensrl.models.base import EMBEDDED, Base, find_source
from lensrl.models.blocks import Blocks
from lensrl.models.skeleton import Skeleton, build_skeleton
from lensrl.recipe import ModelPlace

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # safetensors' names -> torch's
WRAPPERS = {  # a prefix or infix of tensor names -> how it comes there
    "_orig_mod.": "torch.compile: save model._orig_mod",
    "_fsdp_wrapped_module.": "FSDP: save a full state dict",
    "_checkpoint_wrapped_module.": "activation checkpointing: save the model inside the wrapper",
    "base_model.model.": "PEFT: save the merged model, model.merge_and_unload()",
    "module.": "DataParallel or DeepSpeed: save model.module",
}
DEPTH = ("num_hidden_layers", "n_layer", "num_layers")  # names of the number of layers in configurations
# Settings of a configuration that change no logit of a model whose tensors fit. `max_window_layers` acts through
# `layer_types`, which are compared.
HARMLESS = {
    "_name_or_path", "architectures", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id",
    "gradient_checkpointing", "id2label", "initializer_range", "is_encoder_decoder", "label2id",
    "max_position_embeddings", "max_window_layers", "output_attentions", "output_hidden_states",
    "output_router_logits", "pad_token_id", "pretraining_tp", "problem_type", "return_dict", "router_aux_loss_coef",
    "tie_word_embeddings", "tokenizer_class", "torchscript", "transformers_version", "use_cache", "vocab_size",
}  # fmt: skip


class CheckpointWeights(Mapping[str, np.ndarray]):
    """The weights of a checkpoint under the base's parameter names, in fp32. Each is read when it is asked for.

    `dtypes` maps each parameter to its stored type. `dtype` names the stored types, the most frequent first. `commit`
    is the commit of a hub repository, else empty.
    """

    def __init__(self, place: ModelPlace, base: Base | Skeleton) -> None:
        self.place = place
        folder, self.commit = _find(place)
        config = _check_config(folder, place, base)
        stored = _open_files(folder, place)
        self.keys_by_name = _match(stored, base, place, tied=bool(getattr(config, "tie_word_embeddings", False)))
        self._stored = stored
        self.dtypes: dict[str, str] = {}
        entries: Counter[str] = Counter()
        for name, key in self.keys_by_name.items():
            part = stored[key].file.get_slice(key)
            shape, expected, kind = tuple(part.get_shape()), tuple(base.weights[name].shape), part.get_dtype()
            if kind not in DTYPES:
                raise LensrlError(f"{what(place)} is quantised ({key} is stored as {kind}): give one in bf16 or fp32")
            if shape != expected:
                ends = base.blocks.layer(name) is None and shape[1:] == expected[1:]
                rows = ": its vocabulary was resized or padded" if ends else ""
                raise LensrlError(f"{what(place)}: {key} has the shape {shape}, the base's has {expected}{rows}")
            self.dtypes[name] = DTYPES[kind]
            entries[DTYPES[kind]] += base.weights[name].numel()
        self.dtype = " and ".join(kind for kind, _ in entries.most_common())

    def __getitem__(self, name: str) -> np.ndarray:
        key = self.keys_by_name[name]
        # The file is mapped anew for each tensor: the pages of one mapping would stay in memory.
        with safe_open(self._stored[key].path, framework="pt") as file:
            return file.get_tensor(key).to(torch.float32).numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_by_name)

    def __len__(self) -> int:
        return len(self.keys_by_name)


class Pair(NamedTuple):
    """A base and a model that was trained from it, unread, under the same parameter names."""

    base: CheckpointWeights
    trained: CheckpointWeights
    names: list[str]  # the parameters in the order of the model
    blocks: Blocks


def open_pair(base: str, trained: str) -> Pair:
    """Open two checkpoints, folders or hub names, to be read one tensor at a time.

    Raises LensrlError where one of them is no complete model, and where the second is another model than the first.
    """
    if not (base and trained):
        raise LensrlError("a model has an empty name: give two folders or hub names")
    places = [ModelPlace(model=find_source(name) if name in EMBEDDED else name) for name in (base, trained)]
    folder, _ = _find(places[0])
    _read_config(folder, places[0])
    skeleton = build_skeleton(what(places[0]), _parse_config(folder, places[0]))
    before, after = (CheckpointWeights(place, skeleton) for place in places)
    return Pair(before, after, [*skeleton.weights], skeleton.blocks)


def _find(place: ModelPlace) -> tuple[Path, str]:
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


def _read_config(folder: Path, place: ModelPlace) -> dict[str, Any]:
    """Return what config.json says. Raises LensrlError for an adapter, no configuration, and quantised weights."""
    if (folder / ADAPTER).exists():
        raise LensrlError(
            f"{what(place)} holds an adapter ({ADAPTER}): merge it with PEFT, model.merge_and_unload(), save the "
            f"model, and give its folder"
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


def _parse_config(folder: Path, place: ModelPlace) -> Any:
    """Return the configuration of a checkpoint, with the defaults of its class."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise LensrlError(f"{what(place)}: config.json has {reason(error.__cause__ or error)}") from None


def _check_config(folder: Path, place: ModelPlace, base: Base | Skeleton) -> Any:
    """Return the configuration of a checkpoint. Raises LensrlError where it is another model than the base."""
    written = _read_config(folder, place)
    theirs = base.model.config.to_dict()
    _check_settings(written, theirs, ["model_type", *DEPTH], place, base)
    config = _parse_config(folder, place)
    own = config.to_dict()
    names = sorted(name for name in {*own} & {*theirs} - HARMLESS if "drop" not in name)
    _check_settings(own, theirs, names, place, base)
    return config


def _check_settings(
    own: Mapping[str, Any], theirs: Mapping[str, Any], names: Sequence[str], place: ModelPlace, base: Base | Skeleton
) -> None:
    """Raise LensrlError for the first setting that a checkpoint and the base both have, with other values."""
    for name in names:
        if name in own and name in theirs and own[name] != theirs[name]:
            raise LensrlError(
                f"{what(place)} is another model than {base.name}: {name} is {own[name]!r} there and "
                f"{theirs[name]!r} in the base"
            )


class Opened(NamedTuple):
    """A safetensors file and its path."""

    path: Path
    file: Any


def _open_files(folder: Path, place: ModelPlace) -> dict[str, Opened]:
    """Return tensor name -> the open safetensors file that holds the tensor, for one file or for shards."""
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
        opened = [Opened(path, safe_open(path, framework="pt")) for path in paths]  # maps them: nothing is read yet
        return {key: one for one in opened for key in one.file.keys()}  # noqa: SIM118  # it is no dict
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


def _match(stored: Mapping[str, Opened], base: Base | Skeleton, place: ModelPlace, *, tied: bool) -> dict[str, str]:
    """Return parameter name of the base -> stored tensor name. Raises LensrlError for missing or left-over tensors."""
    model = base.model
    # Every parameter by each of its names: a tied parameter has two, and may be stored under either.
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {alias: first[id(parameter)] for alias, parameter in model.named_parameters(remove_duplicate=False)}
    renamed = _renamed(stored, base, place)
    matched: dict[str, str] = {}
    for key, name in renamed.items():
        if name in names:
            one = matched.setdefault(names[name], key)
            if one != key and not torch.equal(stored[key].file.get_tensor(key), stored[one].file.get_tensor(one)):
                raise LensrlError(
                    f"{what(place)}: {key} and {one} differ, and they are one parameter in {base.name}, whose head is "
                    f"tied to its embeddings"
                )
    # The head and the embeddings: a head that is tied in one of the two models alone.
    head, embed = (first.get(id(part.weight)) if part is not None else None for part in _ends(model))
    if tied and head is not None and head not in matched and embed in matched:
        matched[head] = matched[embed]
    ends = {alias for alias, name in names.items() if name == head and alias != embed} if head == embed else set()
    if not tied and ends and not ends & {*renamed.values()}:
        raise LensrlError(f"{what(place)} lacks {min(ends)}, and its config.json says tie_word_embeddings = false")
    missing = next((name for name in base.weights if name not in matched), None)
    if missing is not None:
        raise LensrlError(f"{what(place)} lacks {missing}{_cause({*stored}, missing)}")
    # What is left over must be a buffer that the base computes itself.
    buffers = {name for name, _ in model.named_buffers()}
    for key, name in renamed.items():
        if name not in names and name not in buffers and not key.endswith("rotary_emb.inv_freq"):
            raise LensrlError(
                f"{what(place)} has a tensor {key}, which {base.name} does not have: it is another architecture, or a "
                f"head that RL added"
            )
    return matched


def _renamed(stored: Mapping[str, Opened], base: Base | Skeleton, place: ModelPlace) -> dict[str, str]:
    """Return stored tensor name -> name in the model, by the rules by which transformers loads this architecture."""
    transforms, prefix = get_model_conversion_mapping(base.model), base.model.base_model_prefix
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    known = base.model.state_dict()
    renamed = {}
    for key in sorted(stored):
        renamed[key], converted = rename_source_key(key, renamings, converters, prefix, known)
        if converted is not None:
            raise LensrlError(
                f"{what(place)} stores {key}, which transformers merges with other tensors when it loads them, as it "
                f"does with single experts: such a checkpoint cannot be compared tensor by tensor"
            )
    return renamed


def _ends(model: Any) -> tuple[Any, Any]:
    return model.get_output_embeddings(), model.get_input_embeddings()


def _cause(keys: set[str], missing: str) -> str:
    """Say why a tensor is probably missing: its name is wrapped, or other tensors are there under other names."""
    for wrapper, how in WRAPPERS.items():
        if any(wrapper in key and key.replace(wrapper, "") == missing for key in keys):
            return f", but has it with {wrapper!r} in its name, from {how}"
    ending = next((key for key in sorted(keys) if key.endswith(f".{missing}") or missing.endswith(f".{key}")), None)
    return f"; it has {ending}" if ending else "; its weights are not whole"


def what(place: ModelPlace) -> str:
    """Return a checkpoint's name for an error message."""
    return f"checkpoint {place.spelled}"

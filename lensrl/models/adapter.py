"""Merge a LoRA adapter of PEFT into its base, one parameter at a time.

    adapter folder  ->  PEFT's layers around the base without weights  ->  W + scale B A, as PEFT merges it

PEFT itself merges: rank and alpha (also by module), rsLoRA and DoRA mean what they mean there. The sum is taken in
fp32, from the base's weights. So its difference from the base is the adapter, up to the rounding of one fp32 sum.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from lensrl.errors import LensrlError, reason
from lensrl.models.base import Base
from lensrl.models.checkpoint import CheckpointWeights, Vocabulary
from lensrl.models.checkpoint_files import find_folder, is_adapter, what
from lensrl.models.skeleton import Skeleton, build_skeleton
from lensrl.recipe import ModelPlace

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the base's names in PEFT's
NAME = "default"  # PEFT's own name for the adapter of a folder
_RECORDED = ("r", "lora_alpha", "use_rslora", "use_dora", "base_model_name_or_path")
_BY_HAND = "merge it with PEFT, model.merge_and_unload(), save the model with its tokenizer, and give that folder"


class MergedAdapter(Mapping[str, np.ndarray]):
    """The weights of a base with a LoRA adapter merged into it, in fp32. Each is merged when it is asked for.

    `before` maps every parameter of the base to its weights. The other attributes are those of `CheckpointWeights`.
    `merged` is the record of the adapter: rank, alpha, rsLoRA, DoRA, and the base model that it names.

    Raises LensrlError in one line where PEFT is not installed; for an adapter of another kind than LoRA; and where the
    adapter does not fit the base: a module that the base lacks, another shape, a tensor that is missing or left over.
    """

    def __init__(self, place: ModelPlace, base: Base | Skeleton, before: Mapping[str, Any]) -> None:
        self.place, self.before = place, before
        self.folder, self.commit = find_folder(place)
        self.vocabulary: Vocabulary | None = None
        self.resized: set[str] = set()
        self.left_out: list[str] = []
        config = _read_config(self.folder, place)
        self.merged: Mapping[str, object] = {name: config.get(name) for name in _RECORDED}
        self._merging = Lock()
        self._layers = _wrap(self.folder, place, base, before)
        stored: Mapping[str, str] = before.dtypes if isinstance(before, CheckpointWeights) else {}
        self.dtypes = {name: "float32" if name in self._layers else stored.get(name, "float32") for name in before}
        self.dtype = "float32"  # of what was merged here

    def __getitem__(self, name: str) -> np.ndarray:
        found = self._layers.get(name)
        if found is None:
            return _fp32(self.before[name]).numpy()
        layer, own = found
        # PEFT merges in place: give the layer the base's weights, merge, and take them out again. One thread at a time.
        with self._merging:
            for inner, full in own.items():
                _set(layer.get_base_layer(), inner, _fp32(self.before[full]).clone())
            try:
                layer.merge(safe_merge=False, adapter_names=[NAME])
            except Exception as error:  # PEFT raises errors of many classes
                raise LensrlError(f"{what(self.place)} cannot be merged into {name} ({reason(error)})") from None
            layer.merged_adapters.clear()
            inner = next(inner for inner, full in own.items() if full == name)
            merged = layer.get_base_layer().get_parameter(inner).detach()
            for inner, full in own.items():
                _set(layer.get_base_layer(), inner, _blank(self.before[full].shape))
            return merged.numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.before)

    def __len__(self) -> int:
        return len(self.before)


def open_weights(
    place: ModelPlace,
    base: Base | Skeleton,
    *,
    before: Mapping[str, Any],
    fill: Mapping[str, torch.Tensor] | None = None,
) -> CheckpointWeights | MergedAdapter:
    """Open a checkpoint, or an adapter, which is merged into the base, whose weights are `before`.

    `fill`: see `CheckpointWeights`.
    """
    folder, _ = find_folder(place)
    return MergedAdapter(place, base, before) if is_adapter(folder) else CheckpointWeights(place, base, fill=fill)


def _read_config(folder: Path, place: ModelPlace) -> dict[str, Any]:
    """Return the configuration of an adapter. Raises LensrlError for one that is not LoRA, or also trains biases."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind, bias = config["peft_type"], config.get("bias", "none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LensrlError(f"{what(place)}: adapter_config.json cannot be read ({reason(error)})") from None
    if kind != "LORA" or bias != "none":
        more = f" with bias = {bias!r}" if kind == "LORA" else ""
        raise LensrlError(f"{what(place)} is a {kind} adapter{more}, and lensrl merges LoRA alone: {_BY_HAND}")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise LensrlError(
            f"{what(place)} has no {ADAPTER_WEIGHTS}: save the adapter with save_pretrained; pickled weights are not "
            f"opened"
        )
    return config


class Adapted(NamedTuple):
    """A layer of PEFT around a module of the base."""

    layer: Any
    own: dict[str, str]  # a parameter's name inside the module -> its full name


def _wrap(folder: Path, place: ModelPlace, base: Base | Skeleton, before: Mapping[str, Any]) -> dict[str, Adapted]:
    """Return parameter -> the layer of PEFT that changes it."""
    try:
        from peft import PeftModel
        from peft.tuners.lora.layer import LoraLayer, ParamWrapper
    except ImportError:
        raise LensrlError(
            f"{what(place)} is a LoRA adapter, and merging it needs PEFT: pip install 'lensrl[peft]'"
        ) from None
    model = build_skeleton(base.name, base.model.config).model
    _empty(model)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    tied = {alias: first[id(p)] for alias, p in model.named_parameters(remove_duplicate=False) if alias != first[id(p)]}
    try:
        # PEFT takes the tensors of the file as they are, and leaves on the meta device what the file lacks.
        with warnings.catch_warnings():  # about names in transformers, and about settings of training
            warnings.simplefilter("ignore")
            wrapped = PeftModel.from_pretrained(model, folder, adapter_name=NAME, low_cpu_mem_usage=True)
    except Exception as error:  # PEFT raises errors of many classes
        raise LensrlError(
            f"{what(place)} does not fit {base.name} ({reason(error)}); give the base it was made on"
        ) from None
    layers: dict[str, Adapted] = {}
    adapted: dict[str, nn.Parameter] = {}  # the tensors that PEFT put around the base
    for path, layer in wrapped.named_modules():
        if not isinstance(layer, LoraLayer) or not isinstance(layer, nn.Module):
            continue
        module = path.removeprefix(PREFIX).replace(".base_layer", "")  # one layer around another: two kinds of experts
        own = {inner: f"{module}.{inner}" for inner, _ in layer.get_base_layer().named_parameters()}
        for name in own.values():
            other = tied.get(name, next((alias for alias, of in tied.items() if of == name), None))
            if other is not None:
                raise LensrlError(f"{what(place)} changes {name}, which {base.name} also uses as {other}: {_BY_HAND}")
        changed = [own[layer.parameter_name]] if isinstance(layer, ParamWrapper) else own.values()
        layers |= {name: Adapted(layer, own) for name in changed}
        adapted |= {f"{path}.{inner}": p for inner, p in layer.named_parameters() if f".{NAME}" in f".{inner}"}
    _check_whole(folder, place, base, adapted, before)
    return layers


def _check_whole(
    folder: Path,
    place: ModelPlace,
    base: Base | Skeleton,
    adapted: Mapping[str, nn.Parameter],
    before: Mapping[str, Any],
) -> None:
    """Raise LensrlError for a tensor of the adapter that the file lacks, that is left over, or that is not finite.

    PEFT may store the base's weights of an adapted embedding, too. They must be those of this base.
    """
    missing = next((name for name, parameter in adapted.items() if parameter.is_meta), None)
    if missing is not None:
        raise LensrlError(f"{what(place)} lacks {missing}: save the adapter again, or give the base it was made on")
    known = {name.replace(f".{NAME}", "") for name in adapted}
    known |= {name.removesuffix(".weight") for name in known}  # so PEFT writes the magnitudes of DoRA
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        for key in sorted({*file.keys()} - known):
            name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
            if ".base_layer." not in key or name not in before:
                raise LensrlError(
                    f"{what(place)} holds {key}, which is no LoRA tensor of {base.name}: give the base it was made on; "
                    f"if it also trained whole modules, {_BY_HAND}"
                )
            kept = file.get_tensor(key)
            if not torch.equal(kept, _fp32(before[name]).to(kept.dtype)):
                raise LensrlError(
                    f"{what(place)} was made on another base than {base.name}: it holds another {name}; give the base "
                    f"it was made on"
                )
    wrong = next((name for name, parameter in adapted.items() if not parameter.isfinite().all()), None)
    if wrong is not None:
        raise LensrlError(f"{what(place)}: {wrong} holds a NaN or an infinity; give an earlier checkpoint")


def _empty(model: nn.Module) -> None:
    """Put tensors without memory in the place of all parameters, tied ones together. PEFT needs them on the CPU."""
    replaced = [*model.parameters()]  # held until the end: an id may be used again
    blank = {id(parameter): nn.Parameter(_blank(parameter.shape), requires_grad=False) for parameter in replaced}
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            setattr(module, name, blank[id(parameter)])


def _blank(shape: Sequence[int]) -> torch.Tensor:
    return torch.zeros(()).expand(tuple(shape))


def _fp32(weights: Any) -> torch.Tensor:
    return weights if isinstance(weights, torch.Tensor) else torch.from_numpy(weights)


def _set(module: nn.Module, name: str, values: torch.Tensor) -> None:
    path, _, last = name.rpartition(".")
    setattr(module.get_submodule(path), last, nn.Parameter(values, requires_grad=False))

"""Match the tensors of a checkpoint with the parameters of a base, by the rules by which transformers loads them.

Most parameters are one stored tensor, under its own or another name. The experts of a mixture are stored one by one,
and are one parameter of the model: they are joined when the parameter is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from lensrl.errors import LensrlError, reason
from lensrl.models.base import Base
from lensrl.models.checkpoint_files import StoredTensor, what
from lensrl.models.loading import VALUE_HEAD, check_complete, weights_of
from lensrl.models.skeleton import Skeleton
from lensrl.recipe import ModelPlace


class Source(NamedTuple):
    """The stored tensors of one parameter: one, or several that `converter` joins."""

    keys: tuple[str, ...]
    converter: WeightConverter | None = None
    patterns: tuple[str, ...] = ()  # of the converter, one for each key
    layer: str = ""  # the name under which the converter knows what it makes

    def join(self, name: str, tensors: Sequence[torch.Tensor], model: PreTrainedModel) -> torch.Tensor:
        """Return the parameter `name` from its stored tensors, in the order of `keys`."""
        if self.converter is None:
            return tensors[0]
        converter = deepcopy(self.converter)  # it holds the tensors that it was given
        for key, pattern, tensor in zip(self.keys, self.patterns, tensors, strict=True):
            converter.add_tensor(self.layer, key, pattern, tensor)  # pyright: ignore[reportArgumentType]
        made = converter.convert(self.layer, model=model, config=model.config)[name]
        return made[0] if isinstance(made, list) else made


def match(
    stored: Mapping[str, StoredTensor], base: Base | Skeleton, place: ModelPlace, *, tied: bool
) -> dict[str, Source]:
    """Return parameter name of the base -> its stored tensors. Raises LensrlError for missing or left-over tensors.

    `tied`: the checkpoint ties its head to its embeddings.
    """
    model = base.model
    # Every parameter by each of its names: a tied parameter has two, and may be stored under either.
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {alias: first[id(parameter)] for alias, parameter in model.named_parameters(remove_duplicate=False)}
    renamed, matched = _rename(stored, base, place)
    found = {**renamed, **{key: name for name, source in matched.items() for key in source.keys}}
    for key, name in renamed.items():
        if name in names:
            one = matched.setdefault(names[name], Source((key,))).keys[0]
            if one != key and not torch.equal(stored[key].read(), stored[one].read()):
                raise LensrlError(
                    f"{what(place)}: {key} and {one} differ, and they are one parameter in {base.name}, whose head is "
                    f"tied to its embeddings; save the base with a head of its own, a copy of its embeddings, and "
                    f"tie_word_embeddings = false, and give that"
                )
    # The head and the embeddings: a head that is tied in one of the two models alone.
    head, embed = (first.get(id(part.weight)) if part is not None else None for part in ends(model))
    if tied and head is not None and head not in matched and embed in matched:
        matched[head] = matched[embed]
    heads = {alias for alias, name in names.items() if name == head and alias != embed} if head == embed else set()
    if not tied and heads and not heads & {*renamed.values()}:
        raise LensrlError(
            f"{what(place)} lacks {min(heads)}, and its config.json says tie_word_embeddings = false; give the folder "
            f"with its head, or set tie_word_embeddings to true there if the head is the embedding"
        )
    # Nothing may be left over but a table that the base computes itself, or the value head of PPO.
    buffers = {name for name, _ in model.named_buffers()}
    known = {*names, *buffers}
    left_over = [key for key, name in found.items() if name not in known and not key.startswith(VALUE_HEAD)]
    missing = [name for name in base.weights if name not in matched]
    folder = next(iter(stored.values())).path.parent
    check_complete(what(place), str(folder), model, weights_of(missing), weights_of(left_over))
    return matched


def has_two_heads(stored: Mapping[str, StoredTensor], base: Skeleton, place: ModelPlace) -> bool:
    """Return whether a folder stores two different tensors for one parameter of a model: a head that is not tied."""
    first = {id(parameter): name for name, parameter in base.model.named_parameters()}
    names = {alias: first[id(p)] for alias, p in base.model.named_parameters(remove_duplicate=False)}
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for key, name in _rename(stored, base, place)[0].items():
        keys[names.get(name, key)].append(key)
    pairs = [found for found in keys.values() if len(found) == 2]
    return any(not torch.equal(*(stored[key].read() for key in pair)) for pair in pairs)


def ends(model: Any) -> tuple[Any, Any]:
    """Return the output embedding and the input embedding of a model."""
    return model.get_output_embeddings(), model.get_input_embeddings()


def _rename(
    stored: Mapping[str, StoredTensor], base: Base | Skeleton, place: ModelPlace
) -> tuple[dict[str, str], dict[str, Source]]:
    """Return stored tensor -> parameter name, for tensors that are a parameter; and parameter -> tensors to join."""
    transforms, prefix = get_model_conversion_mapping(base.model), base.model.base_model_prefix
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    known, by_pattern = base.model.state_dict(), {p: c for c in converters for p in c.source_patterns}
    renamed: dict[str, str] = {}
    groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in sorted(stored, key=dot_natural_key):  # expert 2 before expert 10
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:  # a name of the model itself, which is no name to change
            name, pattern = rename_source_key(key, [], [], prefix, known)
        if pattern is None:
            renamed[key] = name
        else:
            groups[name].append((key, pattern))
    # What each group makes is known from the shapes of its tensors alone.
    joined: dict[str, Source] = {}
    for layer, members in groups.items():
        keys, patterns = (tuple(column) for column in zip(*members, strict=True))
        source = Source(keys, by_pattern[patterns[0]], patterns, layer)
        converter = deepcopy(by_pattern[patterns[0]])
        for key, pattern in members:
            shape = stored[key].shape
            converter.add_tensor(layer, key, pattern, torch.empty(shape, device="meta"))  # pyright: ignore[reportArgumentType]
        try:
            made = converter.convert(layer, model=base.model, config=base.model.config)
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
            raise LensrlError(
                f"{what(place)}: {keys[0]} and {len(keys) - 1} more make no {layer} ({reason(error)}); its weights are "
                f"not whole"
            ) from None
        joined |= dict.fromkeys(made, source)
    return renamed, joined

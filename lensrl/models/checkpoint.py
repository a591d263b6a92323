"""Read the weights of a checkpoint that was trained elsewhere, under the parameter names of a base that is loaded.

    a folder or a hub name  ->  config.json compared with the base's  ->  tensors of safetensors, one at a time, in fp32

`lensrl.models.pair` reads the base in the same way, against a model without weights (`lensrl.models.skeleton`).
Nothing is unpickled, and no code of a model folder runs. A checkpoint is refused in one line where it is another model
than the base, and where a tensor is missing, left over, quantised or of another shape. No model with weights is built.

What is stored in bfloat16 has been rounded. At a true change of 1e-5, the difference of two such checkpoints has a
cosine of 0.46 with the change; at 1e-6, of 0.15 (weights from N(0, 0.02)). `CheckpointWeights.dtype` names the types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.utils.hub import cached_file

from lensrl.errors import LensrlError
from lensrl.models.base import Base
from lensrl.models.checkpoint_files import find_folder, open_files, parse_config, read_config, what
from lensrl.models.checkpoint_match import Source, ends, match
from lensrl.models.folder import DTYPES, quantised_message
from lensrl.models.loading import VALUE_HEAD
from lensrl.models.skeleton import Skeleton
from lensrl.recipe import ModelPlace

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


class Vocabulary(NamedTuple):
    """The rows of the embeddings, where a checkpoint has another number of them than the base."""

    base: int
    checkpoint: int

    @property
    def common(self) -> int:
        """The first rows, which both have."""
        return min(self)


class CheckpointWeights(Mapping[str, np.ndarray]):
    """The weights of a checkpoint under the base's parameter names, in fp32. Each is read when it is asked for.

    `dtypes` maps each parameter to its stored type. `dtype` names the stored types, the most frequent first. `commit`
    is the commit of a hub repository, else empty.

    `left_out` names the tensors of a value head, which is no part of the policy.

    `vocabulary` is None where the checkpoint has as many rows of embeddings as the base. Otherwise the rows that both
    have are read, and `resized` names these parameters. `fill` gives the weights of the base: rows that the checkpoint
    lacks are then the base's, and every parameter has the shape of the base's.
    """

    merged: Mapping[str, object] | None = None  # of a merged adapter alone: `lensrl.models.adapter`

    def __init__(
        self, place: ModelPlace, base: Base | Skeleton, *, fill: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self.place, self.fill = place, fill
        self.folder, self.commit = find_folder(place)
        config = _check_config(self.folder, place, base)
        self._stored = open_files(self.folder)
        self._model = base.model
        self.sources = match(self._stored, base, place, tied=bool(getattr(config, "tie_word_embeddings", False)))
        self.left_out = sorted(key for key in self._stored if key.startswith(VALUE_HEAD))
        self.vocabulary: Vocabulary | None = None
        self.resized: set[str] = set()
        self.dtypes: dict[str, str] = {}
        of_vocabulary = {id(p) for part in ends(base.model) if part is not None for p in part.parameters()}
        of_vocabulary = {name for name, p in base.model.named_parameters() if id(p) in of_vocabulary}
        entries: Counter[str] = Counter()
        for name, source in self.sources.items():
            shape, kind = self._look(name, source)
            expected = tuple(base.weights[name].shape)
            if shape[1:] == expected[1:] and shape != expected and name in of_vocabulary:
                said = config.get_text_config().vocab_size
                if shape[0] != said:
                    raise LensrlError(
                        f"{what(place)}: {source.keys[0]} has {shape[0]} rows, and its config.json says vocab_size = "
                        f"{said}; give the config.json that was saved with these weights"
                    )
                self.vocabulary = Vocabulary(expected[0], shape[0])
                self.resized.add(name)
            elif shape != expected:
                turned = ", which is its transpose" if shape == expected[::-1] else ""
                raise LensrlError(
                    f"{what(place)}: {source.keys[0]} has the shape {shape}, the base's has {expected}{turned}; give "
                    f"the folder as transformers saves it"
                )
            self.dtypes[name] = kind
            entries[kind] += base.weights[name].numel()
        self.dtype = " and ".join(kind for kind, _ in entries.most_common())

    def _look(self, name: str, source: Source) -> tuple[tuple[int, ...], str]:
        """Return the shape and the stored type of a parameter, from the headers of its tensors."""
        parts = [self._stored[key] for key in source.keys]
        kinds = {part.dtype: part.key for part in parts}
        unknown = next((kind for kind in kinds if kind not in DTYPES), None)
        if unknown is not None:
            raise LensrlError(quantised_message(what(self.place), kinds[unknown], unknown))
        shapes = [torch.empty(part.shape, device="meta") for part in parts]
        return tuple(source.join(name, shapes, self._model).shape), " and ".join(DTYPES[kind] for kind in kinds)

    def __getitem__(self, name: str) -> np.ndarray:
        source = self.sources[name]
        if name not in self.resized or self.vocabulary is None:
            tensors = [self._stored[key].read_in_fp32() for key in source.keys]
            return source.join(name, tensors, self._model).numpy()
        rows = self._stored[source.keys[0]].read_in_fp32(self.vocabulary.common)
        return (rows if self.fill is None else torch.cat([rows, self.fill[name][len(rows) :]])).numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)


def stored_dtypes(base: Base) -> Mapping[str, str]:
    """Return the type in which each parameter of a base is stored in its files. Reads headers alone."""
    source = str(base.model.name_or_path)
    folder = Path(str(cached_file(source, "config.json", revision=getattr(base.model.config, "_commit_hash", None))))
    return CheckpointWeights(ModelPlace(model=str(folder.parent)), base).dtypes


def _check_config(folder: Path, place: ModelPlace, base: Base | Skeleton) -> Any:
    """Return the configuration of a checkpoint. Raises LensrlError where it is another model than the base."""
    written = read_config(folder, place)
    theirs = base.model.config.to_dict()
    _check_settings(written, theirs, ["model_type", *DEPTH], place, base)
    config = parse_config(folder, place)
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

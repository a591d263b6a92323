"""A base, and a model that was trained from it, read tensor by tensor, without a model in memory."""

from __future__ import annotations

from typing import NamedTuple

from lensrl.errors import LensrlError
from lensrl.models.adapter import MergedAdapter, open_weights
from lensrl.models.base import EMBEDDED, find_source
from lensrl.models.blocks import Blocks
from lensrl.models.checkpoint import CheckpointWeights
from lensrl.models.checkpoint_files import find_folder, open_files, parse_config, read_config, what
from lensrl.models.checkpoint_match import has_two_heads
from lensrl.models.skeleton import Skeleton, build_skeleton
from lensrl.recipe import ModelPlace


class Pair(NamedTuple):
    """A base and a model that was trained from it, unread, under the same parameter names."""

    base: CheckpointWeights
    trained: CheckpointWeights | MergedAdapter
    entries: dict[str, int]  # the number of entries of each parameter, in the order of the model
    blocks: Blocks


def open_pair(base: str, trained: str) -> Pair:
    """Open two checkpoints, folders or hub names, to be read one tensor at a time. The second may be a LoRA adapter.

    Raises LensrlError where one of them is no complete model, and where the second is another model than the first.
    """
    if not (base and trained):
        raise LensrlError("a model has an empty name: give two folders or hub names")
    before, skeleton = open_base(base)
    after = open_weights(_place(trained), skeleton, before=before)
    entries = {name: parameter.numel() for name, parameter in skeleton.weights.items()}
    return Pair(before, after, entries, skeleton.blocks)


def open_base(name: str) -> tuple[CheckpointWeights, Skeleton]:
    """Open a base, an embedded model, a folder or a hub name: weights to be read one at a time, and the model without.

    The weights have the names and values of `load_base`. Raises LensrlError where it is no complete model.
    """
    place = _place(name)
    folder, _ = find_folder(place)
    read_config(folder, place)
    config = parse_config(folder, place)
    skeleton = build_skeleton(what(place), config)
    if has_two_heads(open_files(folder), skeleton, place):  # as `load_base` does: used as two
        config.get_text_config().tie_word_embeddings = config.tie_word_embeddings = False
        skeleton = build_skeleton(what(place), config)
    return CheckpointWeights(place, skeleton), skeleton


def _place(name: str) -> ModelPlace:
    return ModelPlace(model=find_source(name) if name in EMBEDDED else name)

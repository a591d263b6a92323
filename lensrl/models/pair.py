"""A base and a model that was trained from it, read tensor by tensor, without a model in memory."""

from __future__ import annotations

from typing import NamedTuple

from lensrl.errors import LensrlError
from lensrl.models.adapter import MergedAdapter, open_weights
from lensrl.models.base import EMBEDDED, find_source
from lensrl.models.blocks import Blocks
from lensrl.models.checkpoint import CheckpointWeights
from lensrl.models.checkpoint_files import find_folder, open_files, parse_config, read_config, what
from lensrl.models.checkpoint_match import has_two_heads
from lensrl.models.skeleton import build_skeleton
from lensrl.recipe import ModelPlace


class Pair(NamedTuple):
    """A base and a model that was trained from it, unread, under the same parameter names."""

    base: CheckpointWeights
    trained: CheckpointWeights | MergedAdapter
    names: list[str]  # the parameters in the order of the model
    blocks: Blocks


def open_pair(base: str, trained: str) -> Pair:
    """Open two checkpoints, folders or hub names, to be read one tensor at a time. The second may be a LoRA adapter.

    Raises LensrlError where one of them is no complete model, and where the second is another model than the first.
    """
    if not (base and trained):
        raise LensrlError("a model has an empty name: give two folders or hub names")
    places = [ModelPlace(model=find_source(name) if name in EMBEDDED else name) for name in (base, trained)]
    folder, _ = find_folder(places[0])
    read_config(folder, places[0])
    config = parse_config(folder, places[0])
    skeleton = build_skeleton(what(places[0]), config)
    if has_two_heads(open_files(folder), skeleton, places[0]):  # as `load_base` does: used as two
        config.get_text_config().tie_word_embeddings = config.tie_word_embeddings = False
        skeleton = build_skeleton(what(places[0]), config)
    before = CheckpointWeights(places[0], skeleton)
    after = open_weights(places[1], skeleton, before=before)
    return Pair(before, after, [*skeleton.weights], skeleton.blocks)

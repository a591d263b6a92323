"""Texts of any length in a file: their UTF-8, one after another, in blocks that HDF5 itself compresses (deflate).

    text                          (block, byte)   uint8    the texts of a group, each once; zeros at the end
    NAME_start, NAME_size         the axes of NAME         where a text begins, and its bytes

HDF5 does not compress texts of variable length, and texts of one fixed length would all take the space of the longest
one before compression. A block of fixed width keeps the rule that every dimension has an axis: an axis that counts
single bytes would take four times the space of the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np

from lensrl.store.file.checked import read_array
from lensrl.store.file.hdf5 import axis, create

BLOCK = 1024  # bytes


class Column(NamedTuple):
    """Texts by the axes of their dataset: a list for one axis, a list of lists for two. Rows may differ in length."""

    texts: Sequence[Any]
    axes: tuple[str, ...]
    shape: tuple[int, ...]


def write_texts(group: h5py.Group, columns: Mapping[str, Column]) -> None:
    """Write the texts of all columns into `group`. A place without a text has start and size 0.

    What UTF-8 cannot say (half a surrogate pair) becomes `?`.
    """
    content, known = bytearray(), dict[str, tuple[int, int]]()

    def place(text: str) -> tuple[int, int]:
        if text not in known:
            raw = text.encode(errors="replace")
            known[text] = (len(content) if raw else 0, len(raw))
            content.extend(raw)
        return known[text]

    for name, (texts, axes, shape) in columns.items():
        start, size = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, found in enumerate(texts):
            if isinstance(found, str):
                start[row], size[row] = place(found)
            else:
                for column, text in enumerate(found):
                    start[row, column], size[row, column] = place(text)
        create(group, f"{name}_start", start, axes)
        create(group, f"{name}_size", size, axes)
    blocks = -(-len(content) // BLOCK)
    axis(group.file, "byte", BLOCK)
    axis(group, "block", blocks)
    padded = np.zeros(blocks * BLOCK, np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    create(group, "text", padded.reshape(blocks, BLOCK), ("block", "byte"), "deflate")


class Texts:
    """The texts of a group, read at once. Raises ValueError for a place outside of them, or without UTF-8."""

    def __init__(self, group: h5py.Group) -> None:
        self._group = group
        self._content = read_array(group, "text").tobytes()

    def column(self, name: str) -> list[str]:
        """Return the texts of a column in the order of its axes, the last one fastest."""
        start, size = read_array(self._group, f"{name}_start"), read_array(self._group, f"{name}_size")
        if (start < 0).any() or (size < 0).any() or (start + size > len(self._content)).any():
            raise ValueError(f"{name}_start and {name}_size lie outside of text")
        places = zip(start.reshape(-1).tolist(), size.reshape(-1).tolist(), strict=True)
        return [self._content[first : first + count].decode() for first, count in places]

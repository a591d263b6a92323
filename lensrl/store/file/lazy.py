"""Lazy arrays, which are read when they are sliced, and the mappings that hold them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from lensrl.errors import did_you_mean, reason
from lensrl.recipe.layers import OUTSIDE
from lensrl.store.file.checked import attribute, dataset_at, group_at, has, located, members, read_array, read_strings
from lensrl.store.file.deltas import read_delta
from lensrl.store.file.exact import Delta
from lensrl.store.file.hdf5 import PAGE
from lensrl.store.file.seal import Seal
from lensrl.store.look import result_html

_PART = re.compile("|".join(("0|[1-9][0-9]*", *OUTSIDE)))


class LazyArray:
    """An array in a run file. `.shape` and `.dtype` are known at once; indexing reads the selected entries alone.

    An array that lies in the file in one piece (a delta that is not compressed) is read without a comparison with the
    seal of the file. `lensrl verify` compares it, and so does every function of lensrl that computes with deltas.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.name = str(dataset.name).lstrip("/")
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype = dataset.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __getitem__(self, key: Any) -> Any:
        """Read the entries that `key` selects.

        Raises IndexError for a key outside the array, and for a selection that HDF5 cannot read: backwards, or in any
        order but ascending.
        """
        with located(self._dataset, self.name):
            try:
                return self._read(key)
            except (TypeError, ValueError) as error:  # the key is wrong; wrong bytes raise OSError
                raise IndexError(f"{self.name} of shape {self.shape} cannot be read so: {reason(error)}") from None

    def _read(self, key: Any) -> Any:
        offset = self._dataset.id.get_offset() if self._dataset.chunks is None else None
        if offset is None or not self.shape or not (key is Ellipsis or isinstance(key, slice | int)):
            return self._dataset[key]
        # One read of whole rows into the array. HDF5 reads into buffers of its own first, and takes twice as long.
        first, last, _ = (key if isinstance(key, slice) else slice(None)).indices(self.shape[0])
        if isinstance(key, int) or (isinstance(key, slice) and key.step not in (None, 1)) or last <= first:
            return self._dataset[key]
        rows = np.empty((last - first, *self.shape[1:]), self.dtype)
        raw, offset = rows.reshape(-1).view(np.uint8), offset + first * (self.nbytes // self.shape[0])
        raw[::PAGE] = 0  # maps the fresh memory page by page: the kernel would take longer to map it during the copy
        rest = raw.data
        while len(rest):  # Linux reads up to 2 GiB at a time
            count = os.preadv(self._dataset.file.id.get_vfd_handle(), [rest], offset)
            if not count:
                raise OSError("the file ends within it")
            rest, offset = rest[count:], offset + count
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self.name}: {self.dtype} {self.shape}, unread>"


class Deltas(Mapping[int | str, "PartDeltas"]):
    """Part (a layer's number, `embed`, `final_norm`, `lm_head`) -> deltas of its parameters.

    Parts that did not change are absent. `root` is the group that holds the deltas: `/`, or `snapshots/15` for the
    deltas after step 15.
    """

    def __init__(self, file: h5py.File, n_layers: int, seal: Seal | None, root: str = "/") -> None:
        self._file = file
        self._n_layers = n_layers
        self._seal = seal
        self._root = root
        self._path = f"{root.rstrip('/')}/deltas".lstrip("/")

    def __getitem__(self, part: int | np.integer | str) -> PartDeltas:
        if (
            str(part) in self._parts()
            or (isinstance(part, int | np.integer) and 0 <= part < self._n_layers)
            or part in OUTSIDE
        ):
            return PartDeltas(str(part), self._datasets(str(part)), self._frobenius)
        if isinstance(part, int | np.integer):
            raise KeyError(f"no layer {part}: there are 0 to {self._n_layers - 1}")
        raise KeyError(f"no part {part!r}{did_you_mean(str(part), map(str, self))}")

    def exact(self, part: int | np.integer | str) -> dict[str, tuple[str, Delta]]:
        """Read the deltas of a part with their repairs, and compare them with the seal.

        Returns name inside the layer -> (full name, delta). Raises Damaged when the bytes are not those in the seal.
        """
        where = f"{self._path}/{part}"
        with located(self._file, where):
            datasets = self._datasets(str(part))
            names = {inner: str(attribute(dataset, "parameter")) for inner, dataset in datasets.items()}
            return {inner: (name, self.exact_of(part, inner)) for inner, name in names.items()}

    def exact_of(self, part: int | np.integer | str, inner: str) -> Delta:
        """Read the delta of one parameter, by its name inside the layer. Raises as `exact`."""
        with located(self._file, f"{self._path}/{part}"):
            return read_delta(group_at(self._file, self._root), str(part), inner, self._seal)

    def _frobenius(self, part: str) -> float:
        """Return the Frobenius norm of all deltas of a part together, from the stored norms of its parameters."""
        table = "parameters" if self._root == "/" else self._root
        with located(self._file, table):
            parts = np.array(read_strings(self._file, "parameters/part"))
            return float(np.linalg.norm(np.where(parts == part, read_array(self._file, f"{table}/norm"), 0.0)))

    def _datasets(self, part: str) -> dict[str, h5py.Dataset]:
        """Return name inside the layer -> dataset, without reading it."""
        if part not in self._parts():
            return {}
        with located(self._file, f"{self._path}/{part}"):
            group = group_at(self._file, f"{self._path}/{part}")
            return {inner: dataset_at(group, inner) for inner in members(group)}

    def __iter__(self) -> Iterator[int | str]:
        for part in sorted(self._parts(), key=lambda p: (not p.isdecimal(), int(p) if p.isdecimal() else 0, p)):
            yield int(part) if part.isdecimal() else part

    def __len__(self) -> int:
        return len(self._parts())

    def __repr__(self) -> str:
        return f"<Deltas of {', '.join(map(str, self)) or 'nothing'}>"

    def _repr_html_(self) -> str:
        rows = [{"part": str(part), "parameters": len(self[part])} for part in self]
        return result_html("Deltas", rows)

    def _ipython_key_completions_(self) -> list[Any]:
        return list(self)

    def _parts(self) -> list[str]:
        with located(self._file, self._path):
            found = members(group_at(self._file, self._path)) if has(self._file, self._path) else []
            return [name for name in found if _PART.fullmatch(name)]  # the other names are axes


class PartDeltas(Mapping[str, LazyArray]):
    """Parameter, by its name inside the layer -> lazy array of its delta."""

    def __init__(self, part: str, datasets: dict[str, h5py.Dataset], norm: Callable[[str], float]) -> None:
        self._part = part
        self._datasets = datasets
        self._norm = norm

    @property
    def frobenius(self) -> float:
        """The Frobenius norm of all deltas of the part together."""
        return self._norm(self._part)

    def __getitem__(self, name: str) -> LazyArray:
        if name in self._datasets:
            return LazyArray(self._datasets[name])
        raise KeyError(f"no delta of {name!r} in part {self._part}{did_you_mean(name, self._datasets)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)

    def __repr__(self) -> str:
        lines = [f"  {name}: {dataset.dtype} {dataset.shape}" for name, dataset in self._datasets.items()]
        return "\n".join([f"<deltas of part {self._part}: {len(lines)} parameters>", *lines])

    def _repr_html_(self) -> str:
        rows = [{"parameter": name, "dtype": str(delta.dtype), "shape": delta.shape} for name, delta in self.items()]
        return result_html(f"Deltas of part {self._part}", rows)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


class Sites(dict[str, LazyArray]):
    """Site (`block_out`, ...) -> lazy array of its activations."""

    def __missing__(self, site: str) -> LazyArray:
        raise KeyError(f"no site {site!r}{did_you_mean(str(site), self)}")

"""Write HDF5 files, datasets and axes as `runs/FORMAT.md` says.

- An axis is a dimension scale, at the root of the file or in the group that uses it. Viewers, and xarray through
  h5netcdf, then show names of dimensions instead of numbers.
- Strings are fixed-length UTF-8.
- Tables are chunked, with a fletcher32 checksum that HDF5 compares on reading.
"""

from __future__ import annotations

import errno
import io
import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from lensrl.errors import LensrlError

CHUNK_BYTES = 1 << 20
ALIGNED_FROM = 1 << 16  # bytes: a larger dataset begins on a page
PAGE = 1 << 12
ENCODING = "_Encoding"  # the attribute by which netCDF marks texts: without it, xarray takes them for bytes

Compression = Literal["none", "blosc2-zstd"]  # of deltas and activations
Filter = Literal["none", "blosc2-zstd", "deflate"]  # deflate is a part of HDF5, and needs no plugin


@contextmanager
def create_file(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file to write. Raises OSError at the end of the block if the disk refused a write.

    Ctrl-C and SIGTERM wait for the end of the block.
    """
    path.touch()
    # Not "w+": ext4 flushes a truncated file when it is closed, which takes time.
    with _signals_wait(), _Disk(path, "r+") as disk:
        with h5py.File(disk, "w", alignment_threshold=ALIGNED_FROM, alignment_interval=PAGE) as file:
            yield file
        if disk.refusal is not None:
            raise disk.refusal


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block has ended, where Python would handle them.

    HDF5 calls `_Disk.write`, where Python may run a handler. HDF5 drops what the handler raises, and the write with it:
    the file would be damaged, and nobody would know. Python runs handlers in its main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(number)):  # else it kills at once, or is ignored
            handlers[number] = handler
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


class _Disk(io.FileIO):
    """A file for HDF5 to write to. It reads back every write, and hides errors from HDF5.

    HDF5 crashes the process after a failed write. Therefore the first error is kept in `refusal`, to be raised later,
    and all writes after it are dropped.
    """

    refusal: Exception | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        try:
            rest, offset = np.frombuffer(data, np.uint8), self.tell()
            while len(rest) and self.refusal is None:
                count = os.pwrite(self.fileno(), rest.data, offset)
                if os.pread(self.fileno(), count, offset) != rest[:count].tobytes():
                    raise OSError(errno.EIO, "what the disk gives back is not what was written")
                rest, offset = rest[count:], offset + count
        except Exception as error:  # MemoryError, too
            self.refusal = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.refusal is None else 0
        except Exception as error:
            self.refusal = error
            return 0


def axis(group: h5py.Group, name: str, labels: Sequence[Any] | np.ndarray | int) -> None:
    """Make the axis `name` in `group`, unless it exists. A length as `labels` stands for 0, 1, ..."""
    if name not in group:
        values = np.arange(labels, dtype=np.int32) if isinstance(labels, int) else labels
        dataset = create(group, name, values)
        dataset.make_scale(name)


def create(
    group: h5py.Group, name: str, data: Any, axes: Sequence[str] = (), compression: Filter = "none"
) -> h5py.Dataset:
    """Write a dataset with checksums, in chunks of about 1 MiB, and attach the named axes."""
    array = encode_strings(data)
    made = create_empty(group, name, array.shape, array.dtype, axes=axes, compression=compression)
    if array.dtype.kind == "S":
        made.attrs[ENCODING] = "utf-8"
    if array.size:
        made[...] = array
    return made


def create_empty(
    group: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    axes: Sequence[str],
    compression: Filter = "none",
) -> h5py.Dataset:
    """Make a dataset without values, in chunks of `chunk_shape` with checksums, and attach the named axes.

    A single number and an empty dataset have neither chunks nor checksums.
    """
    filters: dict[str, Any] = {}
    if math.prod(shape) and shape:
        filters = {"chunks": chunk_shape(shape, dtype.itemsize), "fletcher32": True, "fill_time": "never"}
        if compression == "deflate":
            filters |= {"compression": "gzip", "compression_opts": 4}
        if compression == "blosc2-zstd":
            filters |= compression_plugin().Blosc2("zstd", filters=compression_plugin().Blosc2.BITSHUFFLE)
            filters["rdcc_nbytes"] = 1  # no cache: values are read back from the file (h5py ignores 0)
    made = group.create_dataset(name, shape, dtype, track_times=False, **filters)
    attach(made, axes)
    return made


def create_contiguous(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype, axes: Sequence[str]
) -> h5py.Dataset:
    """Make a dataset in one piece, without values, and attach the named axes.

    Its place in the file, `dataset.id.get_offset()`, is known at once.
    """
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    made = group.create_dataset(name, shape, dtype, dcpl=plan, track_times=False)
    attach(made, axes)
    return made


def attach(dataset: h5py.Dataset, axes: Sequence[str]) -> None:
    """Attach the named axes to the dimensions of a dataset, in order.

    Each axis is looked up in the group of the dataset, then in the groups above it, as in netCDF.
    """
    for dimension, name in enumerate(axes):
        group: Any = dataset.parent
        while name not in group and group.name != "/":
            group = group.parent
        dataset.dims[dimension].attach_scale(group[name])


def encode_strings(data: Any) -> np.ndarray:
    """Return a sequence of str as an array of fixed-length UTF-8, and any other data as an array."""
    array = np.asarray(data)
    if array.dtype.kind not in "UO":
        return array
    raw = [str(text).encode() for text in array.tolist()]
    return np.array(raw, dtype=h5py.string_dtype("utf-8", max([1, *map(len, raw)])))


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the shape of chunks of at most 1 MiB, each contiguous in the row-major array.

    A chunk holds the trailing axes whole, as much as fits of the axis before them, and one entry of each other axis.
    """
    chunk: list[int] = []
    row = itemsize * math.prod(shape)
    for length in shape:
        row //= length
        chunk.append(max(1, min(length, CHUNK_BYTES // row)))
    return tuple(chunk)


def compression_plugin() -> Any:
    """Import hdf5plugin, which registers its filters with HDF5. Raises LensrlError when it is not installed."""
    try:
        import hdf5plugin
    except ImportError:
        raise LensrlError("blosc2-zstd compression needs a package: pip install hdf5plugin") from None
    return hdf5plugin

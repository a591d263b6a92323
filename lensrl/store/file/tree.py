"""A run file as an xarray.DataTree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from lensrl.errors import Damaged, LensrlError, StoreError, reason
from lensrl.store.file.checked import LOCKING, located
from lensrl.store.file.layout import check_names

if TYPE_CHECKING:
    import xarray


def open_tree(path: Path, file: h5py.File) -> xarray.DataTree:
    """Open a run file once more, through h5netcdf, as a DataTree whose labels and texts are str.

    `path` is the path of `file`, which is open. Raises LensrlError when xarray or h5netcdf is not installed, and
    StoreError when the file is gone or damaged.
    """
    try:
        import h5netcdf  # noqa: F401
        import xarray
    except ImportError:
        raise LensrlError("to_xarray needs two packages: pip install xarray h5netcdf") from None
    with located(file, "its structure"):
        check_names(file)  # h5netcdf follows every link and opens every object
    refusal = ""
    for locking in LOCKING:
        try:
            tree = xarray.open_datatree(path, engine="h5netcdf", driver_kwds={"locking": locking})
        except OSError as error:
            refusal = reason(error)
            continue
        except Exception as error:  # h5netcdf does not check the attributes of axes, and may raise anything
            raise Damaged(f"{path} is damaged in its axes ({reason(error)}); delete it and run again") from None
        try:
            texts = tree.map_over_datasets(_with_text)
        except (OSError, ValueError) as error:
            tree.close()
            raise Damaged(f"{path} is damaged in its texts ({reason(error)}); delete it and run again") from None
        texts.set_close(tree.close)
        return texts
    raise StoreError(f"{path} cannot be opened by xarray ({refusal})")


def _with_text(dataset: xarray.Dataset) -> xarray.Dataset:
    """Return the dataset with its texts as fixed-length str.

    xarray reads a text as bytes where the attribute `_Encoding` is missing, and as objects where it is there.
    """
    texts = {name: (v.dims, _text(v.values)) for name, v in dataset.variables.items() if v.dtype.kind in "SO"}
    labels = {name: text for name, text in texts.items() if name in dataset.coords}
    return dataset.assign_coords(labels).assign({name: text for name, text in texts.items() if name not in labels})


def _text(values: np.ndarray) -> np.ndarray:
    return np.char.decode(values) if values.dtype.kind == "S" else values.astype(str)

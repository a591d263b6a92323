"""The names, types and axes of each format, as in the tables of `runs/FORMAT.md`, and their check.

`completeness.py` says which groups and datasets must be there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np

from lensrl.store.file.checked import attribute, axis_names, check_tree, dataset_at, node_at
from lensrl.store.file.completeness import (
    COLUMNS,
    COLUMNS_OF_GIGPO,
    COLUMNS_OF_LOGS,
    COLUMNS_OF_SAMPLER,
    COLUMNS_OF_TURNS,
    COLUMNS_OF_UPDATES,
    SITES,
)
from lensrl.store.file.hdf5 import ENCODING


class Rule(NamedTuple):
    """The axes and the type of all datasets whose name matches a pattern."""

    name: re.Pattern[str]
    axes: tuple[str, ...] | None  # (): the dataset is an axis; None: axes with the lengths of a weight in their names
    dtype: str  # a NumPy type of little-endian numbers, or `string`, which is fixed-length UTF-8


def _rules(*table: tuple[str, tuple[str, ...] | None, str]) -> tuple[Rule, ...]:
    return tuple(Rule(re.compile(name), axes, dtype) for name, axes, dtype in table)


DELTA = r"(snapshots/\d+/)?deltas/(\d+|embed|final_norm|lm_head)/[^/]+"
REPAIRS = r"(snapshots/\d+/)?repairs/(\d+|embed|final_norm|lm_head)/[^/]+"

_PARTS = r"(/(\d+|embed|final_norm|lm_head)"
GROUPS = re.compile(
    rf"scores|completions|training_completions|training|parameters|probe|activations|metrics|snapshots(/\d+)?"
    rf"|(snapshots/\d+/)?(deltas{_PARTS})?|repairs{_PARTS}(/[^/]+)?)?)"
)

OF_STEPS = (*COLUMNS, *COLUMNS_OF_TURNS, *COLUMNS_OF_GIGPO, *COLUMNS_OF_UPDATES, *COLUMNS_OF_SAMPLER, *COLUMNS_OF_LOGS)

RULES = {
    "lensrl-run": _rules(
        (r"layer|sample|token|feature|step|byte", (), "int32"),
        (r"(training_)?completions/block|training_completions/kept", (), "int32"),
        (r"((snapshots/\d+/)?deltas/)?(row|column|entry|repair|axis\d+)_\d+", (), "int32"),  # in version 1 at the root
        (REPAIRS + "/repair", (), "int32"),
        (r"outside|item|parameter", (), "string"),
        (r"scores/score", ("item", "sample"), "float32"),
        (r"scores/length", ("item", "sample"), "int32"),
        (r"scores/truncated", ("item", "sample"), "uint8"),
        (r"scores/answer", ("item", "sample"), "int64"),
        (r"scores/also", ("item",), "uint8"),
        (r"scores/benchmark", ("item",), "string"),
        (r"scores/reference_logprob", ("item",), "float32"),
        (r"training/layer_grad_norm", ("step", "layer"), "float64"),
        (r"training/outside_grad_norm", ("step", "outside"), "float64"),
        (rf"training/({'|'.join(OF_STEPS)})", ("step",), "float64"),
        (r"(training_)?completions/text", ("block", "byte"), "uint8"),
        (r"completions/completion_(start|size)", ("item", "sample"), "int64"),
        (r"completions/(prompt|reference)_(start|size)", ("item",), "int64"),
        (r"training_completions/(completion|prompt)_(start|size)", ("kept",), "int64"),
        (r"training_completions/(train_step|length)", ("kept",), "int32"),
        (r"training_completions/train_item", ("kept",), "string"),
        (r"training_completions/reward", ("kept",), "float64"),
        (r"training_completions/truncated", ("kept",), "uint8"),
        (r"parameters/(part|component)", ("parameter",), "string"),
        (r"parameters/(size|changed)|snapshots/\d+/changed", ("parameter",), "int64"),
        (r"parameters/(norm|base_norm)|snapshots/\d+/norm", ("parameter",), "float64"),
        (DELTA, None, "float32"),
        (REPAIRS + "/where", ("repair",), "int64"),
        (REPAIRS + "/value", ("repair",), "float32"),
        (r"probe/(token_id|prompt|position)", ("token",), "int32"),
        (r"probe/text", ("token",), "string"),
        (rf"activations/({'|'.join(SITES)})", ("layer", "token", "feature"), "float32"),
    ),
    "lensrl-patch": _rules(
        (r"item", (), "int32"),
        (r"model", (), "string"),
        (r"benchmark", ("item",), "string"),
        (r"metrics/(score|reference_logprob|logit_difference)", ("model", "item"), "float64"),
    ),
}

ATTRIBUTES = {
    ("lensrl-run", 1): (
        "format", "format_version", "study", "run", "seed", "layers", "n_layers", "status", "reason", "base",
        "fingerprint", "recipe", "provenance", "run_id",
    ),
    ("lensrl-run", 2): ("compression", "score", "snapshots"),
    ("lensrl-patch", 1): (
        "format", "format_version", "what", "component", "donor", "into", "seed", "sources", "provenance",
    ),  # and `layer`, until version 3 made it `layers`: reading a result asks for the one that its version has
    ("lensrl-patch", 3): ("layers", "sets"),
}  # fmt: skip

OPTIONAL = ("origin", "also", "sites")  # attributes of runs that may be absent

NUMBERS = {  # attribute -> NumPy kind and number of dimensions; all other attributes are text
    "format_version": ("i", 0), "seed": ("i", 0), "n_layers": ("i", 0), "layer": ("i", 0), "score": ("f", 0),
    "layers": ("i", 1), "snapshots": ("i", 1),
}  # fmt: skip

OF_HDF5 = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"}  # attributes of axes, and of datasets with axes

_NO_TEXT = re.compile("[\ud800-\udfff]")  # h5py decodes bytes that are no UTF-8 to such characters


class Names(NamedTuple):
    """The names of all datasets and of all groups in a file."""

    datasets: list[str]
    groups: list[str]


def check_names(file: h5py.File) -> Names:
    """Compare every name, attribute, type and axis in a file with its format. Reads no array.

    Raises ValueError for a name that is not part of the format, and for a wrong type or axis; KeyError for an attribute
    that is missing.
    """
    format, version = str(attribute(file, "format")), int(attribute(file, "format_version"))
    for (kind, since), attributes in ATTRIBUTES.items():
        for name in attributes if kind == format and since <= version else ():
            _check_attribute(file, name)
    for name in OPTIONAL:
        if name in file.attrs:
            _check_attribute(file, name)
    datasets, groups = [], []
    for name in check_tree(file):
        if isinstance(node_at(file, name), h5py.Dataset):
            _check_dataset(dataset_at(file, name), name, RULES[format])
            datasets.append(name)
        elif GROUPS.fullmatch(name):
            groups.append(name)
        else:
            raise ValueError(f"{name} is not part of the format")
    return Names(datasets, groups)


def _check_attribute(file: h5py.File, name: str) -> None:
    value = attribute(file, name)
    kind = "text" if isinstance(value, str) else (np.asarray(value).dtype.kind, np.ndim(value))
    if kind != NUMBERS.get(name, "text") or (isinstance(value, str) and _NO_TEXT.search(value)):
        raise ValueError(f"attribute {name} holds {value!r}")


def _check_dataset(dataset: h5py.Dataset, name: str, rules: Sequence[Rule]) -> None:
    """Check the name, the type, the storage, the attributes and the axes of a dataset, in this order."""
    rule = next((rule for rule in rules if rule.name.fullmatch(name)), None)
    if rule is None:
        raise ValueError(f"{name} is not part of the format")
    text = h5py.check_string_dtype(dataset.dtype)
    dtype = "string" if text is not None and text.encoding == "utf-8" else str(dataset.dtype)
    if dtype != rule.dtype:
        raise ValueError(f"{name} holds {dtype}, not {rule.dtype}")
    if dataset.chunks is not None and not dataset.fletcher32:
        raise ValueError(f"{name} lies in chunks without fletcher32 checksums")
    if dataset.chunks is None and dataset.shape and dataset.size and not re.fullmatch(DELTA, name):
        raise ValueError(f"{name} lies in one piece, and so has no checksum")
    _check_attributes(dataset, name, dtype)
    _check_axes(dataset, name, rule)


def _check_axes(dataset: h5py.Dataset, name: str, rule: Rule) -> None:
    if rule.axes == ():
        if len(dataset.shape) != 1 or not dataset.is_scale:
            raise ValueError(f"{name} is no axis")
        return
    found = axis_names(dataset)
    if rule.axes is None:
        fine = all(
            re.fullmatch(rf"(row|column|entry|axis\d+)_{n}", a) for a, n in zip(found, dataset.shape, strict=True)
        )
    else:
        in_version_1 = [f"repair_{dataset.size}"] if rule.axes == ("repair",) else None
        fine = tuple(found) == rule.axes or found == in_version_1
    if not fine or any(len(scales[0]) != n for scales, n in zip(dataset.dims, dataset.shape, strict=True)):
        raise ValueError(f"{name} has the axes {found} for the shape {dataset.shape}")
    if any(len(scales) > 1 for scales in dataset.dims):  # h5netcdf would take the last axis, and its length
        raise ValueError(f"{name} has two axes for one dimension")


def _check_attributes(dataset: h5py.Dataset, name: str, dtype: str) -> None:
    """Refuse attributes of a dataset that are not part of the format.

    With `scale_factor`, `_FillValue` or `units`, xarray would compute other values than the values in the file.
    """
    known = set(OF_HDF5)
    if re.fullmatch(DELTA, name):
        known.add("parameter")
    if dtype == "string" and ENCODING in dataset.attrs and attribute(dataset, ENCODING) == "utf-8":
        known.add(ENCODING)
    for unknown in sorted(dataset.attrs.keys() - known):
        raise ValueError(f"{name} has an attribute {unknown}, which is not part of the format")

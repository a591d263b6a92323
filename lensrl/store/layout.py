"""What a file of each format must hold: the tables of `runs/FORMAT.md`, for `verify` to check against."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import h5py
import numpy as np

from lensrl.store.checked import attribute, axis_names, check_tree, dataset_at, has, node_at
from lensrl.store.deltas import sum_of_squares
from lensrl.store.exact import flat


class Rule(NamedTuple):
    """Datasets whose name matches: their axes (None: the axes named after the lengths of a weight) and NumPy kind."""

    name: re.Pattern[str]
    axes: tuple[str, ...] | None
    kind: str


def _rules(*table: tuple[str, tuple[str, ...] | None, str]) -> tuple[Rule, ...]:
    return tuple(Rule(re.compile(name), axes, kind) for name, axes, kind in table)


_DELTAS = r"(snapshots/\d+/)?deltas/(\d+|embed|final_norm|lm_head)/[^/]+"
_REPAIRS = r"(snapshots/\d+/)?repairs/(\d+|embed|final_norm|lm_head)/[^/]+"

_PARTS = r"(/(\d+|embed|final_norm|lm_head)"
GROUPS = re.compile(
    rf"scores|training|parameters|probe|activations|metrics|snapshots(/\d+)?"
    rf"|(snapshots/\d+/)?(deltas{_PARTS})?|repairs{_PARTS}(/[^/]+)?)?)"
)

RULES = {
    "lensrl-run": _rules(
        (r"layer|sample|token|feature|step", (), "i"),
        (r"((snapshots/\d+/)?deltas/)?(row|column|entry|repair|axis\d+)_\d+", (), "i"),  # in version 1 at the root
        (_REPAIRS + "/repair", (), "i"),
        (r"outside|item|parameter", (), "S"),
        (r"scores/(score)", ("item", "sample"), "f"),
        (r"scores/(length)", ("item", "sample"), "i"),
        (r"scores/(truncated)", ("item", "sample"), "u"),
        (r"scores/(benchmark)", ("item",), "S"),
        (r"scores/(reference_logprob)", ("item",), "f"),
        (r"training/(layer_grad_norm)", ("step", "layer"), "f"),
        (r"training/(outside_grad_norm)", ("step", "outside"), "f"),
        (r"training/[^/]+", ("step",), "f"),
        (r"parameters/(part|component)", ("parameter",), "S"),
        (r"(parameters|snapshots/\d+)/(norm|base_norm)", ("parameter",), "f"),
        (r"(parameters|snapshots/\d+)/(size|changed)", ("parameter",), "i"),
        (_DELTAS, None, "f"),
        (_REPAIRS + "/where", ("repair",), "i"),
        (_REPAIRS + "/value", ("repair",), "f"),
        (r"probe/(token_id|prompt|position)", ("token",), "i"),
        (r"probe/text", ("token",), "S"),
        (r"activations/[^/]+", ("layer", "token", "feature"), "f"),
    ),
    "lensrl-patch": _rules(
        (r"item", (), "i"),
        (r"model", (), "S"),
        (r"benchmark", ("item",), "S"),
        (r"metrics/[^/]+", ("model", "item"), "f"),
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

NUMBERS = {  # NumPy kind and dimensions; all other attributes are text
    "format_version": ("i", 0), "seed": ("i", 0), "n_layers": ("i", 0), "layer": ("i", 0), "score": ("f", 0),
    "layers": ("i", 1), "snapshots": ("i", 1),
}  # fmt: skip

TOGETHER = {  # groups that are whole or absent
    "scores": ("benchmark", "score", "length", "truncated", "reference_logprob"),
    "parameters": ("part", "component", "size", "changed", "norm", "base_norm"),
    "probe": ("token_id", "prompt", "position", "text"),
}


def check_layout(file: h5py.File) -> None:
    """Compare a whole file with its format. Raises KeyError or ValueError at the first thing that is not as written.

    Every dataset is read: HDF5 checks the checksums on the way.
    """
    names = check_names(file)
    for name in names:
        if (dataset := dataset_at(file, name)).chunks is not None:
            for _ in _pieces(dataset):  # HDF5 compares the checksums
                pass
    if str(attribute(file, "format")) == "lensrl-run":
        _check_deltas(file, names)


def check_names(file: h5py.File) -> list[str]:
    """The names of all datasets, after looking at every name, type and axis in the file, and reading no array."""
    format, version = str(attribute(file, "format")), int(attribute(file, "format_version"))
    for (kind, since), attributes in ATTRIBUTES.items():
        for name in attributes if kind == format and since <= version else ():
            _check_attribute(file, name)
    names = []
    for name in check_tree(file):
        if isinstance(node_at(file, name), h5py.Dataset):
            _check_dataset(dataset_at(file, name), name, RULES[format])
            names.append(name)
        elif not GROUPS.fullmatch(name):
            raise ValueError(f"{name} is not part of the format")
    if format == "lensrl-run":
        for group, members in TOGETHER.items():
            absent = [name for name in members if not has(file, f"{group}/{name}")]
            if absent and (has(file, group) or group == "parameters"):
                raise KeyError(f"there is no {group}/{absent[0]}")
    return names


def _check_attribute(file: h5py.File, name: str) -> None:
    value = attribute(file, name)
    found = "text" if isinstance(value, str) else (np.asarray(value).dtype.kind, np.ndim(value))
    if found != NUMBERS.get(name, "text"):
        raise ValueError(f"attribute {name} holds {value!r}")


def _check_dataset(dataset: h5py.Dataset, name: str, rules: Sequence[Rule]) -> None:
    rule = next((rule for rule in rules if rule.name.fullmatch(name)), None)
    if rule is None:
        raise ValueError(f"{name} is not part of the format")
    if dataset.dtype.kind != rule.kind:
        raise ValueError(f"{name} holds {dataset.dtype}")
    if rule.axes == ():
        if len(dataset.shape) != 1 or not dataset.is_scale:
            raise ValueError(f"{name} is no axis")
    else:
        found = axis_names(dataset)
        if rule.axes is None:
            fine = all(
                re.fullmatch(rf"(row|column|entry|axis\d+)_{n}", a) for a, n in zip(found, dataset.shape, strict=True)
            )
        else:
            fine = tuple(found) == rule.axes or found == [f"repair_{dataset.size}"]
        if not fine or any(len(scales[0]) != n for scales, n in zip(dataset.dims, dataset.shape, strict=True)):
            raise ValueError(f"{name} has the axes {found} for the shape {dataset.shape}")


def _check_deltas(file: h5py.File, names: Sequence[str]) -> None:
    """Norms are those of the deltas, and every delta and repair belongs to a parameter."""
    parameter = {raw.decode(): i for i, raw in enumerate(dataset_at(file, "parameter")[...].tolist())}
    for name in names:
        if re.fullmatch(_DELTAS, name):
            root = name[: name.index("deltas/")]
            i = parameter[str(attribute(dataset_at(file, name), "parameter"))]
            expected = float(dataset_at(file, f"{root or 'parameters/'}norm")[i])
            found = math.sqrt(sum(sum_of_squares(flat(piece)) for piece in _pieces(dataset_at(file, name))))
            if not math.isclose(found, expected, rel_tol=1e-6):
                raise ValueError(f"{name} has the norm {found}, not {expected}")
        elif re.fullmatch(_REPAIRS + "/value", name):
            delta = name.replace("repairs/", "deltas/", 1).rpartition("/")[0]
            where, size = dataset_at(file, name.replace("/value", "/where"))[...], dataset_at(file, delta).size
            if where.size and not (where.min() >= 0 and where.max() < size):
                raise ValueError(f"{name} does not fit {delta}")


def _pieces(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """A dataset in pieces of about 16 MiB."""
    if not dataset.shape:
        yield np.asarray(dataset[()])
        return
    row = max(1, dataset.dtype.itemsize * math.prod(dataset.shape[1:]))
    rows = max(1, (16 << 20) // row)
    for start in range(0, len(dataset), rows):
        yield dataset[start : start + rows]

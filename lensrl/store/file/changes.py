"""Check that the deltas of a run file agree with its table of parameters and with the run's name.

`consistency.py` calls this module for the run and for each of its snapshots.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Int64

from lensrl.recipe.layers import OUTSIDE
from lensrl.recipe.runs import BASE, FULL, run_layer, run_rate
from lensrl.store.file.checked import attribute, dataset_at, has, pieces, read_array, read_strings
from lensrl.store.file.completeness import CHECKPOINT, keep_of, origin_of
from lensrl.store.file.deltas import sum_of_squares
from lensrl.store.file.exact import flat


class Parameters(NamedTuple):
    """The rows of `parameters`."""

    names: list[str]
    size: Int64[np.ndarray, " parameter"]
    places: list[str]  # PART/NAME: the place of the delta below `deltas`
    trained: list[bool]  # whether the run trains the part; a parameter of another part is frozen


def read_parameters(file: h5py.File) -> Parameters:
    """Read the table of parameters. Raises ValueError for a row that no model has."""
    names, parts = read_strings(file, "parameter"), read_strings(file, "parameters/part")
    if len({*names}) != len(names):
        raise ValueError("parameter holds a name twice")
    layers = {str(layer) for layer in range(len(dataset_at(file, "layer")))}
    for name, part, component in zip(names, parts, read_strings(file, "parameters/component"), strict=True):
        if part not in layers and part not in OUTSIDE:
            raise ValueError(f"parameters/part of {name} is {part!r}, no layer below {len(layers)} and no part outside")
        if component not in (("attn", "mlp", "norm") if part in layers else ("",)):
            raise ValueError(f"parameters/component of {name} is {component!r}")
    size, base_norm = read_array(file, "parameters/size"), read_array(file, "parameters/base_norm")
    if not ((size >= 0) & np.isfinite(base_norm) & (base_norm >= 0)).all():
        raise ValueError("parameters/size or parameters/base_norm is negative or not finite")
    trained = {str(layer) for layer in attribute(file, "layers").tolist()}
    if trained == layers:  # a run that trains every layer may train the parts outside the layers as well
        trained |= {*OUTSIDE}
    trained |= also_trained(file)
    return Parameters(names, size, _places(names, parts), [part in trained for part in parts])


def also_trained(file: h5py.File) -> set[str]:
    """Return the parts outside the layers that a set trained, or that may have moved in a checkpoint."""
    also = str(attribute(file, "also")).split(",") if "also" in file.attrs else []
    of_set = named_layers(str(attribute(file, "run")), 0) is None
    if also and (not (of_set or origin_of(file) == CHECKPOINT) or not {*also} <= {*OUTSIDE}):
        raise ValueError(f"attribute also is {','.join(also)!r}, not parts outside the layers of a set or checkpoint")
    return {*also}


def _places(names: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Return PART/NAME of every parameter: `3/mlp.up.weight` for `model.layers.3.mlp.up.weight`.

    Raises ValueError where the names say other layers than `parts`, and where no parameter is in a layer.
    """
    inside = [(name, part) for name, part in zip(names, parts, strict=True) if part not in OUTSIDE]
    outside = [name for name, part in zip(names, parts, strict=True) if part in OUTSIDE]
    if not inside:
        raise ValueError("parameters/part says that no parameter is in a layer")
    # The prefix (`model.layers.`) ends where the number of the layer begins. A name may hold this number more than
    # once; the prefix is the longest one that is right for all names.
    first, layer = inside[0]
    prefixes = [first[: found.start() + 1] for found in re.finditer(rf"\.{layer}\.", first)]
    prefix = next((p for p in reversed(prefixes) if all(name.startswith(f"{p}{part}.") for name, part in inside)), None)
    if prefix is None or any(re.match(rf"{re.escape(prefix)}\d+\.", name) for name in outside):
        raise ValueError("parameters/part says other layers than the names of the parameters")
    return [
        f"{part}/{name if part in OUTSIDE else name.removeprefix(f'{prefix}{part}.')}"
        for name, part in zip(names, parts, strict=True)
    ]


def check_changes(file: h5py.File, root: str, parameters: Parameters, *, deltas: Sequence[str]) -> None:
    """Check that each changed parameter has its delta, in its place, of its size and norm, and that no other has one.

    `root` is empty for the deltas of the run, and `snapshots/STEP/` for the deltas of a snapshot.
    """
    table = root or "parameters/"
    changed, norm = read_array(file, f"{table}changed"), read_array(file, f"{table}norm")
    # The table alone: counts that are possible, and no change of a parameter that the run froze.
    for row, (name, size) in enumerate(zip(parameters.names, parameters.size, strict=True)):
        if not 0 <= changed[row] <= size:
            raise ValueError(f"{table}changed says {changed[row]} of the {size} entries of {name}")
        if changed[row] == 0 and norm[row] != 0:
            raise ValueError(f"{table}norm says {norm[row]} of {name}, of which nothing changed")
        if changed[row] and not parameters.trained[row]:
            raise ValueError(f"{table}changed says {changed[row]} of {name}, which attribute layers says is frozen")
    # Each delta against its row of the table.
    rows = {f"{root}deltas/{place}": row for row, place in enumerate(parameters.places)}
    for delta in deltas:
        dataset, row = dataset_at(file, delta), rows.get(delta)
        named = str(attribute(dataset, "parameter"))
        if row is None or parameters.names[row] != named:
            raise ValueError(f"{delta} is not the place of {named}, which its attribute parameter names")
        if changed[row] == 0:
            raise ValueError(f"{delta} is there, and {table}changed says 0")
        if dataset.size != parameters.size[row]:
            raise ValueError(f"{delta} has {dataset.size} entries, parameters/size says {parameters.size[row]}")
        found = math.sqrt(square(dataset))
        if not (math.isfinite(found) and math.isclose(found, norm[row], rel_tol=1e-6)):
            raise ValueError(f"{delta} has the norm {found}, not {norm[row]}")
    # Each row that changed against the deltas.
    for delta, row in rows.items() if keep_of(file) != "norms" else ():
        if changed[row] and delta not in deltas:
            raise KeyError(f"there is no {delta}, and {table}changed says {changed[row]}")


def check_repairs(file: h5py.File, name: str) -> None:
    """Check that the positions of repairs are in their delta, ascending, each once."""
    delta = name.replace("repairs/", "deltas/", 1).removesuffix("/where")
    if not has(file, delta):
        raise KeyError(f"there is no {delta} for {name}")
    where, size = read_array(file, name), dataset_at(file, delta).size
    if where.size and not (where[0] >= 0 and where[-1] < size and (np.diff(where) > 0).all()):
        raise ValueError(f"{name} is not ascending from 0 to under {size}, each once")


def square(dataset: h5py.Dataset) -> float:
    """Return the sum of squares of a float32 dataset. It is finite if and only if all entries are finite."""
    with np.errstate(all="ignore"):
        return sum(sum_of_squares(flat(piece)) for piece in pieces(dataset))


def named_layers(run: str, n_layers: int) -> list[int] | None:
    """Return the layers that a run trains by its name: layer 20 for `layer-20@0.0004`; None for the name of a set."""
    name, _ = run_rate(run) or (run, None)
    if name in (BASE, FULL):
        return [] if name == BASE else [*range(n_layers)]
    single = run_layer(name)
    return None if single is None else [single]

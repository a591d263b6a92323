"""Whether what stands in a file fits together, as `runs/FORMAT.md` says: for `verify`, which reads all of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import h5py
import numpy as np
from jaxtyping import Int64

from lensrl.recipe.layers import OUTSIDE
from lensrl.recipe.runs import BASE
from lensrl.store.file.checked import attribute, dataset_at, group_at, has, members, read_array, read_strings
from lensrl.store.file.deltas import sum_of_squares
from lensrl.store.file.exact import flat
from lensrl.store.file.layout import DELTA, REPAIRS, check_names, check_whole

CHOICES = {
    "status": ("completed", "collapsed", "diverged"),
    "compression": ("none", "blosc2-zstd"),
    "what": ("weights", "activations"),
    "component": ("block", "attn", "mlp", "head", "stream"),
    "sets": ("single", "bottom", "top", "pairs", "together", "everything"),
}

COLUMNS = ("reward_mean", "reward_std", "loss", "grad_norm", "layer_grad_norm", "outside_grad_norm",
           "completion_length", "truncated_share", "zero_spread_share", "step_time", "peak_memory")  # fmt: skip
SITES = ("block_out", "attn_out", "mlp_out")

TRAINED = ("deltas", "repairs", "snapshots")
FINITE = re.compile(rf"scores/score|activations/.*|{REPAIRS}/value")
OWN_FILTERS = 256  # HDF5's own have smaller numbers; all others are plugins


def check_layout(file: h5py.File) -> None:
    """Compare a whole file with its format. Raises KeyError or ValueError at the first thing that is not as written.

    Every dataset is read: HDF5 checks the checksums on the way.
    """
    names = check_names(file)
    for name, allowed in CHOICES.items():
        if name in file.attrs and (said := attribute(file, name)) not in allowed:
            raise ValueError(f"attribute {name} is {said!r}, not one of {', '.join(allowed)}")
    for name in names:
        _check_numbers(dataset_at(file, name), name)
    if str(attribute(file, "format")) == "lensrl-run":
        _check_run(file, names)
    else:
        _check_models(file)


def _check_run(file: h5py.File, names: Sequence[str]) -> None:
    _check_header(file)
    _check_groups(file)
    _check_filters(file, names)
    _check_snapshots(file)
    parameters = _read_parameters(file)
    for root in sorted({"", *(name[: found.end()] for name in names if (found := re.match(r"snapshots/\d+/", name)))}):
        inside = [name for name in names if name.startswith(f"{root}deltas/")]
        _check_changes(file, root, parameters, [name for name in inside if re.fullmatch(DELTA, name)])
    for name in names:
        if re.fullmatch(REPAIRS + "/where", name):
            _check_repairs(file, name)


def _check_numbers(dataset: h5py.Dataset, name: str) -> None:
    """Texts are UTF-8, axes count up, and what must be finite is. Deltas are read later."""
    if dataset.dtype.kind == "S":
        for piece in _pieces(dataset):
            _check_utf8(piece, name)
    elif dataset.is_scale:
        _check_count(dataset, name)
    elif FINITE.fullmatch(name):
        if not math.isfinite(_square(dataset)):
            raise ValueError(f"{name} holds numbers that are not finite")
    elif not re.fullmatch(DELTA, name):
        for _ in _pieces(dataset):  # HDF5 compares the checksums
            pass


def _check_utf8(texts: np.ndarray, name: str) -> None:
    for raw in texts.reshape(-1).tolist():
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{name} holds {raw[:80]!r}, which is no UTF-8") from None


def _check_count(axis: h5py.Dataset, name: str) -> None:
    """Axes are 0, 1, ..., of the length that is in their names; steps are 1, 2, ..."""
    first = done = 1 if name == "step" else 0
    for piece in _pieces(axis):
        if not np.array_equal(piece, np.arange(done, done + len(piece))):
            raise ValueError(f"{name} does not count up from {first}")
        done += len(piece)
    length = re.search(r"_(\d+)$", name)
    if length is not None and int(length[1]) != len(axis):
        raise ValueError(f"{name} has the length {len(axis)}")


def _check_models(file: h5py.File) -> None:
    """The models of a patching result."""
    models = read_strings(file, "model")
    patched = models[2:]
    if models[:2] != ["into", "donor"] or patched not in (["patched"], [f"head-{i}" for i in range(len(patched))]):
        raise ValueError(f"model is {', '.join(models)}; not into, donor, and patched or the heads")
    component = str(attribute(file, "component"))
    if (patched != ["patched"]) != (component == "head"):
        raise ValueError(f"attribute component is {component!r}, and model {', '.join(models)}")
    layers = attribute(file, "layers").tolist() if "layers" in file.attrs else [int(attribute(file, "layer"))]
    if not layers or layers != sorted(set(layers)) or layers[0] < 0:
        raise ValueError(f"attribute layers is {layers}")
    for name in ("sources", "provenance"):
        if not isinstance(json.loads(attribute(file, name)), dict):
            raise ValueError(f"attribute {name} is no JSON object")


def _check_header(file: h5py.File) -> None:
    """The attributes of a run, and the axes that go with them."""
    run, n_layers = str(attribute(file, "run")), int(attribute(file, "n_layers"))
    if not run or "/" in run:
        raise ValueError(f"attribute run is {run!r}, which names no run")
    layers = attribute(file, "layers").tolist()
    if not all(0 <= layer < n_layers for layer in layers) or (run == BASE and layers):
        raise ValueError(f"attribute layers is {layers}, of the {n_layers} layers of run {run!r}")
    if len(dataset_at(file, "layer")) != n_layers:
        raise ValueError(f"layer has the length {len(dataset_at(file, 'layer'))}, attribute n_layers is {n_layers}")
    if read_strings(file, "outside") != [*OUTSIDE]:
        raise ValueError(f"outside is not {', '.join(OUTSIDE)}")


def _check_groups(file: h5py.File) -> None:
    """What a run of this kind must have, and what it must not."""
    base, diverged = str(attribute(file, "run")) == BASE, str(attribute(file, "status")) == "diverged"
    needed = [] if diverged else ["scores"] if base else ["scores", "training"]
    banned = (["training", *TRAINED] if base else []) + (
        ["scores", "probe", "activations", *TRAINED] if diverged else []
    )
    for group in needed:
        if not has(file, group):
            raise KeyError(f"there is no {group}, and the run is {'the base' if base else 'not diverged'}")
    for group in banned:
        if has(file, group):
            raise ValueError(f"{group} is there, and the run is {'the base' if base else 'diverged'}")
    if has(file, "probe") != has(file, "activations"):
        raise KeyError("there is no probe for the activations, or there are no activations for the probe")
    if has(file, "training/reward"):  # as in the small files that tests write, of which some are kept for good
        return
    for group, whole in (("training", COLUMNS), ("activations", SITES)):
        if has(file, group):
            check_whole(file, group, whole)


def _check_filters(file: h5py.File, names: Sequence[str]) -> None:
    """Nothing needs a plugin unless the run says that it is compressed."""
    if "compression" in file.attrs and attribute(file, "compression") != "none":
        return
    for name in names:
        plan = dataset_at(file, name).id.get_create_plist()
        if any(plan.get_filter(i)[0] >= OWN_FILTERS for i in range(plan.get_nfilters())):
            raise ValueError(f"{name} is compressed, and attribute compression says that nothing is")


def _check_snapshots(file: h5py.File) -> None:
    """Each step in the attribute has its group, but for the last of training, whose deltas are the run's own."""
    said = [int(step) for step in attribute(file, "snapshots")] if "snapshots" in file.attrs else []
    kept = members(group_at(file, "snapshots")) if has(file, "snapshots") else []
    last = len(dataset_at(file, "step")) if has(file, "training") else 0
    if said != sorted({*said}) or not all(0 < step <= last for step in said):
        raise ValueError(f"attribute snapshots is {said}, not steps from 1 to {last}, ascending")
    for step in said:
        if str(step) not in kept and step != last:
            raise KeyError(f"there is no snapshots/{step}, which attribute snapshots names")
    for name in kept:
        if name not in map(str, said):
            raise ValueError(f"snapshots/{name} is there, and attribute snapshots is {said}")


class _Parameters(NamedTuple):
    """The rows of `parameters`; `places` are where their deltas are: PART/NAME."""

    names: list[str]
    size: Int64[np.ndarray, " parameter"]
    places: list[str]


def _read_parameters(file: h5py.File) -> _Parameters:
    """Raises ValueError for a row that no model has."""
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
    return _Parameters(names, size, _places(names, parts))


def _places(names: Sequence[str], parts: Sequence[str]) -> list[str]:
    """PART/NAME of every parameter: `3/mlp.up.weight` of `model.layers.3.mlp.up.weight`.

    Raises ValueError where `parts` says another layer than a name.
    """
    inside = [(name, part) for name, part in zip(names, parts, strict=True) if part not in OUTSIDE]
    if not inside:
        return [f"{part}/{name}" for name, part in zip(names, parts, strict=True)]
    first, layer = inside[0]
    prefixes = [first[: found.start() + 1] for found in re.finditer(rf"\.{layer}\.", first)]  # model.layers.
    prefix = next((p for p in reversed(prefixes) if all(name.startswith(f"{p}{part}.") for name, part in inside)), None)
    if prefix is None or any(
        re.match(rf"{re.escape(prefix)}\d+\.", name) for name, part in zip(names, parts, strict=True) if part in OUTSIDE
    ):
        raise ValueError("parameters/part says other layers than the names of the parameters")
    return [
        f"{part}/{name if part in OUTSIDE else name.removeprefix(f'{prefix}{part}.')}"
        for name, part in zip(names, parts, strict=True)
    ]


def _check_changes(file: h5py.File, root: str, parameters: _Parameters, deltas: Sequence[str]) -> None:
    """Each parameter that changed has its delta, in its place and of its size and norm; no other has one."""
    table = root or "parameters/"
    changed, norm = read_array(file, f"{table}changed"), read_array(file, f"{table}norm")
    rows = {f"{root}deltas/{place}": row for row, place in enumerate(parameters.places)}
    for row, (name, size) in enumerate(zip(parameters.names, parameters.size, strict=True)):
        if not 0 <= changed[row] <= size:
            raise ValueError(f"{table}changed says {changed[row]} of the {size} entries of {name}")
        if changed[row] == 0 and norm[row] != 0:
            raise ValueError(f"{table}norm says {norm[row]} of {name}, of which nothing changed")
    for delta in deltas:
        dataset, row = dataset_at(file, delta), rows.get(delta)
        said = str(attribute(dataset, "parameter"))
        if row is None or parameters.names[row] != said:
            raise ValueError(f"{delta} is not the place of {said}, which its attribute parameter names")
        if changed[row] == 0:
            raise ValueError(f"{delta} is there, and {table}changed says 0")
        if dataset.size != parameters.size[row]:
            raise ValueError(f"{delta} has {dataset.size} entries, parameters/size says {parameters.size[row]}")
        found = math.sqrt(_square(dataset))
        if not (math.isfinite(found) and math.isclose(found, norm[row], rel_tol=1e-6)):
            raise ValueError(f"{delta} has the norm {found}, not {norm[row]}")
    for delta, row in rows.items():
        if changed[row] and delta not in deltas:
            raise KeyError(f"there is no {delta}, and {table}changed says {changed[row]}")


def _check_repairs(file: h5py.File, name: str) -> None:
    """Positions in the delta, ascending, each once."""
    delta = name.replace("repairs/", "deltas/", 1).removesuffix("/where")
    if not has(file, delta):
        raise KeyError(f"there is no {delta} for {name}")
    where, size = read_array(file, name), dataset_at(file, delta).size
    if where.size and not (where[0] >= 0 and where[-1] < size and (np.diff(where) > 0).all()):
        raise ValueError(f"{name} is not ascending from 0 to under {size}, each once")


def _square(dataset: h5py.Dataset) -> float:
    """The sum of squares, which is finite where all entries of a float32 dataset are."""
    with np.errstate(all="ignore"):
        return sum(sum_of_squares(flat(piece)) for piece in _pieces(dataset))


def _pieces(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """A dataset in pieces of about 16 MiB."""
    if not dataset.shape:
        yield np.asarray(dataset[()])
        return
    row = max(1, dataset.dtype.itemsize * math.prod(dataset.shape[1:]))
    rows = max(1, (16 << 20) // row)
    for start in range(0, len(dataset), rows):
        yield dataset[start : start + rows]

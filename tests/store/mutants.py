"""Ways to spoil a run file, or to forge one: each takes the dice that decide everything about it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import hdf5plugin
import numpy as np

from lensrl.store.file.seal import read_seal
from tests.reseal import resealed

Dice = random.Random
Node = TypeVar("Node", h5py.Group, h5py.Dataset)


# What is made of a file's bytes.


def flip(content: bytearray, dice: Dice) -> None:
    for _ in range(dice.randint(1, 8)):
        content[dice.randrange(len(content))] ^= dice.randint(1, 255)


def flip_the_seal(content: bytearray, dice: Dice) -> None:
    start = content.rindex(b'{"format"') if b'{"format"' in content else len(content) // 2
    for _ in range(dice.randint(1, 3)):
        content[dice.randrange(start, len(content))] ^= 1 << dice.randrange(8)


def truncate(content: bytearray, dice: Dice) -> None:
    del content[dice.randrange(len(content)) :]


def zero_a_block(content: bytearray, dice: Dice) -> None:
    at, length = _block(content, dice)
    content[at : at + length] = bytes(length)


def swap_two_blocks(content: bytearray, dice: Dice) -> None:
    at, length = _block(content, dice)
    other = dice.randrange(len(content) - length)
    one, two = content[at : at + length], content[other : other + length]
    content[at : at + length], content[other : other + length] = two, one


def repeat_a_block(content: bytearray, dice: Dice) -> None:
    at, length = _block(content, dice)
    content[at:at] = content[at : at + length]


def drop_a_block(content: bytearray, dice: Dice) -> None:
    at, length = _block(content, dice)
    del content[at : at + length]


def append(content: bytearray, dice: Dice) -> None:
    content += dice.choice([b"\n", dice.randbytes(200), bytes(4096), bytes(content)])


def _block(content: bytearray, dice: Dice) -> tuple[int, int]:
    length = dice.choice([1, 8, 64, 512, 4096])
    return dice.randrange(len(content) - length), length


SPOILED = (
    flip, flip, flip_the_seal, truncate, zero_a_block, swap_two_blocks, repeat_a_block, drop_a_block, append,
)  # fmt: skip


# What somebody would do who seals the file again: with the seal itself, with the bytes of the structure, and with h5py.


def forge_the_seal(path: Path, dice: Dice) -> None:
    """A seal whose own checksum is right, of nonsense."""
    content = path.read_bytes()
    start = content.rindex(b'{"format"')
    raw = json.loads(content[start : content.rindex(b"\nlensrl-seal")])
    for _ in range(dice.randint(1, 2)):
        with suppress(KeyError, TypeError, AttributeError, IndexError):  # the first change left no room for a second
            _garble(raw, dice)
    text = dice.choice([json.dumps(raw).encode()] * 9 + [b"[" * 100_000, b"\xff", b"3", b""])
    last = b"\nlensrl-seal %012d %s\n" % (len(text), hashlib.sha256(text).hexdigest().encode())
    path.write_bytes(content[:start] + text + last)


def _garble(raw: dict[str, Any], dice: Dice) -> None:
    odd = [None, -1, 0, 1 << 62, 10**400, float("inf"), float("nan"), 0.5, True, "", "<b>x</b>", [], {}, [[1, 2, 3]]]
    value, key = dice.choice(odd), dice.choice([*raw])
    datasets = raw["datasets"]
    name = dice.choice([*datasets])
    changes: list[Callable[[], object]] = [
        lambda: raw.update({key: value}),
        lambda: raw.pop(key),
        lambda: datasets.update({name: value}),
        lambda: datasets.pop(name),
        lambda: datasets[name].update(ranges=value),
        lambda: datasets[name].update(ranges=[[value, value]]),
        lambda: datasets[name].update(ranges=[[0, raw["size"]]]),
        lambda: datasets[name].update(ranges=[[0, 0]] * 100_000),
        lambda: datasets[name].update(sha256=value),
        lambda: datasets.update({"\ud800": {"sha256": "", "ranges": []}}),
    ]
    dice.choice(changes)()


def forge_the_structure(path: Path, dice: Dice) -> None:
    """Wrong bytes in HDF5's own headers, which only HDF5 can find."""
    seal = read_seal(path)
    assert seal is not None
    content = bytearray(path.read_bytes())
    for _ in range(dice.randint(1, 4)):
        start, length = dice.choice(seal.gaps())
        content[dice.randrange(start, start + length)] ^= dice.randint(1, 255)
    digest = hashlib.sha256(b"".join(content[a : a + n] for a, n in seal.gaps())).hexdigest()
    text = bytes(content[seal.size : content.rindex(b"\nlensrl-seal")]).replace(
        seal.structure.encode(), digest.encode()
    )
    last = b"\nlensrl-seal %012d %s\n" % (len(text), hashlib.sha256(text).hexdigest().encode())
    path.write_bytes(bytes(content[: seal.size]) + text + last)


Build = Callable[[h5py.Group, str, Dice], object]


def external_link(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent[name] = h5py.ExternalLink(dice.choice(["/etc/passwd", "other.h5", parent.file.filename]), "/item")


def soft_link(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent[name] = h5py.SoftLink(dice.choice(["/item", "/nowhere", ".", "/scores/score", parent.name or "/"]))


def hard_link(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent[name] = dice.choice([parent, parent.file["/"], parent.file["parameters"], parent.file["parameters/norm"]])


def named_type(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent[name] = np.dtype(dice.choice(["f4", "S3"]))


def group(parent: h5py.Group, name: str, dice: Dice) -> None:
    made = parent.create_group(name)
    if dice.random() < 0.5:
        made["inner"] = np.arange(3)


def deep(parent: h5py.Group, name: str, dice: Dice) -> None:
    for _ in range(dice.choice([3, 300])):
        parent = parent.create_group(name)
        name = "x"
    parent["number"] = 1.0


def external_storage(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent.create_dataset(
        name, (8,), "f4", external=[(dice.choice(["/etc/passwd", "other.raw"]), 0, h5py.h5f.UNLIMITED)]
    )


def virtual(parent: h5py.Group, name: str, dice: Dice) -> None:
    layout = h5py.VirtualLayout((4, 4), "f4")
    layout[...] = h5py.VirtualSource(dice.choice(["other.h5", "."]), "item", (4, 4))
    parent.create_virtual_dataset(name, layout)


def other_type(parent: h5py.Group, name: str, dice: Dice) -> None:
    shape = dice.choice([(), (3,), (4, 4), (2, 3, 4)])
    odd = [
        h5py.string_dtype(), h5py.vlen_dtype(np.int32), h5py.ref_dtype, h5py.regionref_dtype,
        h5py.opaque_dtype(np.dtype("M8[s]")), np.dtype("V5"), np.dtype([("a", "f4"), ("b", "S3")]),
        h5py.enum_dtype({"A": 0, "B": 1}), np.dtype(bool), np.dtype("c8"), np.dtype("f2"), np.dtype(">f8"),
        np.dtype("i8"), np.dtype("u1"), np.dtype("S7"), np.dtype(("f4", (2,))), h5py.string_dtype("ascii", 4),
    ]  # fmt: skip
    made = parent.create_dataset(name, shape, dice.choice(odd))
    if made.dtype.kind in "iufS":
        with suppress(TypeError, ValueError):  # an array within an array
            made[...] = dice.choice([b"\xff\xfe", b"7"]) if made.dtype.kind == "S" else dice.choice([0, 1, 100])


def huge(parent: h5py.Group, name: str, dice: Dice) -> None:
    shape = dice.choice([(1 << 40,), (1 << 20, 1 << 20), (1 << 33,)])
    parent.create_dataset(
        name, shape, dice.choice(["f4", "S1000"]), chunks=dice.choice([(1 << 20, 1)[: len(shape)], True])
    )


def huge_contiguous(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent.create_dataset(name, (dice.choice([1 << 31, 1 << 50]),), "f4")


def huge_items(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent.create_dataset(name, (dice.choice([0, 1, 3]),), "S2147483647")


def huge_chunks(parent: h5py.Group, name: str, dice: Dice) -> None:
    made = parent.create_dataset(
        name, (1 << 28,), "f4", chunks=(1 << 28,), maxshape=(None,), compression=dice.choice([None, "gzip"])
    )
    made.id.write_direct_chunk((0,), b"\x00" * 100)  # one chunk is there, and is a GiB


def empty(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent.create_dataset(name, dice.choice([(0,), (0, 4), (4, 0)]), "f4")


def without_shape(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent.create_dataset(name, dtype=dice.choice(["f4", "S3"]), data=h5py.Empty("f4"))


def other_length(parent: h5py.Group, name: str, dice: Dice) -> None:
    n = dice.choice([1, 2, 5, 100])
    parent[name] = dice.choice([np.arange(n, dtype=np.int32), np.arange(float(n)), np.array([b"text"] * n)])


def other_numbers(parent: h5py.Group, name: str, dice: Dice) -> None:
    parent[name] = np.full(dice.choice([2, 3, 6]), dice.choice([np.nan, np.inf, -1.0, 1e300]))


def other_filter(parent: h5py.Group, name: str, dice: Dice) -> None:
    made = parent.create_dataset(name, (3,), "f4", **hdf5plugin.Blosc2("zstd"))
    made.id.write_direct_chunk((0,), dice.randbytes(dice.choice([1, 31, 32, 33, 64])))


BUILDS: tuple[Build, ...] = (
    external_link, soft_link, hard_link, named_type, group, deep, external_storage, virtual, other_type, other_type,
    huge, huge_contiguous, huge_items, huge_chunks, empty, without_shape, other_length, other_length, other_numbers,
    other_filter,
)  # fmt: skip


def replace(file: h5py.File, dice: Dice) -> None:
    """Something else in the place of a dataset or a group, with its scales and attributes or without."""
    name = dice.choice(_names(file))
    old = file[name]
    kept = list(old.attrs.items()) if isinstance(old, h5py.Dataset) and dice.random() < 0.5 else []
    scales = [scale[0].name for scale in old.dims if len(scale)] if isinstance(old, h5py.Dataset) else []
    parent = file[name.rpartition("/")[0] or "/"]
    assert isinstance(parent, h5py.Group)
    del file[name]
    dice.choice(BUILDS)(parent, name.rpartition("/")[2], dice)
    made = file.get(name, getlink=True)
    if kept and isinstance(made, h5py.HardLink) and isinstance(made := file[name], h5py.Dataset):
        for key, value in kept:
            if key in ("parameter", "CLASS", "NAME"):
                made.attrs[key] = value
        for dimension, scale in zip(made.dims, scales, strict=False):
            with suppress(Exception):  # a scale that is gone, an array that has no axes
                dimension.attach_scale(file[str(scale)])


def add(file: h5py.File, dice: Dice) -> None:
    """Something that is no part of the format."""
    groups: list[h5py.Group] = [file, *_of(h5py.Group, file).values()]
    name = dice.choice(["unknown", "01", "-1", "٣", "embed", "snapshots", "<b>x</b>", "\x1b[31m", " ", "a\nb"])
    parent = dice.choice(groups)
    if name not in parent:
        dice.choice(BUILDS)(parent, name, dice)


def remove(file: h5py.File, dice: Dice) -> None:
    del file[dice.choice(_names(file))]


def rename(file: h5py.File, dice: Dice) -> None:
    one, two = dice.sample(_names(file), 2)
    with suppress(ValueError, KeyError):  # into itself
        file.move(one, f"{one}-moved")
        file.move(two, one)
        file.move(f"{one}-moved", two)


CONVENTIONS = ("scale_factor", "add_offset", "_FillValue", "missing_value", "units", "calendar", "_Encoding",
               "_Unsigned", "coordinates", "dtype")  # fmt: skip  # by which xarray computes values


def change_an_attribute(file: h5py.File, dice: Dice) -> None:
    name = dice.choice(["", "", *_names(file)])
    node = file[name] if name else file
    keys = [key for key in node.attrs if key not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS")]
    key = dice.choice([*keys, "parameter", dice.choice(CONVENTIONS)])
    values = [
        None, "utf-8", "days since 2000-01-01", np.float32(1), 0, -1, 1 << 62, 0.5, np.nan, np.inf, True, "", "abc",
        "<script>alert(1)</script>", "\x1b[31m", "7",
        "[1]", "{", "NaN", "[" * 20_000, b"\xff\xfe", np.bytes_(b"\xff\xfe"), "é" * 30_000, np.arange(15_000),
        np.ones((50, 50)), np.zeros(0), np.array([b"a", b"b"]), h5py.Empty("f4"), h5py.Empty("S1"), np.array([1 + 2j]),
        np.void(b"1234"), np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]), file.ref, np.array([3.5]),
        np.array([0], np.uint64),
    ]  # fmt: skip
    value = dice.choice(values)
    if key in node.attrs:
        del node.attrs[key]
    if value is not None:
        with suppress(ValueError):  # a text that holds a zero byte
            node.attrs[key] = value


def change_numbers(file: h5py.File, dice: Dice) -> None:
    """Numbers that are of the right kind and wrong."""
    names = [name for name, dataset in _of(h5py.Dataset, file).items() if dataset.size]
    repairs = [n for n in names if n.startswith("repairs/")]
    name = dice.choice([*names, *repairs, "parameters/norm", "parameters/part", "parameters/size"])
    dataset = file.get(name)
    if isinstance(dataset, h5py.Dataset) and dataset.size:
        values = {
            "f": [np.nan, np.inf, -1.0, 0.0], "i": [-1, 0, 1 << 30, 99], "u": [0, 7], "S": [b"", b"\xff", b"99", b"x"],
        }  # fmt: skip
        odd = dice.choice(values.get(dataset.dtype.kind, [0]))
        with suppress(TypeError, ValueError, OSError):  # what an earlier change made of it
            everything = dataset[...].reshape(-1)
            everything[dice.choice([slice(None), 0, -1])] = odd
            dataset[...] = everything.reshape(dataset.shape)


def attach_another_scale(file: h5py.File, dice: Dice) -> None:
    datasets = [*_of(h5py.Dataset, file).values()]
    dataset = dice.choice([d for d in datasets if d.shape])
    with suppress(Exception):  # HDF5 refuses a scale of itself
        dataset.dims[dice.randrange(len(dataset.shape))].attach_scale(dice.choice(datasets))


def _names(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def _of(kind: type[Node], file: h5py.File) -> dict[str, Node]:
    return {name: node for name in _names(file) if isinstance(node := file[name], kind)}


CHANGES = (replace, replace, replace, add, remove, rename, change_an_attribute, change_an_attribute, change_numbers,
           attach_another_scale)  # fmt: skip


def change(path: Path, dice: Dice, *, seal: bool) -> None:
    with resealed(path) if seal else h5py.File(path, "r+") as file:
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            dice.choice(CHANGES)(file, dice)
        if not seal and dice.random() < 0.05:
            file[b"\xff\xfe"] = 1.0  # a name that is no text


class Kind(NamedTuple):
    """Where a mutant comes from. Only HDF5 can find damage in a structure that has no seal, or a forged one; it was
    not made for that and may die of it, which is why `verify` reads in a child.
    """

    make: Callable[[Path, Dice], None]
    sealed: bool = True  # made of a sealed file, and not sealed again
    may_die: bool = False


def spoil(path: Path, dice: Dice) -> None:
    content = bytearray(path.read_bytes())
    dice.choice(SPOILED)(content, dice)
    path.write_bytes(content)


KINDS = {
    "spoiled": Kind(spoil),
    "forged seal": Kind(forge_the_seal, sealed=False),
    "forged structure": Kind(forge_the_structure, sealed=False, may_die=True),
    "forged content": Kind(lambda path, dice: change(path, dice, seal=True), sealed=False),
    "released, spoiled": Kind(spoil, sealed=False, may_die=True),
    "released, changed": Kind(lambda path, dice: change(path, dice, seal=False), sealed=False),
}
TURNS = ("spoiled", "forged content", "spoiled", "forged content", "forged seal", "forged content",
         "released, spoiled", "released, changed", "forged structure")  # fmt: skip

"""Wrong bytes and hostile files: whatever stands in a file, it is read as it was written, or refused in one sentence.

A mutant is made from its number alone, in a process of its own (`fork`) that may take a GiB more than it has and five
seconds. There, everything that a run has is read, and the file is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import hdf5plugin
import numpy as np
import pandas as pd
import pytest
from synthetic import write_full_run

from lensrl.errors import LensrlError
from lensrl.store.lazy import Deltas
from lensrl.store.run import Run
from lensrl.store.seal import read_seal
from lensrl.store.verify import check_file, verify
from tests.reseal import resealed

RELEASED = Path(__file__).parent / "released" / "run-1.h5"
FEW, MANY = 300, 10_000
MEMORY = 1 << 30
SECONDS = 5
KILLER = 476  # the number of a mutant that HDF5 2.0.0 aborts on
FINE = {"unchanged", "not made"} | {
    f"{status}{read}"
    for status in ("good", "damaged", "unfinished", "too new")
    for read in ("", ", all the same", ", some the same")
}
DIES, HANGS = "HDF5 dies of", "does not end"
MADE = "made: "

Dice = random.Random
Readings = dict[str, bytes]
Node = TypeVar("Node", h5py.Group, h5py.Dataset)


# What is read.


def readings(path: Path, *, xarray: bool = False) -> Readings:
    """Everything that can be read of a run, by name; what is refused is left out."""
    found: Readings = {}

    def take(name: str, read: Callable[[], Any]) -> None:
        with suppress(LensrlError):
            found[name] = _bytes(read())

    with suppress(LensrlError), Run(path) as run:
        for name in ("study", "name", "seed", "layers", "status", "reason", "base", "fingerprint", "n_layers", "score"):
            take(name, lambda name=name: getattr(run, name))
        for name in ("run_id", "recipe", "provenance", "items", "scores", "training", "probe"):
            take(name, lambda name=name: getattr(run, name))
        take("repr", lambda: repr(run))
        take("item_score", run.item_score)
        take("delta_norms", run.delta_norms)
        take("layer_delta_norms", run.layer_delta_norms)
        _take_deltas(take, "", lambda: run.deltas)
        with suppress(LensrlError):
            for step, deltas in run.snapshots.items():
                _take_deltas(take, f"snapshots/{step}", lambda deltas=deltas: deltas)
        with suppress(LensrlError):
            for site, values in run.activations.items():
                take(f"activations/{site}", lambda values=values: values[...])
                take(f"activations/{site} one", lambda values=values: values[:1] if values.shape else values[()])
        if xarray:
            take("xarray", lambda: _load(run))
    return found


def _take_deltas(take: Callable[[str, Callable[[], Any]], None], where: str, read: Callable[[], Deltas]) -> None:
    with suppress(LensrlError):
        deltas = read()
        take(f"{where} repr", lambda: repr(deltas))
        for part in deltas:
            take(f"{where} {part} exact", lambda part=part: deltas.exact(part))
            with suppress(LensrlError):
                one = deltas[part]
                take(f"{where} {part} repr", lambda one=one: repr(one))
                take(f"{where} {part} frobenius", lambda one=one: one.frobenius)
                for name, values in one.items():
                    take(f"{where} {part} {name}", lambda values=values: values[...])


def _bytes(value: Any) -> bytes:
    """A value so that equal bytes are equal numbers, NaN included."""
    if isinstance(value, pd.DataFrame):
        return b"".join(_bytes(column) + _bytes(value[column].to_numpy()) for column in value)
    if isinstance(value, dict | list | tuple):
        return repr([_bytes(v) for v in (value.items() if isinstance(value, dict) else value)]).encode()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype} {value.shape} ".encode() + value.tobytes()
    return repr(value.tolist() if isinstance(value, np.ndarray) else value).encode("utf-8", "surrogatepass")


def _load(run: Run) -> str:
    tree = run.to_xarray()
    try:
        with suppress(Exception):  # from here on the errors are xarray's own
            return str(tree.load().nbytes)
        return ""
    finally:
        tree.close()


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


def change_an_attribute(file: h5py.File, dice: Dice) -> None:
    name = dice.choice(["", "", *_names(file)])
    node = file[name] if name else file
    keys = [key for key in node.attrs if key not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS")]
    key = dice.choice(keys or ["parameter"])
    values = [
        None, 0, -1, 1 << 62, 0.5, np.nan, np.inf, True, "", "abc", "<script>alert(1)</script>", "\x1b[31m", "7",
        "[1]", "{", "NaN", "[" * 20_000, b"\xff\xfe", np.bytes_(b"\xff\xfe"), "é" * 30_000, np.arange(15_000),
        np.ones((50, 50)), np.zeros(0), np.array([b"a", b"b"]), h5py.Empty("f4"), h5py.Empty("S1"), np.array([1 + 2j]),
        np.void(b"1234"),        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]), file.ref, np.array([3.5]),
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


# One mutant after another.


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


def write_originals(folder: Path) -> None:
    write_full_run(folder / "original.h5")
    with resealed(folder / "original.h5") as file:
        file.attrs.modify("run_id", "0" * 32)  # as random as ever would be another file every time
    (folder / "released.h5").write_bytes(RELEASED.read_bytes())


def make(folder: Path, number: int) -> tuple[str, Path, Path]:
    """Mutant `number`: its kind, its original, itself."""
    kind = TURNS[number % len(TURNS)]
    original = folder / ("released.h5" if kind.startswith("released") else "original.h5")
    mutant = folder / f"{number}.h5"
    mutant.write_bytes(original.read_bytes())
    KINDS[kind].make(mutant, random.Random(number))
    return kind, original, mutant


def examine(kind: str, original: Path, mutant: Path, expected: Readings, *, xarray: bool) -> str:
    """What becomes of a mutant: what the check says and whether the numbers are as they were, or what is wrong."""
    if mutant.read_bytes() == original.read_bytes():
        return "unchanged"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    signal.alarm(SECONDS)
    try:
        verdict = check_file(mutant)
        if verdict.status == "good" and KINDS[kind].sealed:
            return "wrong bytes are called good"
        found = readings(mutant, xarray=xarray)
        if "alloc" in verdict.where and not KINDS[kind].may_die:  # HDF5 may believe its own headers
            return f"asks for too much memory: {verdict.where}"
    except BaseException:
        return f"wrong error: {traceback.format_exc()}"
    same = sum(expected.get(name) == value for name, value in found.items())
    return f"{verdict.status}, {'all' if same == len(found) else 'some'} the same" if found else verdict.status


def examine_all(folder: Path, numbers: Iterable[int]) -> None:
    """Examine each mutant in a fork of this process, and print what became of it."""
    originals = ("original.h5", "released.h5")
    # What reading imports, it imports here, before the forks.
    expected = {name: readings(folder / name, xarray=True) for name in originals}
    for number in numbers:
        kind = TURNS[number % len(TURNS)]
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            signal.alarm(SECONDS)
            with (
                os.fdopen(writing, "w", encoding="utf-8", errors="backslashreplace") as out,
                suppress(OSError, MemoryError, KeyError),  # HDF5 has no room for such an attribute, say
            ):
                made = make(folder, number)
                print(MADE, end="", file=out, flush=True)
                like = expected[originals[kind.startswith("released")]]
                print(examine(*made, like, xarray=number % 8 == 0), end="", file=out)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if not text.startswith(MADE):
            text = "not made"  # HDF5 may also die of making it
        elif os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            text = HANGS if name == "SIGALRM" else f"{DIES} {name}"
        text = text.removeprefix(MADE)
        (folder / f"{number}.h5").unlink(missing_ok=True)
        print(json.dumps([number, kind, text]), flush=True)


EXAMINE = (
    "import sys, pathlib, test_fuzz; test_fuzz.examine_all(pathlib.Path(sys.argv[1]), range(*map(int, sys.argv[2:])))"
)


def outcomes(folder: Path, count: int) -> list[tuple[int, str, str]]:
    """Number, kind and outcome of the first `count` mutants, examined by two processes."""
    write_originals(folder)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    reports = [folder / f"report-{first}" for first in (0, 1)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", EXAMINE, str(folder), str(first), str(count), "2"],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=report.open("w"), stderr=subprocess.DEVNULL,
        )
        for first, report in enumerate(reports)
    ]  # fmt: skip
    assert [worker.wait() for worker in workers] == [0, 0]
    found = [json.loads(line) for report in reports for line in report.read_text().splitlines()]
    assert sorted(number for number, _, _ in found) == [*range(count)]
    return [(number, kind, text) for number, kind, text in found]


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.fuzz)])
def test_a_mutant_is_read_as_it_was_written_or_refused(tmp_path: Path, count: int) -> None:
    found = outcomes(tmp_path, count)
    fine = lambda kind, text: text in FINE or (KINDS[kind].may_die and text.startswith((DIES, HANGS)))  # noqa: E731
    wrong = [f"mutant {number} ({kind}) {text}" for number, kind, text in found if not fine(kind, text)]
    counts = Counter((kind, text.partition(":")[0]) for _, kind, text in found)
    print(*(f"{n:6} {kind}: {text}" for (kind, text), n in sorted(counts.items())), sep="\n")
    assert not wrong, "\n".join(wrong[:20])
    assert sum(text == "not made" for _, _, text in found) < 0.02 * count
    assert {kind for kind, text in counts if "damaged" in text} == set(KINDS), "a kind of mutant did no harm"


def test_every_single_byte_of_a_file_is_covered_and_the_damaged_dataset_named(tmp_path: Path) -> None:
    path = tmp_path / "full-rl.seed-3.h5"
    write_full_run(path)
    content, seal = path.read_bytes(), read_seal(path)
    assert seal is not None
    owner = {
        byte: name
        for name, e in seal.datasets.items()
        for start, length in e.ranges
        for byte in range(start, start + length)
    }
    dice = Dice(0)
    last_lines = range(len(content) - 100, len(content))
    for at in [*dice.sample(range(len(content)), 150), *dice.sample([*owner], 50), *last_lines]:
        wrong = bytearray(content)
        wrong[at] ^= 1 << dice.randrange(8)
        path.write_bytes(wrong)
        verdict = check_file(path)
        assert verdict.status in ("damaged", "unfinished"), at
        assert verdict.where == owner[at] if at in owner else verdict.where, at
    path.write_bytes(content)
    assert check_file(path).status == "good"


def test_verify_survives_files_that_kill_the_library_that_reads_them(tmp_path: Path) -> None:
    write_originals(tmp_path)
    made = [make(tmp_path, number)[2] for number in range(6, 300, len(TURNS))]
    killer = tmp_path / "killer.h5"
    make(tmp_path, KILLER)[2].rename(killer)
    verdicts = {verdict.path: verdict for verdict in verify(tmp_path)}
    assert set(verdicts) == {tmp_path / "original.h5", tmp_path / "released.h5", killer, *made}
    assert [verdicts[tmp_path / f"{name}.h5"].status for name in ("original", "released")] == ["good", "good"]
    assert verdicts[killer].where == "reading it crashes the HDF5 library"

"""Wrong bytes and hostile files: whatever stands in a file, it is read as it was written, or refused in one sentence.

A mutant is made from its number alone, in a process of its own (`fork`) that may take a GiB more than it has and five
seconds. There, everything that a run has is read, and the file is checked.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensrl.errors import LensrlError
from lensrl.store.file.checked import read_array
from lensrl.store.file.lazy import Deltas
from lensrl.store.file.seal import read_seal
from lensrl.store.run import Run
from lensrl.store.verify import check_file, verify
from tests.reseal import resealed
from tests.store.mutants import KINDS, TURNS, forge_the_structure
from tests.store.synthetic import write_full_run

RELEASED = Path(__file__).parent / "released"
FEW, SOME, MANY = 100, 300, 10_000
MEMORY = 1 << 30
SECONDS = 5
KILLER = 594  # the dice that forge of released/run-2.h5 what HDF5 2.0.0 aborts on
FINE = {"unchanged", "not made"} | {
    f"{status}{read}"
    for status in ("good", "damaged", "unfinished", "too new")
    for read in ("", ", all the same", ", some the same")
}
OTHER = "xarray has other numbers"
DIES, HANGS = "HDF5 dies of", "does not end"
MADE = "made: "

Readings = dict[str, bytes]


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
        for name in ("run_id", "recipe", "provenance"):
            take(name, lambda name=name: getattr(run, name))
        for name in ("scores_by_item", "scores", "training", "probe"):
            take(name, lambda name=name: getattr(run, name)())
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
    """Whether xarray's numbers are the file's."""
    with run.to_xarray() as tree:
        with suppress(Exception):  # from here on the errors are xarray's own
            tree.load()
            for node in tree.subtree:
                for name, found in node.to_dataset(inherit=False).variables.items():
                    stored = read_array(run.file, f"{node.path}/{name}".lstrip("/"))
                    stored = np.char.decode(stored) if stored.dtype.kind == "S" else stored
                    if (stored.dtype.kind, stored.tobytes()) != (found.dtype.kind, found.values.tobytes()):
                        return f"{OTHER} at {node.path}/{name}"
            return "the same"
        return ""


# One mutant after another.


def write_originals(folder: Path) -> None:
    write_full_run(folder / "original.h5")
    with resealed(folder / "original.h5") as file:
        file.attrs.modify("run_id", "0" * 32)  # as random as ever would be another file every time
    (folder / "released.h5").write_bytes((RELEASED / "run-1.h5").read_bytes())


def make(folder: Path, number: int) -> tuple[str, Path, Path]:
    """Mutant `number`: its kind, its original, itself."""
    kind = TURNS[number % len(TURNS)]
    original = folder / ("released.h5" if kind.startswith("released") else "original.h5")
    mutant = folder / f"mutant.seed-{number}.h5"
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
        if OTHER.encode() in found.get("xarray", b""):
            return f"{found['xarray'].decode()}, and the file is called {verdict.status}"
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
        (folder / f"mutant.seed-{number}.h5").unlink(missing_ok=True)
        print(json.dumps([number, kind, text]), flush=True)


EXAMINE = """
import pathlib, sys
from tests.store import test_fuzz

test_fuzz.examine_all(pathlib.Path(sys.argv[1]), range(*map(int, sys.argv[2:])))
"""


def outcomes(folder: Path, count: int) -> list[tuple[int, str, str]]:
    """Number, kind and outcome of the first `count` mutants, examined by two processes."""
    write_originals(folder)
    path = os.pathsep.join(sys.path)
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


@pytest.mark.parametrize(
    "count",
    [
        FEW,
        pytest.param(SOME, marks=pytest.mark.slow),
        pytest.param(MANY, marks=[pytest.mark.fuzz, pytest.mark.timeout(0)]),
    ],
)
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
    dice = random.Random(0)
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
    killer = Path(shutil.copy(RELEASED / "run-2.h5", tmp_path / "killer.h5"))
    forge_the_structure(killer, random.Random(KILLER))
    verdicts = {verdict.path: verdict for verdict in verify(tmp_path)}
    assert set(verdicts) == {tmp_path / "original.h5", tmp_path / "released.h5", killer, *made}
    assert [verdicts[tmp_path / f"{name}.h5"].status for name in ("original", "released")] == ["good", "good"]
    assert verdicts[killer].where == "reading it crashes the HDF5 library"

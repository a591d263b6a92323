"""How fast run files are written, read, opened and verified, each beside a peer in the same run: `make bench`.

Times of one machine mean little, so each row is a ratio: the peer's time over ours, the median over rounds in which
both take turns. What a row is wanted to reach stands beside it; a miss is printed as a miss.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file

from lensrl.recipe import Recipe
from lensrl.store.file.atomic import new_file, sync
from lensrl.store.file.deltas import Parameter, frobenius, sum_of_squares
from lensrl.store.file.hdf5 import CHUNK_BYTES
from lensrl.store.names import RECIPE_FILE, run_path
from lensrl.store.run import Run
from lensrl.store.study import Study
from lensrl.store.verify import check_file
from lensrl.store.write import Header, Scores, write_run
from tests.store.synthetic import activations, probe, texts, training, training_texts

LAYERS, SIDE = 6, 2048  # four matrices of 16.8 MB a layer: 403 MB
ROUNDS = 9
RUNS = 36
NUMBERS = 64  # of a parameter of these runs
STUDY = f"{RUNS} runs, {NUMBERS} numbers a parameter"

Weights = dict[str, np.ndarray]
Tensors = dict[str, torch.Tensor]
Job = Callable[[], object]


def main() -> None:
    """Print the table."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("what", "ours", "peer", "ratio", "wanted", box=None, pad_edge=False, header_style="dim")
    with tempfile.TemporaryDirectory(prefix="lensrl-bench-") as scratch:
        for row in [*weights_rows(Path(scratch)), study_row(Path(scratch)), import_row()]:
            table.add_row(*row)
    console.print(f"{os.cpu_count()} cores, {ROUNDS} rounds, medians; files in {tempfile.gettempdir()}")
    console.print(table)


def weights_rows(folder: Path) -> list[tuple[str, ...]]:
    """A 403 MB delta written, read back and verified, against safetensors and sha256."""
    weights = make_weights()
    before, after, _ = weights
    deltas = differences(before, after)
    ours, peer, bare = folder / "full-rl.seed-0.h5", folder / "delta.safetensors", folder / "bare"

    def fresh() -> None:
        for path in (ours, peer, bare):
            path.unlink(missing_ok=True)
        os.sync()

    def write() -> None:
        write_ours(ours, weights)

    def save() -> None:
        write_peer(peer, deltas)

    rows = [
        ("write 403 MB: exact difference, hashes, read back; peer: save_file of ready differences, fsync",
         *measure(write, save, wanted=None, between=fresh)),
        ("the same, the first thing that a process writes; same peer",
         *measure_apart("write", ours, peer, wanted=0.8, between=fresh)),
        ("the same, again and again; peer: after - before, save_file, fsync",
         *measure(write, lambda: write_peer(peer, differences(before, after)), wanted=0.8, between=fresh)),
        ("the same; peer: only the passes that a proof of exactness needs, on all cores",
         *measure(write, lambda: write_bare(bare, before, after), wanted=0.8, between=fresh)),
    ]  # fmt: skip
    write()
    save()

    def open_and_read() -> object:
        with Run(ours) as run:
            return read(run)

    def open_and_load() -> object:
        with safe_open(peer, framework="pt") as tensors:
            return load(tensors)

    def forget() -> None:
        """Have the page cache drop both files; what is still mapped would stay."""
        for path in (ours, peer):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    rows.append(("open, read one layer, 67 MB, from the disk; peer: safe_open, get_tensor, clone",
                 *measure(open_and_read, open_and_load, wanted=0.8, between=forget)))  # fmt: skip
    rows.append(("read one layer, 67 MB, from the page cache, each in a process of its own; same peer",
                 *measure_apart("read", ours, peer, wanted=0.8)))  # fmt: skip
    rows.append(("verify 403 MB; peer: hashlib.sha256 of the file",
                 *measure(lambda: check_file(ours), lambda: hash_file(ours), wanted=None)))  # fmt: skip
    return rows


def write_ours(path: Path, weights: tuple[Weights, Weights, list[Parameter]]) -> None:
    before, after, parameters = weights
    header = Header(
        study="bench", run="full-rl", seed=0, layers=range(LAYERS), status="completed", reason="", base="none",
        fingerprint="0", n_layers=LAYERS, recipe="{}", provenance={},
    )  # fmt: skip
    one = np.ones((1, 1), np.float32)
    scores = Scores(["0"], ["math"], one, one.astype(np.int32), one > 1, one[0])
    with new_file(path) as partial:
        write_run(
            partial, header, parameters, before, after=after, training=training(LAYERS), scores=scores,
            probe=probe(), activations=activations(LAYERS),
        )  # fmt: skip


def write_peer(path: Path, deltas: Tensors) -> None:
    save_file(deltas, path)
    sync(path)


def write_bare(path: Path, before: Weights, after: Weights, *, promised: bool = False) -> None:
    """The passes over the bytes that an exact file with hashes cannot do without, and nothing else.

    With `promised`, also the norm of each delta and the number of its changed entries, which the format has.

    Each core takes a parameter, in blocks of the size that ours has: after - before; before + delta, compared with
    after; sha256; write; read back and compare; and fsync.
    """
    names = [name for name in after if name in before]
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(file, 0, sum(after[name].nbytes for name in names))
    starts = np.cumsum([0, *(after[name].nbytes for name in names)])

    def one(number: int) -> None:
        old, new = (weights[names[number]].reshape(-1) for weights in (before, after))
        digest, entries = hashlib.sha256(), CHUNK_BYTES // 4
        delta, total, again = (np.empty(entries, np.float32) for _ in range(3))
        for start in range(0, new.size, entries):
            o, n = old[start : start + entries], new[start : start + entries]
            d, t, a = (array[: n.size] for array in (delta, total, again))
            np.subtract(n, o, out=d)
            assert (np.add(o, d, out=t).view(np.int32) == n.view(np.int32)).all()
            digest.update(d.data)
            os.pwrite(file, d.data, int(starts[number]) + 4 * start)
            os.preadv(file, [a.data], int(starts[number]) + 4 * start)
            assert (a == d).all()
            if promised:
                sum_of_squares(d)
                np.count_nonzero(o.view(np.int32) != n.view(np.int32))
        disk.submit(os.fdatasync, file)

    with ThreadPoolExecutor(1) as disk, ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(len(names))))
    os.close(file)


def read(run: Run) -> list[np.ndarray]:
    """One layer's deltas."""
    return [array[...] for array in run.deltas[2].values()]


def load(tensors: safe_open) -> list[torch.Tensor]:
    """The same with safetensors: a mapped tensor is read when it is copied."""
    return [tensors.get_tensor(name).clone() for name in tensors.keys() if ".layers.2." in name]  # noqa: SIM118


def measure_apart(
    job: str, ours: Path, peer: Path, *, wanted: float, between: Job = lambda: None
) -> tuple[str, str, str, str]:
    """Each side in fresh processes, in turns: in one, each would find the other's warm memory.

    glibc's moving threshold would give some of the processes, by luck, memory of their own that is warm already.
    """
    fixed = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
    times = []
    for number in range(ROUNDS):
        pair = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            between()
            command = [sys.executable, "-m", "tests.benchmarks.store", job, str((ours, peer)[which])]
            pair[which] = float(subprocess.run(command, check=True, capture_output=True, text=True, env=fixed).stdout)
        times.append((pair[0], pair[1]))
    return summary(times, wanted)


def writing(path: Path) -> float:
    """Seconds to write the file that a process was started for."""
    before, after, parameters = make_weights()
    if path.suffix == ".h5":
        return timed(lambda: write_ours(path, (before, after, parameters)))
    deltas = differences(before, after)
    return timed(lambda: write_peer(path, deltas))


def reading(path: Path) -> float:
    """Seconds to read one layer of a file that stays open: the median of many."""
    if path.suffix == ".h5":
        with Run(path) as run:
            return statistics.median(timed(lambda: read(run)) for _ in range(5 * ROUNDS))
    with safe_open(path, framework="pt") as tensors:
        return statistics.median(timed(lambda: load(tensors)) for _ in range(5 * ROUNDS))


def study_row(folder: Path) -> tuple[str, ...]:
    """Opening a study of 36 runs."""
    study = make_study(folder / "study")
    seconds = statistics.median(timed(lambda: Study(study).close()) for _ in range(ROUNDS))
    return (f"open_study of {STUDY}", f"{seconds * 1e3:.0f} ms", "", "", verdict(seconds <= 0.2, "200 ms"))


def import_row() -> tuple[str, ...]:
    """`import lensrl` in a fresh process, without the interpreter's own start."""

    def start(code: str) -> Job:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    bare = statistics.median(timed(start("")) for _ in range(ROUNDS))
    full = statistics.median(timed(start("import lensrl")) for _ in range(ROUNDS))
    return (
        "import lensrl, with the interpreter's start; peer: the start alone",
        f"{full * 1e3:.0f} ms", f"{bare * 1e3:.0f} ms", f"{bare / full:.2f}", verdict(full <= 0.15, "150 ms"),
    )  # fmt: skip


def measure(ours: Job, peer: Job, *, wanted: float | None, between: Job = lambda: None) -> tuple[str, str, str, str]:
    """Both in turns, the first round left out: it touches memory that the others find ready."""
    times: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        pair = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            between()
            pair[which] = timed((ours, peer)[which])
        times.append((pair[0], pair[1]))
    return summary(times[1:], wanted)


def summary(times: list[tuple[float, float]], wanted: float | None) -> tuple[str, str, str, str]:
    """Median seconds of both, the median ratio, and whether that is what is wanted."""
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    goal = "" if wanted is None else verdict(ratio >= wanted, f"≥ {wanted}")
    return f"{a * 1e3:.1f} ms", f"{b * 1e3:.1f} ms", f"{ratio:.2f}", goal


def timed(job: Job) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def verdict(fine: bool, goal: str) -> str:
    return f"{goal}: {'met' if fine else 'missed'}"


def make_weights() -> tuple[Weights, Weights, list[Parameter]]:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    before, after, parameters = {}, {}, []
    for layer in range(LAYERS):
        for matrix in "qkvo":
            name = f"model.layers.{layer}.{matrix}.weight"
            shift = layer * 4 + "qkvo".index(matrix)
            before[name] = np.roll(noise, shift) * np.float32(0.02)
            after[name] = before[name] + np.roll(noise, -shift) * np.float32(1e-5)
            parameters.append(
                Parameter(name, str(layer), f"{matrix}.weight", "attn", noise.size, frobenius(before[name]))
            )
    return before, after, parameters


def differences(before: Weights, after: Weights) -> Tensors:
    """The deltas as the peer wants them."""
    return {name: torch.from_numpy(after[name]) - torch.from_numpy(before[name]) for name in before}


def make_study(folder: Path) -> Path:
    """36 runs of a model with 34 layers of 11 parameters, as small as they may be: opening reads headers."""
    folder.mkdir()
    recipe = Recipe.model_validate({"model": "tiny:none", "task": {"name": "arithmetic"}})
    (folder / RECIPE_FILE).write_text(recipe.model_dump_json(), encoding="utf-8")
    n_layers = RUNS - 2
    parameters = [
        Parameter(f"model.layers.{layer}.{i}.weight", str(layer), f"{i}.weight", "mlp", NUMBERS, 8.0)
        for layer in range(n_layers)
        for i in range(11)
    ]
    before = {p.name: np.ones(NUMBERS, np.float32) for p in parameters}
    score = np.full((256, 4), 0.5, np.float32)
    scores = Scores(
        [str(i) for i in range(256)],
        ["math"] * 256,
        score,
        np.ones((256, 4), np.int32),
        score > 1,
        score[:, 0],
        completions=texts(256, 4),
    )
    for run in ("base", "full-rl", *(f"layer-{layer}" for layer in range(n_layers))):
        changed = {p.name for p in parameters if run == "full-rl" or run == f"layer-{p.part}"}
        after = {name: w * np.float32(1.5) if name in changed else w for name, w in before.items()}
        layers = [int(p.part) for p in parameters[::11] if p.name in changed]
        header = Header(
            study="bench", run=run, seed=0, layers=layers, status="completed", reason="", base="none",
            fingerprint="0", n_layers=n_layers, recipe=recipe.model_dump_json(), provenance={},
        )  # fmt: skip
        trained = (
            {}
            if run == "base"
            else {"after": after, "training": training(n_layers), "training_completions": training_texts()}
        )
        with new_file(run_path(folder, run, 0)) as partial:
            write_run(
                partial, header, parameters, before, **trained, scores=scores, probe=probe(),
                activations=activations(n_layers),
            )  # fmt: skip
    return folder


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print({"write": writing, "read": reading}[sys.argv[1]](Path(sys.argv[2])))
    else:
        main()

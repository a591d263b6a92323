"""Analyses at the size of Qwen3-0.6B, each beside a peer in the same run, in turns: `make bench`.

    python -m tests.benchmarks.analyses [FOLDER] [--layers 28] [--rounds 3]

FOLDER keeps the pair of models (`tests.benchmarks.shapes`). With fewer `--layers` the pair is smaller.

A ratio is the peer's processor time over ours: other processes on the machine change it less than the time on the wall.
The largest difference between the values of both stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modeldelta.core.weight_diff import analyze_delta
from rich.console import Console
from rich.table import Table
from scipy.linalg import subspace_angles
from scipy.special import stdtrit

from lensrl.compare.device import Torch
from lensrl.compare.patching.graft import graft_logprobs, holding
from lensrl.measures.similarity import cka_interval, procrustes_distance
from lensrl.measures.spectra import Matrix
from lensrl.measures.weights import delta_metrics, entry_metrics, spectral_metrics, spectrum_of_delta
from lensrl.models.base import load_base
from lensrl.models.references import reference_logprobs
from lensrl.tasks import Item
from tests.benchmarks.cka import two_models
from tests.benchmarks.shapes import LAYERS, Folders, make_pair
from tests.benchmarks.store import verdict

Row = tuple[str, str, str, str, str]
Job = Callable[[], Any]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["matrix", "torch", "layer", "deltas", "cka", "grafts"])
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("what", "ours", "peer", "ratio", "wanted", box=None, pad_edge=False, header_style="dim")
    names = ("numpy", "scipy", "torch", "transformers", "modeldelta")
    console.print(
        f"{os.cpu_count()} cores, {arguments.rounds} rounds in turns; {arguments.layers} layers; "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lensrl-bench-")))
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            "matrix": lambda: matrix_rows(arguments.rounds),
            "torch": lambda: torch_row(arguments.rounds),
            "layer": layer_rows,
            "cka": lambda: cka_rows(arguments.rounds),
            "grafts": lambda: graft_rows(make_pair("0.6B", folder, layers=arguments.layers), arguments.rounds),
            "deltas": lambda: delta_rows(make_pair("0.6B", folder, layers=arguments.layers)),
        }
        stack.callback(lambda: console.print(table))  # after an error, too: the rows so far took long
        for name, rows in parts.items():
            if arguments.only in (None, name):
                for row in rows():
                    table.add_row(*row)


def in_turns(what: str, ours: Job, peer: Job, rounds: int, wanted: float | None, far: Callable[[Any, Any], str]) -> Row:
    """Processor seconds of both, the median ratio over rounds, and how far apart the values are."""
    times, values = [], [None, None]
    for number in range(rounds):
        spent = [0.0, 0.0]
        for which in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            values[which] = (ours, peer)[which]()
            spent[which] = time.process_time() - start
        times.append(spent)
    one, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    goal = "" if wanted is None else verdict(ratio >= wanted, f"≥ {wanted:g}")
    return f"{what}; {far(*values)}", f"{one:.2f} s", f"{other:.2f} s", f"{ratio:.1f}", goal


def matrix_rows(rounds: int) -> Iterator[Row]:
    """All measures of one matrix, beside three full SVDs; and those that modeldelta has, too, beside modeldelta."""
    rng = np.random.default_rng(0)
    for rows, columns in ((3072, 1024), (2048, 2048)):
        before = 0.02 * rng.standard_normal((rows, columns), np.float32)
        after = before + np.float32(1e-4) * rng.standard_normal((rows, columns), np.float32)

        def far(ours: Any, peer: np.ndarray) -> str:
            found = np.array([ours.spectral, ours.stable_rank, ours.effective_rank, ours.spectral_shift, *ours[9:11]])
            return f"largest relative difference {np.max(np.abs(found / peer - 1)):.0e}"

        yield in_turns(
            f"all measures of a matrix of {rows:,} x {columns:,}; peer: numpy.linalg.svd",
            lambda before=before, after=after: delta_metrics(before, after),
            lambda before=before, after=after: three_svds(before.astype(float), after.astype(float)),
            rounds, 8, far,
        )  # fmt: skip
    for rows, columns in ((3072, 1024), (1024, 1024)):
        before = 0.02 * rng.standard_normal((rows, columns), np.float32)
        after = before + np.float32(1e-4) * rng.standard_normal((rows, columns), np.float32)
        yield in_turns(
            f"size and spectrum of the change of {rows:,} x {columns:,}; peer: modeldelta",
            lambda pair=(before, after): (entry_metrics(lambda: [pair]), spectrum_of_delta(Matrix(pair[1], pair[0]))),
            # modeldelta subtracts in place
            lambda before=before, after=after: analyze_delta(torch.from_numpy(before), torch.from_numpy(after.copy())),
            rounds, 3,
            lambda ours, peer: f"effective ranks differ by {abs(ours[1][2] / peer['effective_rank'] - 1):.0e}",
        )  # fmt: skip


def torch_row(rounds: int) -> Iterator[Row]:
    """The measures of the spectrum of one matrix through torch on the CPU, one thread, beside NumPy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    before = 0.02 * rng.standard_normal((3072, 1024), np.float32)
    after = before + np.float32(1e-4) * rng.standard_normal((3072, 1024), np.float32)

    def far(ours: Any, peer: Any) -> str:
        return f"largest relative difference {np.max(np.abs(np.array(ours[:6]) / np.array(peer[:6]) - 1)):.0e}"

    yield in_turns(
        "spectra of 3,072 x 1,024 through torch on the CPU; peer: NumPy",
        lambda: spectral_metrics(before, after, Torch("cpu")), lambda: spectral_metrics(before, after),
        rounds, None, far,
    )  # fmt: skip
    torch.set_num_threads(threads)


def layer_rows() -> Iterator[Row]:
    """All measures of the matrices of a layer of Qwen3-1.7B's shape, beside three full SVDs of each; one round."""
    rng = np.random.default_rng(0)
    shapes = [(2048, 2048), (1024, 2048), (1024, 2048), (2048, 2048), (6144, 2048), (6144, 2048), (2048, 6144)]
    before = [0.02 * rng.standard_normal(shape, np.float32) for shape in shapes]
    after = [w + np.float32(1e-4) * rng.standard_normal(w.shape, np.float32) for w in before]
    pairs = [*zip(before, after, strict=True)]

    def far(ours: Any, peer: Any) -> str:
        found = np.array([[m.spectral, m.stable_rank, m.effective_rank, m.spectral_shift, *m[9:11]] for m in ours])
        return f"largest relative difference {np.max(np.abs(found / np.array(peer) - 1)):.0e}"

    yield in_turns(
        "all measures of the 7 matrices of a layer, 1.7B shape; peer: numpy.linalg.svd",
        lambda: [delta_metrics(w, changed) for w, changed in pairs],
        lambda: [three_svds(w.astype(float), changed.astype(float)) for w, changed in pairs],
        1, 8, far,
    )  # fmt: skip


def three_svds(before: np.ndarray, after: np.ndarray, k: int = 16) -> np.ndarray:
    """The measures of the spectrum from three full SVDs in float64."""
    (u, s, v), (u2, s2, v2) = (np.linalg.svd(matrix, full_matrices=False) for matrix in (before, after))
    d = np.linalg.svd(after - before, compute_uv=False)
    p = d / d.sum()
    angles = subspace_angles(u[:, :k], u2[:, :k]).max(), subspace_angles(v[:k].T, v2[:k].T).max()
    shift = np.linalg.norm(s2 - s) / np.linalg.norm(s)
    return np.array([
        d[0], (d**2).sum() / d[0] ** 2, math.exp(-(p * np.log(p)).sum()), shift, *map(math.degrees, angles)
    ])  # fmt: skip


def cka_rows(rounds: int) -> Iterator[Row]:
    """CKA with its interval, and Procrustes, of a layer: beside sums in feature space that are deleted one by one."""
    for tokens, features, sequences, wanted in (
        (80, 1024, 8, 50),
        (80, 2048, 8, 50),
        (4000, 1024, 32, 5),
        (4000, 2048, 32, 5),
    ):
        (x,), (y,) = two_models(1, tokens, features)
        sequence = np.arange(tokens) * sequences // tokens

        def ours(x: np.ndarray = x, y: np.ndarray = y, sequence: np.ndarray = sequence) -> np.ndarray:
            return np.array([*cka_interval(x, y, sequence, pairs="token"), procrustes_distance(x, y)])

        yield in_turns(
            f"CKA by token, interval, Procrustes: {tokens:,} tokens x {features:,}; peer: feature space",
            ours, lambda x=x, y=y, sequence=sequence: in_feature_space(x, y, sequence),
            rounds, wanted, lambda a, b: f"largest difference {np.max(np.abs(a - b)):.0e}",
        )  # fmt: skip


def in_feature_space(x: np.ndarray, y: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    """The same from X'Y, X'X and Y'Y of all tokens and of each sequence (Song et al. 2012, eq. 5)."""
    x, y = (z.astype(float) - z.astype(float).mean(0) for z in (x, y))

    def sums(a: np.ndarray, b: np.ndarray) -> list[Any]:
        k, l = (np.einsum("tp,tp->t", z, z) for z in (a, b))  # noqa: E741
        return [len(a), a.T @ b, a.sum(0), b.sum(0), l @ a, k @ b, k.sum(), l.sum(), k @ l]

    def hsic(parts: list[Any]) -> float:
        n, cross, a, b, al, bk, k, l, kl = parts  # noqa: E741
        ends = (a @ a - k) * (b @ b - l) / ((n - 1) * (n - 2))
        fork = 2 * (a @ cross @ b - a @ al - b @ bk + kl) / (n - 2)
        return float((np.vdot(cross, cross) - kl + ends - fork) / (n * (n - 3)))

    def cka(xy: list[Any], xx: list[Any], yy: list[Any]) -> float:
        return hsic(xy) / math.sqrt(hsic(xx) * hsic(yy))

    whole = [sums(x, y), sums(x, x), sums(y, y)]
    left_out: list[float] = []
    for name in np.unique(sequence):
        a, b = x[sequence == name], y[sequence == name]
        parts = (sums(a, b), sums(a, a), sums(b, b))
        left_out.append(cka(*([p - q for p, q in zip(*pair, strict=True)] for pair in zip(whole, parts, strict=True))))
    c, value = len(left_out), cka(*whole)
    reach = float(stdtrit(c - 1, 0.975)) * math.sqrt(
        (c - 1) / c * np.square(np.array(left_out) - np.mean(left_out)).sum()
    )
    nuclear = np.linalg.svd(x.T @ y, compute_uv=False).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    return np.array([value, value - reach, value + reach, math.sqrt(max(0.0, 2 - 2 * nuclear))])


def graft_rows(pair: Folders, rounds: int) -> Iterator[Row]:
    """Log p of a graft of every layer alone, beside a whole forward pass for each."""
    base, trained = load_base(str(pair.base)), load_base(str(pair.trained)).weights
    blocks, model = base.blocks, base.model
    grafts = [
        {name: trained[name] for name in trained if blocks.layer(name) == layer} for layer in range(blocks.n_layers)
    ]
    items = [
        Item(id=f"{n}", prompt=f"{n} plus {n} is " * 3, reference=str(2 * n), benchmark="b") for n in range(10, 14)
    ]

    def whole() -> list[np.ndarray]:
        found = []
        for weights in grafts:
            with holding(model, weights):
                found.append(reference_logprobs(model, base.prompts, items, batch=4))
        return found

    with torch.no_grad():
        yield in_turns(
            f"log p of the grafts of {blocks.n_layers} layers; peer: a whole pass for each",
            lambda: graft_logprobs(model, base, items, grafts, batch=4), whole,
            rounds, 1.8, lambda a, b: f"largest difference {np.max(np.abs(np.array(a) - np.array(b))):.0e}",
        )  # fmt: skip


def delta_rows(pair: Folders) -> Iterator[Row]:
    """`lensrl deltas` of a whole pair, beside modeldelta: both in processes of their own, with their peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        mine, theirs = Path(folder, "ours.json"), Path(folder, "peer.json")
        names = [str(pair.base), str(pair.trained)]
        ours = spent(["-m", "lensrl_cli.main", "deltas", *names, "--by", "parameter", "--json"], mine)
        peer = spent(["-m", "modeldelta", *names, "-o", str(theirs)])
        apart = differences(json.loads(mine.read_text()), json.loads(theirs.read_text())["modules"])
    what = f"deltas of a pair ({pair.base.parent.name}), all our measures; peer: modeldelta; {apart}"
    yield what, f"{ours[0]:.0f} s", f"{peer[0]:.0f} s", f"{peer[0] / ours[0]:.1f}", verdict(peer[0] >= ours[0], "≥ 1")
    fine = ours[1] <= peer[1] / 2
    memory = (f"{ours[1] / 1e6:.2f} GB", f"{peer[1] / 1e6:.2f} GB")
    yield "the same: peak memory", *memory, f"{peer[1] / ours[1]:.2f}", verdict(fine, "≥ 2")


def differences(ours: list[dict[str, Any]], peer: list[dict[str, Any]]) -> str:
    """Say how far apart the measures that both have are, at most: relative differences over all parameters."""
    rows = {row["parameter"]: row for row in ours}
    found: dict[str, float] = {}
    assert all(other["frob_norm"] == 0 for other in peer if other["name"] not in rows), "a change that we overlook"
    for other in (one for one in peer if one["name"] in rows):
        row = rows[other["name"]]
        pairs = {"norm": (row["frobenius"], other["frob_norm"])}
        if other["has_svd"]:
            pairs["effective rank"] = row["effective_rank"], other["effective_rank"]
            pairs["largest singular value"] = row["spectral"], other["top_singular_values"][0]
        for name, (a, b) in pairs.items():
            found[name] = max(found.get(name, 0.0), abs(b / a - 1))
    return "largest relative difference: " + ", ".join(f"{name} {value:.0e}" for name, value in found.items())


def spent(arguments: list[str], out: str | Path = os.devnull) -> tuple[float, float]:
    """Processor seconds and peak memory, in kB, of a Python process with one thread of linear algebra a job.

    Several threads wait for each other in loops, which would count as work.
    """
    code = (
        "import resource, subprocess, sys; out = open(sys.argv[1], 'w'); "
        "subprocess.run([sys.executable, *sys.argv[2:]], check=True, stdout=out, stderr=subprocess.DEVNULL); "
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime, u.ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(out), *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )  # fmt: skip
    seconds, kilobytes = done.stdout.split()
    return float(seconds), float(kilobytes)


if __name__ == "__main__":
    main()

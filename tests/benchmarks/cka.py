"""CKA in feature space beside CKA in token space, on the same arrays in the same run: `make bench`.

8 layers of 8,192 tokens x 512 features. torch-cka builds 8,192 x 8,192 matrices in float32 and multiplies them, three
times a layer: minutes on a CPU, which is why every layer is one round. The second peer is the same estimator without
that multiplication, tr(KL) = sum of K * L: what token space costs at its best.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, TensorDataset
from torch_cka import CKA

from lensrl.measures.similarity import linear_cka
from tests.benchmarks.store import summary, timed, verdict

LAYERS, TOKENS, FEATURES = 8, 8192, 512
FASTER, NEAR = 20, 1e-5  # wanted

Representations = Sequence[np.ndarray]
Measure = Callable[[np.ndarray, np.ndarray], float]


def main() -> None:
    """Print the table."""
    xs, ys = two_models(LAYERS, TOKENS, FEATURES)
    peers: dict[str, Measure] = {
        f"torch-cka {version('torch-cka')}, float32": lambda x, y: float(torch_cka([x], [y])[0, 0]),
        "token space, tr(KL) as a sum, float32": token_space_cka,
    }
    table = Table("what", "ours", "peer", "ratio", "wanted", box=None, pad_edge=False, header_style="dim")
    what = f"CKA of a layer, {TOKENS:,} tokens x {FEATURES}"
    for number, (name, peer) in enumerate(peers.items()):
        times, differences = in_turns(peer, xs, ys)
        table.add_row(f"{what}; peer: {name}", *summary(times, FASTER if number == 0 else None))
        far = max(differences)
        table.add_row(
            f"largest difference over {LAYERS} layers", f"{far:.1e}", "", "", verdict(far <= NEAR, f"≤ {NEAR}")
        )
    console = Console(width=None if os.isatty(1) else 160)
    console.print(
        f"{os.cpu_count()} cores, torch {torch.__version__}, medians over {LAYERS} layers, each once, in turns"
    )
    console.print(table)


def in_turns(peer: Measure, xs: Representations, ys: Representations) -> tuple[list[tuple[float, float]], list[float]]:
    """Seconds of ours and the peer's for every layer, and how far apart their values are."""
    for measure in (linear_cka, peer):  # imports and threads, before any clock
        measure(xs[0][:64], ys[0][:64])
    times, differences = [], []
    for number, pair in enumerate(zip(xs, ys, strict=True)):
        seconds, values = [0.0, 0.0], [math.nan, math.nan]
        for which in (0, 1) if number % 2 else (1, 0):
            seconds[which], values[which] = timed_value((linear_cka, peer)[which], *pair)
        times.append((seconds[0], seconds[1]))
        differences.append(abs(values[0] - values[1]))
    return times, differences


def timed_value(measure: Measure, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    values = []
    return timed(lambda: values.append(measure(x, y))), values[0]


def two_models(layers: int, tokens: int, features: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Residual streams of a model before and after training, float32: they drift apart with depth.

    Features differ in size, as those of a language model do. Their means are 0: CKA does not depend on them, but token
    space in float32 does, and `tests/measures/test_agreement.py` shows by how much.
    """
    rng = np.random.default_rng(0)

    def block() -> np.ndarray:
        return rng.normal(size=(tokens, features)) * np.arange(1, features + 1) ** -0.5

    xs, ys, x, apart = [], [], block(), np.zeros((tokens, features))
    for _ in range(layers):
        x, apart = x + block() / 2, apart + block() / 4
        xs.append(x.astype(np.float32))
        ys.append((x + apart).astype(np.float32))
    return xs, ys


def torch_cka(xs: Representations, ys: Representations, *, batch: int | None = None) -> np.ndarray:
    """torch-cka's table of every layer with every other; `batch` tokens at a time, or all at once."""

    class Layers(torch.nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(count))

        def forward(self, x: torch.Tensor) -> None:
            for layer, part in zip(self.layers, x.unbind(1), strict=True):
                layer(part)

    def loader(layers: Representations) -> DataLoader:
        stacked = torch.from_numpy(np.stack(layers, 1))  # token layer feature
        return DataLoader(TensorDataset(stacked.unflatten(0, (-1, batch or len(stacked)))), batch_size=None)

    names = [[f"layers.{i}" for i in range(len(layers))] for layers in (xs, ys)]
    cka = CKA(Layers(len(xs)), Layers(len(ys)), "x", "y", model1_layers=names[0], model2_layers=names[1])
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        cka.compare(loader(xs), loader(ys))
    return cka.export()["CKA"].numpy()


def token_space_cka(x: np.ndarray, y: np.ndarray) -> float:
    """What torch-cka computes, without the product of two token by token matrices."""

    def gram(features: np.ndarray) -> torch.Tensor:
        features_ = torch.from_numpy(features)
        return (features_ @ features_.T).fill_diagonal_(0)

    def hsic(k: torch.Tensor, l: torch.Tensor) -> float:  # noqa: E741
        n = len(k)
        rows_k, rows_l = k.sum(1), l.sum(1)
        ends = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2)) - 2 * rows_k @ rows_l / (n - 2)
        return float(((k * l).sum() + ends) / (n * (n - 3)))

    k, l = gram(x), gram(y)  # noqa: E741
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


if __name__ == "__main__":
    main()

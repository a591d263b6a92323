"""Compare how two runs represent the same tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int

from lensrl.compare.device import Device, algebra_on
from lensrl.compare.patching import OnProgress
from lensrl.compare.progress import with_bar
from lensrl.compare.side_by_side import side_by_side
from lensrl.errors import LensrlError, did_you_mean
from lensrl.measures.algebra import LAPACK, Algebra
from lensrl.measures.hsic import LEAST, Pairs
from lensrl.measures.similarity import cka_interval, cka_map, mean_cosine, procrustes_distance, relative_l2
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.file.lazy import LazyArray
from lensrl.store.old_names import renamed
from lensrl.store.study import Study

SITE = "block_out"
REPRESENTATION_COLUMNS = [
    "layer", "cka", "low", "high", "one_minus_cka", "procrustes", "relative_l2", "cosine", "cka_with_first"
]  # fmt: skip


@renamed(one="from_run", other="into_run")
@with_bar("activations")
def compare_activations(
    study: Study,
    from_run: str = BASE,
    into_run: str = FULL,
    *,
    site: str = SITE,
    seed: int | None = None,
    first_token: bool = False,
    pairs: Pairs = "sequence",
    device: Device | None = None,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Compare the activations of two runs on the probe set: one row per layer of the model.

    Columns (`REPRESENTATION_COLUMNS`):

    - layer;
    - cka, low, high: debiased linear CKA with its 95 % interval over sequences; one_minus_cka: 1 - CKA;
    - procrustes: the orthogonal Procrustes distance;
    - relative_l2, cosine: relative L2 distance and mean cosine of the same token in both runs;
    - cka_with_first: CKA with the first token of every sequence.

    CKA ignores rotations of the feature space, and directions of large variance dominate it. relative_l2 and cosine
    compare coordinate by coordinate.

    `site` is `block_out`, `attn_out` or `mlp_out`. The first token of every sequence is left out: its activations often
    have a much larger norm than all other tokens, and CKA then shows little else. `first_token=True` keeps it in all
    columns. `pairs="sequence"` compares tokens of different sequences, which are independent, and `"token"` compares
    all tokens, as other tools do (`lensrl.measures.similarity`). Intervals by sequence need five sequences, and are NaN
    for four. `seed=None`: see `lensrl.store.runs.Runs`. `device="cuda"` or `"cpu"` computes CKA with torch there, in
    float64; None with NumPy (`lensrl.compare.device`).

    Raises LensrlError for a run without activations, for two runs with different probe sets, for too few sequences, and
    for `cuda` without a GPU.
    """
    algebra = algebra_on(device)
    runs = from_run, into_run
    pair = _find_pair(study, *runs, seed=seed, site=site, first_token=first_token, pairs=pairs)
    whole = pair if first_token else _find_pair(study, *runs, seed=seed, site=site, first_token=True, pairs=pairs)
    kept = np.isin(whole.tokens, pair.tokens)

    return representation_table(
        map(whole.at, range(study.n_layers)), whole.sequence, kept, pairs=pairs, algebra=algebra,
        on_done=None if on_progress is None else lambda done: on_progress("layers", done, study.n_layers),
    )  # fmt: skip


def representation_table(
    layers: Iterable[tuple[np.ndarray, np.ndarray]],
    sequence: Int[np.ndarray, " token"],
    kept: Bool[np.ndarray, " token"],
    *,
    pairs: Pairs,
    algebra: Algebra = LAPACK,
    on_done: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Compare two models layer by layer, one layer on each core: the table of `compare_activations`.

    `layers` holds the activations of both models after each layer, each (token, feature), with first tokens. `sequence`
    names the sequence of each token. `kept` marks the tokens that are compared in all columns but `cka_with_first`.
    `on_done` is told how many layers are measured.
    """

    def measure(layer: tuple[np.ndarray, np.ndarray]) -> tuple[float, ...]:
        x, y = layer if kept.all() else (layer[0][kept], layer[1][kept])
        cka = cka_interval(x, y, sequence[kept], pairs=pairs, algebra=algebra)
        with_first = cka.value if kept.all() else _cka(*layer, sequence, pairs, algebra)
        distances = procrustes_distance(x, y), relative_l2(x, y), mean_cosine(x, y)
        return (*cka, 1 - cka.value, *distances, with_first)

    rows = enumerate(side_by_side(measure, layers, on_done))
    return pd.DataFrame([(layer, *row) for layer, row in rows], columns=REPRESENTATION_COLUMNS)


@renamed(one="from_run", other="into_run")
def compare_layers(
    study: Study,
    from_run: str = BASE,
    into_run: str = FULL,
    *,
    site: str = SITE,
    seed: int | None = None,
    first_token: bool = False,
    pairs: Pairs = "sequence",
    device: Device | None = None,
) -> Float64[np.ndarray, "layer other_layer"]:
    """Return the debiased linear CKA of each layer of run `from_run` (rows) with each layer of `into_run` (columns).

    `site`, `seed`, `first_token`, `pairs` and `device` are those of `compare_activations`. Raises as it does.
    """
    algebra = algebra_on(device)
    pair = _find_pair(study, from_run, into_run, seed=seed, site=site, first_token=first_token, pairs=pairs)
    layers = range(study.n_layers)
    xs, ys = map(pair.one_at, layers), [*map(pair.other_at, layers)]
    return cka_map(xs, ys, pair.sequence, pairs=pairs, algebra=algebra)


def distances_to(
    study: Study, target: str, runs: Sequence[str], *, seed: int, site: str = SITE, first_token: bool = False
) -> dict[str, Float64[np.ndarray, " layer"]]:
    """Return 1 - CKA with the target run at every layer, by the name of the run, as `compare_activations` has it.

    A run without activations for this seed is left out. All runs are left out where the target has none. The distances
    are NaN where the probe set has too few sequences.
    """
    if not any(run.has_activations for run in study.runs.of(target, seed).values()):
        return {}
    probed = {
        name: _find_pair(study, name, target, seed=seed, site=site, first_token=first_token, pairs="token")
        for name in runs if any(run.has_activations for run in study.runs.of(name, seed).values())
    }  # fmt: skip
    if not probed:
        return {}
    first = next(iter(probed.values()))  # all have the tokens of the target
    if len(np.unique(first.sequence)) < LEAST:
        return {name: np.full(study.n_layers, np.nan) for name in probed}
    layers = (
        ([pair.one_at(layer) for pair in probed.values()], first.other_at(layer)) for layer in range(study.n_layers)
    )
    # The target's part of CKA is computed once for all runs.
    found = side_by_side(lambda layer: 1 - cka_map(layer[0], [layer[1]], first.sequence)[:, 0], layers)
    return dict(zip(probed, np.transpose(found), strict=True))


def check_sequences(sequence: Int[np.ndarray, " token"], pairs: Pairs, what: str, advice: str) -> None:
    """Raise LensrlError for an unknown `pairs`, and where tokens come from too few sequences to compare."""
    if pairs not in get_args(Pairs):
        raise LensrlError(f"pairs={pairs!r}: there is no such{did_you_mean(pairs, get_args(Pairs))}")
    count, least = len(np.unique(sequence)), LEAST if pairs == "sequence" else 2
    if count < least:
        instead = "compare all tokens instead (--pairs token), or " if pairs == "sequence" else ""
        raise LensrlError(f"{what} has {count} sequences to compare, and {least} are needed; {instead}{advice}")


def _cka(x: np.ndarray, y: np.ndarray, sequence: Int[np.ndarray, " token"], pairs: Pairs, algebra: Algebra) -> float:
    return float(cka_map([x], [y], sequence, pairs=pairs, algebra=algebra)[0, 0])


class _Pair(NamedTuple):
    """Activations of two runs that were probed with the same tokens, and the tokens to compare."""

    one: LazyArray
    other: LazyArray
    tokens: Int[np.ndarray, " token"]  # places on the token axis of the activations
    sequence: Int[np.ndarray, " token"]  # the sequence of each of these tokens

    def at(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """The activations of both runs after one layer, each (token, feature)."""
        return self.one_at(layer), self.other_at(layer)

    def one_at(self, layer: int) -> np.ndarray:
        return self.one[layer][self.tokens]

    def other_at(self, layer: int) -> np.ndarray:
        return self.other[layer][self.tokens]


def _find_pair(
    study: Study, one: str, other: str, *, seed: int | None, site: str, first_token: bool, pairs: Pairs
) -> _Pair:
    """Find two runs and the tokens to compare. Raises LensrlError when they cannot be compared."""
    seed = study.runs.shared_seed(one, other, scored=True) if seed is None else seed
    a, b = (study.runs.find(name, seed) for name in (one, other))
    sites = [run.activations for run in (a, b)]
    for run, kept in zip((a, b), sites, strict=True):
        if site not in kept:
            raise LensrlError(f"{run.path} has no activations at {site!r}{did_you_mean(site, kept)}")
    probe = a.probe()
    if not probe.equals(b.probe()):
        raise LensrlError(f"{a.path} and {b.path} were probed with different tokens: they cannot be compared")
    tokens = np.flatnonzero(probe["position"].to_numpy() >= (0 if first_token else 1))
    sequence = probe["prompt"].to_numpy()[tokens]
    check_sequences(sequence, pairs, str(a.path), "make a study with more store.probe_items")
    return _Pair(sites[0][site], sites[1][site], tokens, sequence)

"""Compare how two runs represent the same tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from lensrl.errors import LensrlError, did_you_mean
from lensrl.measures.similarity import cka_interval, cka_map, linear_cka, mean_cosine, procrustes_distance, relative_l2
from lensrl.recipe.runs import BASE, FULL
from lensrl.store.run import Run
from lensrl.store.study import Study

SITE = "block_out"
REPRESENTATION_COLUMNS = ["layer", "cka", "low", "high", "one_minus_cka", "procrustes", "relative_l2", "cosine"]


def compare_activations(
    study: Study,
    one: str = BASE,
    other: str = FULL,
    *,
    site: str = SITE,
    seed: int | None = None,
    first_token: bool = True,
) -> pd.DataFrame:
    """Compare the activations of two runs on the probe set: one row per layer of the model.

    Columns (`REPRESENTATION_COLUMNS`):

    - layer;
    - cka, low, high: debiased linear CKA with its 95 % interval over sequences; one_minus_cka: 1 - CKA;
    - procrustes: the orthogonal Procrustes distance;
    - relative_l2, cosine: relative L2 distance and mean cosine of the same token in both runs.

    CKA ignores rotations of the feature space, and directions of large variance dominate it. relative_l2 and cosine
    compare coordinate by coordinate.

    `site` is `block_out`, `attn_out` or `mlp_out`. `first_token=False` leaves out the first token of every sequence:
    its activations often have a much larger norm than all other tokens. `seed=None`: see `lensrl.store.runs.Runs`.

    Raises LensrlError for a run without activations, and for two runs with different probe sets.
    """
    pair = _find_pair(study, one, other, seed=seed, site=site, first_token=first_token)
    return representation_table(map(pair.at, range(study.n_layers)), pair.sequence)


def representation_table(
    layers: Iterable[tuple[np.ndarray, np.ndarray]], sequence: Int[np.ndarray, " token"]
) -> pd.DataFrame:
    """Compare two models layer by layer: the table of `compare_activations`.

    `layers` holds the activations of both models after each layer, each (token, feature). `sequence` names the sequence
    of each token.
    """
    rows = []
    for layer, (x, y) in enumerate(layers):
        cka = cka_interval(x, y, sequence)
        rows.append((layer, *cka, 1 - cka.value, procrustes_distance(x, y), relative_l2(x, y), mean_cosine(x, y)))
    return pd.DataFrame(rows, columns=REPRESENTATION_COLUMNS)


def compare_layers(
    study: Study, one: str = BASE, other: str = FULL, *, site: str = SITE, seed: int | None = None
) -> Float64[np.ndarray, "layer other_layer"]:
    """Return the debiased linear CKA of every layer of run `one` (rows) with every layer of run `other` (columns).

    `seed=None`: see `lensrl.store.runs.Runs`. Raises as `compare_activations`.
    """
    pair = _find_pair(study, one, other, seed=seed, site=site)
    layers = [pair.at(layer) for layer in range(study.n_layers)]
    return cka_map([x for x, _ in layers], [y for _, y in layers])


def distances_to(
    study: Study, target: str, runs: Sequence[str], *, seed: int, site: str = SITE
) -> dict[str, Float64[np.ndarray, " layer"]]:
    """Return 1 - CKA (debiased, linear) with the target run at every layer, by the name of the run.

    A run without activations for this seed is left out. All runs are left out where the target has none.
    """
    found = {}
    for name in runs:
        both = [run for other in (name, target) for run in study.runs.of(other, seed).values()]
        if len(both) < 2 or not all(run.has_activations for run in both):
            continue
        pair = _find_pair(study, name, target, seed=seed, site=site)
        found[name] = np.array([1 - linear_cka(*pair.at(layer)) for layer in range(study.n_layers)])
    return found


class _Pair(NamedTuple):
    """Two runs that were probed with the same tokens, and the tokens to compare."""

    one: Run
    other: Run
    site: str
    tokens: Int[np.ndarray, " token"]  # places on the token axis of the activations
    sequence: Int[np.ndarray, " token"]  # the sequence of each of these tokens

    def at(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """The activations of both runs after one layer, each (token, feature)."""
        x, y = (run.activations[self.site][layer][self.tokens] for run in (self.one, self.other))
        return x, y


def _find_pair(study: Study, one: str, other: str, *, seed: int | None, site: str, first_token: bool = True) -> _Pair:
    """Find two runs and the tokens to compare. Raises LensrlError when they cannot be compared."""
    seed = study.runs.shared_seed(one, other, scored=True) if seed is None else seed
    a, b = (study.runs.find(name, seed) for name in (one, other))
    for run in (a, b):
        if site not in run.activations:
            raise LensrlError(f"{run.path} has no activations at {site!r}{did_you_mean(site, run.activations)}")
    probe = a.probe
    if not probe.equals(b.probe):
        raise LensrlError(f"{a.path} and {b.path} were probed with different tokens: they cannot be compared")
    tokens = np.flatnonzero(probe["position"].to_numpy() >= (0 if first_token else 1))
    return _Pair(a, b, site, tokens, probe["prompt"].to_numpy()[tokens])

"""How alike two runs represent the same tokens, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float64

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
    """How alike two runs represent the probe set at every layer, with the columns of `REPRESENTATION_COLUMNS`.

    Debiased linear CKA with its 95 % interval over sequences, 1 - CKA, orthogonal Procrustes distance, and relative L2
    and mean cosine of the same tokens. `first_token=False` leaves out the first token of every sequence, whose
    activations are often of another size than all others. Raises LensrlError for runs without activations of the same
    tokens.
    """
    a, b, sequence, tokens = _pair(study, one, other, seed, site, first_token=first_token)
    rows = []
    for layer in range(study.n_layers):
        x, y = (run.activations[site][layer][tokens] for run in (a, b))
        cka = cka_interval(x, y, sequence)
        rows.append(
            (layer, *cka, 1 - cka.value, procrustes_distance(x, y), relative_l2(x, y), mean_cosine(x, y))
        )  # fmt: skip
    return pd.DataFrame(rows, columns=REPRESENTATION_COLUMNS)


def compare_layers(
    study: Study, one: str = BASE, other: str = FULL, *, site: str = SITE, seed: int | None = None
) -> Float64[np.ndarray, "layer other_layer"]:
    """Debiased linear CKA of every layer of one run with every layer of the other."""
    a, b, _, tokens = _pair(study, one, other, seed, site, first_token=True)
    return cka_map(*([run.activations[site][layer][tokens] for layer in range(study.n_layers)] for run in (a, b)))


def distances_to(
    study: Study, target: str, runs: Sequence[str], *, site: str = SITE, seed: int | None = None
) -> dict[str, Float64[np.ndarray, " layer"]]:
    """1 - CKA (debiased, linear) with the target run at every layer, for those of `runs` that have activations."""
    found = {}
    seed = study.runs.shared_seed(target) if seed is None else seed
    for name in runs:
        both = [run for other in (name, target) for run in study.runs.of(other, seed).values()]
        if len(both) < 2 or not all(run.has_activations for run in both):
            continue
        a, b, _, tokens = _pair(study, name, target, seed, site, first_token=True)
        pairs = ([run.activations[site][layer][tokens] for run in (a, b)] for layer in range(study.n_layers))
        found[name] = np.array([1 - linear_cka(x, y) for x, y in pairs])
    return found


def _pair(
    study: Study, one: str, other: str, seed: int | None, site: str, *, first_token: bool
) -> tuple[Run, Run, np.ndarray, np.ndarray]:
    """Both runs, the sequence of each token that is compared, and which tokens those are."""
    seed = study.runs.shared_seed(one, other) if seed is None else seed
    a, b = (study.runs.find(name, seed) for name in (one, other))
    for run in (a, b):
        if site not in run.activations:
            raise LensrlError(f"{run.path} has no activations at {site!r}{did_you_mean(site, run.activations)}")
    probe = a.probe
    if not probe.equals(b.probe):
        raise LensrlError(f"{a.path} and {b.path} were probed with other tokens: they cannot be compared")
    tokens = np.flatnonzero(probe["position"].to_numpy() >= (0 if first_token else 1))
    return a, b, probe["prompt"].to_numpy()[tokens], tokens

"""Two runs of a study, layer by layer: their representations of the probe set, and what training did to the weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64

from lensrl.errors import LensrlError, did_you_mean
from lensrl.layers import BASE, FULL
from lensrl.measures.similarity import cka_interval, cka_map, mean_cosine, procrustes_distance, relative_l2
from lensrl.measures.weights import DeltaMetrics, delta_metrics
from lensrl.store.exact import add
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


def compare_weights(study: Study, run: str = FULL, *, seed: int | None = None) -> pd.DataFrame:
    """What training did to every parameter that changed: parameter, layer, component, and `DeltaMetrics`.

    Loads the base model. Raises LensrlError when it is not the one that the run was trained from.
    """
    from lensrl.models import load_base  # torch, only where weights are needed
    from lensrl.patching.graft import check_base

    trained = _run(study, run, seed)
    base = load_base(study.recipe.model)
    check_base(trained, base)
    places = trained.delta_norms().set_index("parameter")
    rows = []
    for part in trained.deltas:
        for name, change in trained.deltas.exact(part).values():
            before = base.weights[name].numpy()
            metrics = delta_metrics(before, add(before, change))
            rows.append((name, places.at[name, "layer"], places.at[name, "component"], *metrics))
    return pd.DataFrame(rows, columns=["parameter", "layer", "component", *DeltaMetrics._fields])


def _pair(
    study: Study, one: str, other: str, seed: int | None, site: str, *, first_token: bool
) -> tuple[Run, Run, np.ndarray, np.ndarray]:
    """Both runs, the sequence of each token that is compared, and which tokens those are."""
    a, b = (_run(study, name, seed) for name in (one, other))
    for run in (a, b):
        if site not in run.activations:
            raise LensrlError(f"{run.path} has no activations at {site!r}{did_you_mean(site, run.activations)}")
    probe = a.probe
    if not probe.equals(b.probe):
        raise LensrlError(f"{a.path} and {b.path} were probed with other tokens: they cannot be compared")
    tokens = np.flatnonzero(probe["position"].to_numpy() >= (0 if first_token else 1))
    return a, b, probe["prompt"].to_numpy()[tokens], tokens


def _run(study: Study, name: str, seed: int | None) -> Run:
    return study[name] if seed is None or name == BASE else study[name, seed]

"""Measurements: the numbers of a study, of a table or of a simulated study on which the claims are tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int
from scipy import stats

from lensrl.compare.predictors import SIZES, sizes_by_seed, without_grafts
from lensrl.judge.profiles import PairedGains
from lensrl.measures.agreement import Measured, measured
from lensrl.measures.correlation import seed_reliability
from lensrl.measures.gains import Gains
from lensrl.measures.halves import BestReach, best_reaches, contributions_on_halves
from lensrl.store.study import Study

NO_STUDY = "a table of contributions does not hold what this needs"

MOST = 0.8  # of full RL's gain: a layer above it carries the gain alone
BEFORE_RL = (
    "bypass_logprob", "bypass_score", "gradient_norm", "rl_gradient_norm", "parameters", "weight_norm",
)  # fmt: skip

Predictors = Mapping[str, Float[np.ndarray, " layer"]]  # by name


class PairedProfiles(NamedTuple):
    """The contributions of a study and of another study at their common relative depths."""

    depth: Float64[np.ndarray, " common"]
    own: Float64[np.ndarray, " common"]
    other: Float64[np.ndarray, " common"]


class Noise(NamedTuple):
    """The standard error of one layer's C_l relative to the other layers, and the reliability of the profile.

    The reliability is the share of the variance over layers that is not error, at the upper 90 % limit of the error.
    """

    error: float = 0.0
    reliability: float = 1.0


NO_NOISE = Noise()


@dataclass(frozen=True)
class Measurements:
    """The numbers on which the claims are tested. Any field below `gains` may be missing: None or an empty mapping.

    layers, n_layers: the layers with a contribution, and the number of layers of the model.
    gains: the gains of `layers` and, last, of full RL.
    best: the best layer, chosen on a third of items and seeds and measured on the rest.
    noise: the standard error of one layer's C_l relative to the others, and the reliability of the profile.
    sizes, of_sizes: how much the weights of each layer moved, and the reliability of each size.
    growth: how much 1 - CKA(base, full RL) grows at each layer.
    grafts: `sufficiency` and `necessity` of each layer.
    approach: how far each single-layer run approaches the representations of full RL.
    rivals: baselines of each layer that are known before RL.
    halves: the contributions of every seed on two halves of the items.
    beside: the profiles of other studies, by name.
    missing: field -> the reason why the field is missing.
    """

    layers: Int[np.ndarray, " layer"]
    n_layers: int
    gains: Gains
    best: BestReach | None = None
    noise: Noise = NO_NOISE
    sizes: Predictors = field(default_factory=dict)
    of_sizes: Mapping[str, float] = field(default_factory=dict)
    growth: Predictors = field(default_factory=dict)
    grafts: Predictors = field(default_factory=dict)
    approach: Predictors = field(default_factory=dict)
    rivals: Predictors = field(default_factory=dict)
    halves: Float64[np.ndarray, "half layer seed"] | None = None
    beside: Mapping[str, PairedProfiles] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def contribution(self) -> Float64[np.ndarray, " layer"]:
        """C_l of `layers`."""
        return self.gains.contributions

    def why_missing(self, name: str) -> str:
        """Return the reason why a field is missing. Returns "" for a field that is there."""
        value = getattr(self, name)
        absent = value is None or (isinstance(value, Mapping) and not value)
        return self.missing.get(name, "not measured") if absent else ""


def measure_table(
    gains: Gains,
    layers: Int[np.ndarray, " layer"],
    n_layers: int,
    beside: Mapping[str, PairedProfiles],
    noise: Noise = NO_NOISE,
) -> Measurements:
    """Measure a table of contributions: its profile, and its agreement with the studies beside it.

    `noise` is that of the table's own intervals; without them, the roughness of the profile stands for it.
    """
    unknown: dict[str, str] = dict.fromkeys(("sizes", "growth", "grafts", "approach", "halves"), NO_STUDY)
    return Measurements(layers, n_layers, gains, noise=noise, beside=beside, missing=unknown)


def measure_study(
    study: Study, paired: PairedGains, gains: Gains, table: pd.DataFrame, beside: Mapping[str, PairedProfiles]
) -> Measurements:
    """Measure a study on the layers and seeds of `paired`. `table` is `predictors(study)`."""
    rows = table.set_index("layer").loc[paired.layers]

    def known(*names: str) -> dict[str, Float64[np.ndarray, " layer"]]:
        return {name: rows[name].to_numpy(float) for name in names if name in rows}

    benchmark = np.array(paired.benchmark)
    grafts = known("sufficiency", "necessity")
    return Measurements(
        paired.layers,
        study.n_layers,
        gains,
        best=best_reaches(paired.gains, benchmark, MOST),
        noise=measure_noise(gains),
        sizes=known(*SIZES),
        of_sizes={name: seed_reliability(sizes) for name, sizes in sizes_by_seed(study, paired.layers).items()},
        growth=known("cka_growth"),
        grafts=grafts if len(grafts) == 2 else {},
        approach=known("approach"),
        rivals=known(*BEFORE_RL),
        halves=contributions_on_halves(paired.gains, benchmark),
        beside=beside,
        missing={
            "sizes": "no weight deltas of full RL and of the single-layer runs",
            "growth": "no activations of base and full RL",
            "grafts": without_grafts(study) if len(grafts) < 2 else "",
            "approach": "no activations of the single-layer runs",
        },
    )


def measure_noise(gains: Gains) -> Noise:
    """Return the error and the reliability of a profile from the errors of its gains."""
    n = len(gains.mean) - 1
    found = measured(gains, np.eye(n))
    upper = found.df / float(stats.chi2.ppf(0.1, found.df)) if np.isfinite(found.df) else 1.0
    worse = Measured(found.values, found.error * float(np.sqrt(upper)), found.df)
    return Noise(found.error / float(gains.mean[-1]), worse.reliability)

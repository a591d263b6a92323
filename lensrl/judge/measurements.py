"""Measurements: the numbers of a study, of a table or of a simulated study on which the claims are tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int

from lensrl.compare.predictors import SIZES, without_grafts
from lensrl.judge.profiles import PairedGains
from lensrl.measures.gains import Gains
from lensrl.measures.halves import contributions_on_halves
from lensrl.measures.shapes import DRAWS, FEWEST_LAYERS, ShapeTest, compare_shapes
from lensrl.store.study import Study

NO_STUDY = "a table of contributions does not say"

Predictors = Mapping[str, Float[np.ndarray, " layer"]]  # by name


class PairedProfiles(NamedTuple):
    """The contributions of a study and of another study at their common relative depths."""

    depth: Float64[np.ndarray, " common"]
    own: Float64[np.ndarray, " common"]
    other: Float64[np.ndarray, " common"]


@dataclass(frozen=True)
class Measurements:
    """The numbers on which the claims are tested. Any field below `gains` may be missing: None or an empty mapping.

    layers, n_layers: the layers with a contribution, and the number of layers of the model.
    gains: the gains of `layers` and, last, of full RL.
    shapes: the shapes fitted to the contributions.
    sizes: how much the weights of each layer moved.
    growth: how much 1 - CKA(base, full RL) grows at each layer.
    grafts: `sufficiency` and `necessity` of each layer.
    approach: how far each single-layer run approaches the representations of full RL.
    halves: the contributions of every seed on two halves of the items.
    beside: the profiles of other studies, by name.
    missing: field -> the reason why the field is missing.
    """

    layers: Int[np.ndarray, " layer"]
    n_layers: int
    gains: Gains
    shapes: ShapeTest | None = None
    sizes: Predictors = field(default_factory=dict)
    growth: Predictors = field(default_factory=dict)
    grafts: Predictors = field(default_factory=dict)
    approach: Predictors = field(default_factory=dict)
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
    gains: Gains, layers: Int[np.ndarray, " layer"], n_layers: int, beside: Mapping[str, PairedProfiles]
) -> Measurements:
    """Measure a table of contributions: its shapes, and its agreement with the studies beside it."""
    shapes, no_shapes = fit_shapes(gains, layers, n_layers)
    unknown = dict.fromkeys(("sizes", "growth", "grafts", "approach", "halves"), NO_STUDY)
    return Measurements(layers, n_layers, gains, shapes, beside=beside, missing=unknown | {"shapes": no_shapes})


def measure_study(
    study: Study, paired: PairedGains, gains: Gains, table: pd.DataFrame, beside: Mapping[str, PairedProfiles]
) -> Measurements:
    """Measure a study on the layers and seeds of `paired`. `table` is `predictors(study)`."""
    rows = table.set_index("layer").loc[paired.layers]

    def known(*names: str) -> dict[str, Float64[np.ndarray, " layer"]]:
        return {name: rows[name].to_numpy(float) for name in names if name in rows}

    shapes, no_shapes = fit_shapes(gains, paired.layers, study.n_layers)
    grafts = known("sufficiency", "necessity")
    return Measurements(
        paired.layers,
        study.n_layers,
        gains,
        shapes,
        sizes=known(*SIZES),
        growth=known("cka_growth"),
        grafts=grafts if len(grafts) == 2 else {},
        approach=known("approach"),
        halves=contributions_on_halves(paired.gains, np.array(paired.benchmark)),
        beside=beside,
        missing={
            "shapes": no_shapes,
            "sizes": "no weight deltas of full RL and of the single-layer runs",
            "growth": "no activations of base and full RL",
            "grafts": without_grafts(study) if len(grafts) < 2 else "",
            "approach": "no activations of the single-layer runs",
        },
    )


def fit_shapes(
    gains: Gains, layers: Int[np.ndarray, " layer"], n_layers: int, *, draws: int = DRAWS
) -> tuple[ShapeTest | None, str]:
    """Fit the shapes to the contributions. Returns None and the reason when the layers are too few."""
    if len(layers) < FEWEST_LAYERS:
        return None, f"{len(layers)} layers have a contribution: shapes need at least {FEWEST_LAYERS}"
    return compare_shapes(layers, gains.contributions, n_layers, draws=draws), ""

"""The verdict on the middle-layer account: eight claims, judged on a study or on a profile of contributions.

    study, or a table of C_l  ->  gains with their errors, predictors  ->  claims  ->  verdict

What a verdict can rest on is said beside it: a table has no items, so its errors are estimated from its own roughness
over depth; one seed says nothing about another; a predictor that was not measured leaves its claim undetermined.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from lensrl.compare.predictors import SIZES, predictors, without_grafts
from lensrl.errors import LensrlError
from lensrl.judge.agreement import others_beside
from lensrl.judge.claims import (
    Beside,
    Claim,
    concentration,
    convergence,
    judge,
    middle,
    not_size,
    shape,
    stability,
    tracks,
)
from lensrl.judge.correlate import correlate_study
from lensrl.judge.profiles import has_gain, paired_gains
from lensrl.measures.gains import Gains, Interval
from lensrl.measures.halves import best_layer, contributions_on_halves
from lensrl.measures.shapes import ShapeFit
from lensrl.store.study import Study
from lensrl.store.table import read_contributions

MANY_LAYERS = 12
NO_STUDY = "a table of contributions does not say"
UNMEASURED = {
    "representation": "no activations of base and full RL",
    "convergence": "no activations of the single-layer runs",
}


@dataclass(frozen=True)
class Verdict:
    """The claims as judged, the fitted shapes, the best layer without the winner's curse, and what limits them all.

    `profile`: layer, contribution, low, high. `best` holds, for either half of the items, the layer that was best on
    it and its C_l on the other half, if full RL has a certain gain there; empty without items. `correlations`: see
    `correlate_study`; empty for a table.
    """

    name: str
    claims: list[Claim]
    profile: pd.DataFrame
    n_layers: int
    n_seeds: int
    shapes: dict[str, ShapeFit]
    best: list[tuple[int, Interval]]
    correlations: pd.DataFrame
    limits: list[str]

    def sentences(self) -> list[str]:
        """The verdict in plain sentences that say no more than the numbers."""
        return [*(_sentence(claim) for claim in self.claims), *self.best_sentences(), *self.limits]

    def best_sentences(self) -> list[str]:
        if not self.best:
            return []
        top = self.profile.sort_values("contribution").iloc[-1]
        found = " and ".join(f"layer {layer} with {_numbers(c)}" for layer, c in self.best)
        return [
            f"Chosen on one half of the items and measured on the other, the best layer is {found}; chosen and "
            f"measured on all items it would be layer {top['layer']:.0f} with {top['contribution']:.2f}."
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {
            "name": self.name,
            "layers": self.n_layers,
            "seeds": self.n_seeds,
            "claims": [
                {
                    "claim": c.name, "statement": c.statement, "verdict": c.verdict, "measure": c.measure,
                    "value": c.value, "low": c.low, "high": c.high, "null": c.null, "p": c.p, "p_for": c.p_for,
                    "p_against": c.p_against, "reason": c.reason,
                    "details": {name: _plain(value) for name, value in c.details.items()},
                }
                for c in self.claims
            ],
            "shapes": {
                name: {"error": f.error, "explained": f.explained, "where": f.where, "low": f.low, "high": f.high}
                for name, f in self.shapes.items()
            },
            "best_layer": [{"layer": layer, **c._asdict()} for layer, c in self.best],
            "profile": self.profile.to_dict("records"),
            "correlations": self.correlations.to_dict("records"),
            "sentences": self.sentences(),
        }  # fmt: skip


def verdict(source: Study | str | Path, *others: Study | str | Path) -> Verdict:
    """Judge the claims on a study, or on a CSV file with the columns `layer` and `contribution`.

    `others`, studies, their folders, or tables, enter claim 8 alone: whether the ranking holds across them too. Raises
    LensrlError when fewer than three layers of `source` have a contribution, or another is no study and no table.
    """
    beside, limits = others_beside(source, others)
    if isinstance(source, Study):
        return _judge_study(source, beside, limits)
    table = read_contributions(source)
    n_layers, left_out = int(table["layer"].max()) + 1, table.loc[table["contribution"].isna(), "layer"]
    table = table[table["contribution"].notna()].reset_index(drop=True)
    layers, contribution = table["layer"].to_numpy(), table["contribution"].to_numpy(float)
    if len(left_out):
        limits.insert(0, f"Left out, without a contribution: layers {', '.join(map(str, left_out))}.")
    gains = Gains.from_profile(contribution)
    shaped, test = shape(contribution, layers, n_layers)
    unknown = ("not size", "representation", "causal", "convergence")
    claims = [
        concentration(gains),
        middle(gains, layers, n_layers),
        shaped,
        *(Claim(c, reason=NO_STUDY) for c in unknown),
        stability(None, contribution, beside) if beside else Claim("stability", reason=NO_STUDY),
    ]
    limits.insert(
        0, "The table has no items and no seeds: its errors are estimated from how rough the profile is over depth."
    )
    return Verdict(
        Path(source).stem,
        judge(claims),
        table,
        n_layers,
        0,
        {} if test is None else test.fits,
        [],
        pd.DataFrame(),
        limits,
    )


def _judge_study(study: Study, beside: Beside, limits: list[str]) -> Verdict:
    paired = paired_gains(study)
    items, layers, seeds = paired.gains, paired.layers, paired.seeds
    limits = [*paired.limits, *limits]
    benchmark = np.array(paired.benchmark)
    gains = Gains.from_items(items, paired.benchmark)
    if not has_gain(gains):
        raise LensrlError(f"{study.path}: full RL has no certain gain to share; see lensrl contribution {study.path}")
    contribution = gains.mean[:-1] / gains.mean[-1]
    explained = predictors(study)
    table = explained.set_index("layer").loc[layers]
    shaped, test = shape(contribution, layers, study.n_layers)

    def known(*names: str) -> dict[str, Float64[np.ndarray, " layer"]]:
        return {name: table[name].to_numpy(float) for name in names if name in table}

    growth, grafts, approach = known("cka_growth"), known("sufficiency", "necessity"), known("approach")
    claims = [
        concentration(gains),
        middle(gains, layers, study.n_layers),
        shaped,
        not_size(layers, contribution, known(*SIZES)),
        tracks("representation", layers, contribution, growth) if growth else _unmeasured("representation"),
        tracks("causal", layers, contribution, grafts)
        if len(grafts) == 2
        else Claim("causal", reason=without_grafts(study)),
        convergence(layers, contribution, approach["approach"]) if approach else _unmeasured("convergence"),
        stability(contributions_on_halves(items, benchmark), contribution, beside),
    ]
    if len(seeds) == 1:
        limits.append("One seed: the intervals cover the items, not how much training differs between seeds.")
    elif len(seeds) == 2:
        limits.append(
            "Two seeds: how much training differs between seeds is barely known, and intervals are wide for it."
        )
    if len(layers) < MANY_LAYERS:
        limits.append(f"{len(layers)} layers: a relation beyond a trend in depth must be strong to be seen in so few.")
    profile = pd.DataFrame(gains.ratios(), columns=["contribution", "low", "high"])
    profile.insert(0, "layer", layers)
    fits, best = {} if test is None else test.fits, best_layer(items, benchmark, layers)
    return Verdict(
        study.name,
        judge(claims),
        profile,
        study.n_layers,
        len(seeds),
        fits,
        best,
        correlate_study(study, explained),
        limits,
    )


def _unmeasured(name: str) -> Claim:
    return Claim(name, reason=UNMEASURED[name])


def _sentence(claim: Claim) -> str:
    head = f"{claim.verdict.capitalize()}: {claim.statement}"
    if claim.reason:
        return f"{head} Not tested: {claim.reason}."
    value = "" if np.isnan(claim.value) else f" {_numbers(Interval(claim.value, claim.low, claim.high))}"
    return f"{head} {claim.measure[0].upper()}{claim.measure[1:]}{value}, against {claim.null}; p {_p(claim.p)} (Holm)."


def _numbers(interval: Interval) -> str:
    digits = 0 if all(float(end).is_integer() for end in interval) and interval.high > 1 else 2  # layers are whole
    value, low, high = (f"{round(end, digits) + 0.0:.{digits}f}" for end in interval)  # + 0.0: no minus zero
    return value if np.isnan(interval.low) else f"{value} [{low}, {high}]"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _plain(value: object) -> object:
    """Intervals and correlations as mappings."""
    if isinstance(value, Interval):
        return value._asdict()
    return vars(value) if hasattr(value, "__dataclass_fields__") else value

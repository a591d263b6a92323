"""The verdict on the middle-layer account: every claim of `CLAIMS`, judged on a study or on a table of contributions.

    study, or a table of C_l  ->  measurements  ->  findings  ->  verdict

A verdict states its limits. A table has no items, so its errors are estimated from its own roughness over depth. One
seed says nothing about another seed. A predictor that was not measured leaves its claim undetermined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensrl.compare.predictors import predictors
from lensrl.errors import LensrlError
from lensrl.judge.agreement import others_beside
from lensrl.judge.claims import OF_DELTAS, find_all
from lensrl.judge.correlate import correlate_study
from lensrl.judge.findings import Finding, numbers
from lensrl.judge.measurements import NO_NOISE, PairedProfiles, measure_noise, measure_study, measure_table
from lensrl.judge.profiles import has_gain, paired_gains, table_gains
from lensrl.judge.robustness import shape_robustness
from lensrl.measures.gains import Gains, Interval
from lensrl.measures.halves import best_layer
from lensrl.measures.shapes import FEWEST_LAYERS, ShapeFit, compare_shapes
from lensrl.measures.trend import FEWEST_LAYERS as FEWEST_BEYOND_DEPTH
from lensrl.store.look import result_html
from lensrl.store.origin import checkpoint_note, texts_note
from lensrl.store.study import Study
from lensrl.store.table import read_benchmarks, read_contributions


@dataclass(frozen=True, repr=False)
class Verdict:
    """The judged claims, the profile with its fitted shapes, the best layer, and the limits of all of them.

    claims: one finding per claim, in the order of `CLAIMS`.
    profile: layer, contribution, low, high.
    n_seeds: 0 for a table.
    shapes: by name; empty below 6 layers.
    best: for each half of the items, the best layer on this half and its C_l on the other half (see `best_layer`);
        empty without items.
    predictors, correlations: see `lensrl.compare.predictors` and `correlate_study`; empty for a table.
    robustness: for a table, sentences on what the claim of the shape depends on (`shape_robustness`).
    limits: sentences.
    """

    name: str
    claims: list[Finding]
    profile: pd.DataFrame
    n_layers: int
    n_seeds: int
    shapes: dict[str, ShapeFit]
    best: list[tuple[int, Interval]]
    predictors: pd.DataFrame
    correlations: pd.DataFrame
    robustness: list[str]
    limits: list[str]

    def __repr__(self) -> str:
        wide = max((len(claim.verdict) for claim in self.claims), default=0)
        lines = [f"  {claim.verdict:{wide}}  {claim.name}: {_short(claim)}" for claim in self.claims]
        return "\n".join([f"<Verdict on {self._about()}>", *lines])

    def _repr_html_(self) -> str:
        rows = [
            {"verdict": c.verdict, "claim": c.name, "statement": c.statement, "measured": _short(c), "p (Holm)": c.p}
            for c in self.claims
        ]
        return result_html(f"Verdict on {self._about()}", rows, wrapped=("statement", "measured"))

    def _about(self) -> str:
        seeds = "a table" if self.n_seeds == 0 else f"{self.n_seeds} {'seed' if self.n_seeds == 1 else 'seeds'}"
        return f"{self.name}: {self.n_layers} layers, {seeds}"

    def sentences(self) -> list[str]:
        """Return the verdict in plain sentences: the claims, the best layer, the robustness, the limits."""
        claims = [finding.sentence() for finding in self.claims]
        return [*claims, *self.best_sentences(), *self.robustness, *self.limits]

    def best_sentences(self) -> list[str]:
        """Return a sentence about the best layer, or nothing where no half of the items measured it."""
        if not self.best:
            return []
        top = self.profile.sort_values("contribution").iloc[-1]
        found = " and ".join(f"layer {layer} with {numbers(c)}" for layer, c in self.best)
        return [
            f"Chosen on one half of the items and measured on the other, the best layer is {found}; chosen and "
            f"measured on all items it would be layer {top['layer']:.0f} with {top['contribution']:.2f}."
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the whole verdict as plain values for JSON."""
        return {
            "name": self.name,
            "layers": self.n_layers,
            "seeds": self.n_seeds,
            "claims": [
                {
                    "claim": c.name, "statement": c.statement, "verdict": c.verdict, "measure": c.measure,
                    "value": c.value, "low": c.low, "high": c.high, "null": c.null, "counter": c.counter,
                    "p": c.p, "p_for": c.p_for, "p_against": c.p_against, "reason": c.reason,
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


def _short(claim: Finding) -> str:
    """Return the measure of a claim with its interval, or why it was not tested."""
    if claim.reason:
        return f"not tested: {claim.reason}"
    number = numbers(Interval(claim.value, claim.low, claim.high), at_layer=claim.at_layer)
    colon = "" if claim.at_layer else ":"
    return claim.measure if np.isnan(claim.value) else f"{claim.measure}{colon} {number}"


def verdict(source: Study | str | Path, *others: Study | str | Path) -> Verdict:
    """Judge the claims on a study, or on a CSV file with the columns `layer` and `contribution`.

    `others` are studies, folders of studies, or tables. Only the claim of stability uses them: whether the ranking of
    layers holds across them, too. Raises LensrlError when fewer than three layers of `source` have a contribution, when
    its full RL has no certain gain, or when one of `others` is neither a study nor a table.
    """
    beside, limits = others_beside(source, others)
    return _judge_study(source, beside, limits) if isinstance(source, Study) else _judge_table(source, beside, limits)


def _judge_table(path: str | Path, beside: Mapping[str, PairedProfiles], limits: list[str]) -> Verdict:
    """Judge a table, which has no seeds and no predictors.

    Its errors are those of its columns low and high. Without them, they come from its roughness over depth.
    """
    table = read_contributions(path)
    notes = table.attrs["notes"]
    n_layers = int(table["layer"].max()) + 1
    left_out = table.loc[table["contribution"].isna(), "layer"]
    table = table[table["contribution"].notna()].reset_index(drop=True)
    gains, layers = table_gains(table), table["layer"].to_numpy()
    has_intervals = (table["interval_from"] == "file").all()
    noise = measure_noise(gains) if has_intervals else NO_NOISE
    measured = measure_table(gains, layers, n_layers, beside, noise)
    fits = _fits(gains, layers, n_layers)
    errors = (
        "those of its columns low and high, taken"
        if has_intervals
        else "estimated from how rough the profile is over depth, and taken"
    )
    said = [f"The table has no items and no seeds: its errors are {errors} as independent.", *notes]
    if len(left_out):
        said.append(f"Left out, without a contribution: layers {', '.join(map(str, left_out))}.")
    return Verdict(
        name=Path(path).stem,
        claims=find_all(measured),
        profile=table,
        n_layers=n_layers,
        n_seeds=0,
        shapes=fits,
        best=[],
        predictors=pd.DataFrame(),
        correlations=pd.DataFrame(),
        robustness=shape_robustness(layers, gains.contributions, read_benchmarks(path), fits),
        limits=[*said, *limits],
    )


def _judge_study(study: Study, beside: Mapping[str, PairedProfiles], limits: list[str]) -> Verdict:
    """Judge a study on the layers and seeds of its paired gains."""
    paired = paired_gains(study)
    gains = Gains.from_items(paired.gains, paired.benchmark)
    if not has_gain(gains):
        raise LensrlError(f"{study.path}: full RL has no certain gain to share; see lensrl contribution {study.path}")
    table, rounded = predictors(study), checkpoint_note(study.runs.values())
    measured = measure_study(study, paired, gains, table, beside)
    profile = pd.DataFrame(gains.ratios(), columns=["contribution", "low", "high"])
    profile.insert(0, "layer", paired.layers)
    claims = find_all(measured)
    if rounded:
        claims = [replace(c, note=_beside_rounding(c, table)) if c.name in OF_DELTAS else c for c in claims]
    return Verdict(
        name=study.name,
        claims=claims,
        profile=profile,
        n_layers=study.n_layers,
        n_seeds=len(paired.seeds),
        shapes=_fits(gains, paired.layers, study.n_layers),
        best=best_layer(paired.gains, np.array(paired.benchmark), paired.layers),
        predictors=table,
        correlations=correlate_study(study, table),
        robustness=[],
        limits=[
            *paired.limits,
            *limits,
            *gains.warnings(),
            *_limits(len(paired.seeds), len(paired.layers)),
            *filter(None, [rounded, texts_note(study.recipe)]),
        ],
    )


def _beside_rounding(claim: Finding, table: pd.DataFrame) -> str:
    """Return the note of a claim that rests on weight deltas, and the share of them that rounding alone would give."""
    shares = {
        words: (table[f"relative_rounding_{kind}"] / table[f"relative_delta_{kind}"]).median()
        for kind, words in (("full", "full RL"), ("single", "single layers"))
        if f"relative_rounding_{kind}" in table
    }
    said = [
        f"rounding alone would give {share:.0%} of the delta norms of {words} (median layer)"
        for words, share in shares.items()
    ]
    return "; ".join(filter(None, [claim.note, *said]))


def _limits(n_seeds: int, n_layers: int) -> list[str]:
    """Return what few seeds and few layers cannot show."""
    limits = []
    if n_seeds == 1:
        limits.append("One seed: the intervals cover the items, not how much training differs between seeds.")
    elif n_seeds == 2:
        limits.append(
            "Two seeds: how much training differs between seeds is barely known, and intervals are wide for it. Where "
            "full RL differs more than layers do, the 95 % intervals of C_l still hold the truth in about 0.92 only."
        )
    if n_layers < FEWEST_BEYOND_DEPTH:
        limits.append(
            f"{n_layers} layers: a relation with C_l cannot be told from a trend in depth in fewer than "
            f"{FEWEST_BEYOND_DEPTH}."
        )
    return limits


def _fits(gains: Gains, layers: np.ndarray, n_layers: int) -> dict[str, ShapeFit]:
    """Fit the shapes, where there are enough layers for them."""
    return {} if len(layers) < FEWEST_LAYERS else compare_shapes(layers, gains.contributions, n_layers)


def _plain(value: object) -> object:
    """Return an interval or a correlation as a mapping, with those inside it, and anything else as it is."""
    if isinstance(value, Interval):
        return value._asdict()
    if is_dataclass(value):
        return {name: _plain(part) for name, part in vars(value).items()}
    return value

"""The contribution of layers, and of sets of layers, to the gain of full RL, from the scores of a study's runs.

    C = (S - S_base) / (S_full - S_base)                                     ("Is One Layer Enough?", arXiv 2607.01232)

with Fieller's interval over items and seeds (`lensrl.measures.contribution`).

The layers of a set, or a learning rate, may be chosen by score. Measured on the same items, the best of many noisy runs
looks better than it is. So the choice is made on one half of the items and measured on the other half (`split_items`).
This removes the luck of items alone. A run that was chosen because of a lucky training seed stays lucky, so choose with
several seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Int

from lensrl.errors import LensrlError
from lensrl.measures.contribution import GainRatio, gain_ratios
from lensrl.measures.halves import split_items
from lensrl.measures.score import mean_score
from lensrl.recipe import LayerSet
from lensrl.recipe.runs import BASE, FULL, layer_run, rate_run, run_layer, set_run
from lensrl.store.run import Run
from lensrl.store.runs import Runs
from lensrl.store.scored_by import STUDY_SCORE, ScoredBy

Key = TypeVar("Key", int, str)
Row = dict[str, object]

RATIO_COLUMNS = (
    "contribution", "low", "high", "numerator", "numerator_low", "numerator_high",
    "denominator", "denominator_low", "denominator_high", "status", "reason", "seeds",
)  # fmt: skip
SET_COLUMNS = ("set", "trained", "layers", "component", "boost", "factor", "items", *RATIO_COLUMNS)
RECIPE_COLUMNS = ("contribution", "low", "high", "numerator", "status", "reason")
RATE_COLUMNS = (
    "run", "layer", "rate", *RATIO_COLUMNS, "recipe_rate", *(f"recipe_{name}" for name in RECIPE_COLUMNS),
    "rates", "at_end", "left_out",
)  # fmt: skip


def layer_contributions(
    runs: Runs,
    seed: int | None = None,
    *,
    items: Int[np.ndarray, " chosen"] | None = None,
    by: ScoredBy = STUDY_SCORE,
) -> pd.DataFrame:
    """Compute the contribution C_l of every single layer of the study, with its 95 % interval: one row per layer.

    `by` says which score enters; by default the study's own. `items` are the places of the items to use among those of
    `by`; by default all. `seed=None`: see `lensrl.store.runs.Runs`.

    Columns: layer; contribution, low, high; numerator (S_l - S_base) and denominator (S_full - S_base), each with
    `_low` and `_high`; status; reason; seeds, the number of training seeds.

    `status` is one of:

    - `defined`. `reason` is empty, or says why this layer has fewer seeds than other layers;
    - `collapsed`: a number, but one of its runs collapsed in training;
    - `undefined`, `diverged`, `missing`, or the word of `verify` for a file that cannot be read: NaN, with the reason.

    Raises LensrlError for a study without scores, without full RL or without single-layer runs.
    """
    runs.check_scored()
    runs.find(FULL, seed)  # raises with the seeds that exist
    if not runs.layers:
        raise LensrlError(f"{runs.folder} has no single-layer runs: its recipe asks for none (layers = [])")
    rows = shares(runs, {layer: layer_run(layer) for layer in runs.layers}, seed, items=items, by=by)
    return pd.DataFrame([{"layer": layer} | row for layer, row in rows.items()], columns=["layer", *RATIO_COLUMNS])


def set_contributions(runs: Runs, seed: int | None = None, *, by: ScoredBy = STUDY_SCORE) -> pd.DataFrame:
    """Compute the contribution of every set of layers, with its 95 % interval: one row per set, in the recipe's order.

    Columns: set; trained, the trained parameters in words; layers (a tuple, None for `full`), component, boost (a
    tuple) and factor, as in `RunSpec`; items; and the columns of `layer_contributions` from contribution on. `items` is
    `all`, or `other half` where the layers were chosen on the first half of the items. `by`: see `layer_contributions`.

    No row without sets. `seed=None`: see `lensrl.store.runs.Runs`. Raises LensrlError for a study without scores or
    without full RL.
    """
    sets = known_sets(runs)
    if not sets:
        return pd.DataFrame(columns=list(SET_COLUMNS))
    runs.check_scored()
    runs.find(FULL, seed)
    # The single layers enter, too: all runs together show how much full RL varies between seeds.
    alone = {layer_run(layer): layer_run(layer) for layer in runs.layers}
    rows_on: dict[str, dict[str, Row]] = {}  # `all` or `other half` -> the rows on these items, by run
    rows = []
    for name, layer_set in sets.items():
        spec = set_run(name, layer_set, runs.n_layers)
        items = "all" if layer_set.chosen is None else layer_set.chosen.items
        if items not in rows_on:
            rows_on[items] = shares(
                runs, alone | {name: name for name in sets}, seed,
                items=None if items == "all" else halves(runs, by)[1], by=by,
            )  # fmt: skip
        rows.append(
            {
                "set": name,
                "trained": spec.trained,
                "layers": spec.layers,
                "component": spec.component,
                "boost": spec.boost,
            }
            | {"factor": spec.factor, "items": items}
            | rows_on[items][name]
        )
    return pd.DataFrame(rows, columns=list(SET_COLUMNS))


def rate_control(runs: Runs, seed: int | None = None) -> pd.DataFrame:
    """Compute C_l with every layer, and full RL, at its best learning rate among the recipe's rates.

    The best rate has the highest mean score on the first half of the items, over the seeds. The contribution is
    measured on the other half, with full RL at its own best rate in the denominator. One row for full RL, then one row
    per layer. No row where the recipe has one rate alone.

    Columns:

    - run; layer, NaN for full RL; rate, the best rate, NaN where no rate has a score;
    - the columns of `layer_contributions` from contribution on. Full RL's own contribution is 1, its gain `numerator`;
    - recipe_rate, and recipe_contribution, recipe_low, recipe_high, recipe_numerator, recipe_status, recipe_reason:
      the same with every run at the recipe's rate, on the same half of the items;
    - rates, a tuple of all rates to choose from;
    - at_end: `lowest` or `highest` where the best rate is the lowest or highest of `rates`. A better rate may then lie
      beyond the rates tried. Empty for a rate in between, and where no rate has a score;
    - left_out: the rates that could not be chosen, because a seed has no score there.

    `seed=None`: see `lensrl.store.runs.Runs`.
    """
    own = runs.recipe.rl.learning_rate
    rates = sorted({own, *runs.recipe.learning_rates})
    if len(rates) == 1:
        return pd.DataFrame(columns=list(RATE_COLUMNS))
    seeds = runs.seeds if seed is None else [seed]
    ends = {rates[0]: "lowest", rates[-1]: "highest"}
    first, other = halves(runs)
    # Choose a rate for full RL and for each layer, on the first half.
    names: dict[str, str] = {}  # run -> the run at its best rate
    chosen: dict[str, Row] = {}
    for run in (FULL, *map(layer_run, runs.layers)):
        at = {rate: run if rate == own else rate_run(run, rate) for rate in rates}
        scores = {rate: _mean_over_seeds(runs, name, seeds, first) for rate, name in at.items()}
        scored = {rate: score for rate, score in scores.items() if score is not None}
        best = max(scored, key=lambda rate: scored[rate]) if scored else None
        names[run] = run if best is None else at[best]
        chosen[run] = {"run": run, "layer": run_layer(run), "rate": best, "recipe_rate": own, "rates": tuple(rates)}
        chosen[run]["at_end"] = "" if best is None else ends.get(best, "")
        chosen[run]["left_out"] = ", ".join(f"{rate:g}" for rate in rates if rate not in scored)
    # Measure on the other half: with the chosen rates, and with the recipe's.
    controlled = _rows_beside_full(runs, names, seed, other)
    plain = _rows_beside_full(runs, {run: run for run in names}, seed, other)
    rows = [
        chosen[run] | controlled[run] | {f"recipe_{name}": plain[run][name] for name in RECIPE_COLUMNS} for run in names
    ]
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS)).astype({"layer": float, "rate": float})


def _rows_beside_full(
    runs: Runs, names: Mapping[str, str], seed: int | None, items: Int[np.ndarray, " chosen"]
) -> dict[str, Row]:
    """Return the row of each run, with full RL among them. Full RL's share of its own gain is 1."""
    full = names[FULL]
    layers = {run: name for run, name in names.items() if run != FULL}
    (whole,) = shares(runs, {FULL: full}, seed, full=full, items=items).values()
    if whole["status"] in ("defined", "collapsed"):
        whole |= dict.fromkeys(("contribution", "low", "high"), 1.0)
    return {FULL: whole} | shares(runs, layers, seed, full=full, items=items)


def shares(
    runs: Runs,
    names: Mapping[Key, str],
    seed: int | None = None,
    *,
    full: str = FULL,
    items: Int[np.ndarray, " chosen"] | None = None,
    by: ScoredBy = STUDY_SCORE,
) -> dict[Key, Row]:
    """Return the contribution of each key's run, as a row of `RATIO_COLUMNS`. `items` and `by`: `layer_contributions`.

    A run is compared with the run `full` over the seeds that both have. Raises StoreError for runs that were not scored
    on the items of the base.
    """
    base = runs.find(BASE)
    benchmark = by.items(base)["benchmark"].to_numpy(str)
    where = np.arange(len(benchmark)) if items is None else items
    scored = runs.of(full, seed, scored=True)
    # The seeds that each run shares with full RL; a row with the reason where they share none.
    shared: dict[Key, dict[int, Run]] = {}
    rows: dict[Key, Row] = {}
    for key, name in names.items():
        shared[key] = {s: run for s, run in runs.of(name, seed, scored=True).items() if s in scored}
        if not shared[key]:
            rows[key] = _row_without_ratio(runs, name, full, seed)
    most = max(map(len, shared.values()), default=0)
    for seeds in {tuple(by_seed) for by_seed in shared.values() if by_seed}:
        # All runs with these seeds enter together: they show how much full RL varies between seeds.
        parts = {key: [by_seed[s] for s in seeds] for key, by_seed in shared.items() if {*seeds} <= {*by_seed}}
        ratios = gain_ratios(
            np.stack([by.scores(base, base, where)] * len(seeds)),
            np.stack([by.scores(scored[seed], base, where) for seed in seeds]),
            {key: np.stack([by.scores(run, base, where) for run in part]) for key, part in parts.items()},
            benchmark[where].tolist(),
            gain="S_full - S_base",
        )
        together = [scored[seed] for seed in seeds]
        for key in (key for key, by_seed in shared.items() if tuple(by_seed) == seeds):
            rows[key] = _row_of_ratio(ratios[key], [*together, *parts[key]])
            if len(seeds) < most and rows[key]["status"] == "defined":
                rows[key]["reason"] = (
                    f"{len(seeds)} of {most} seeds: {_why_fewer_seeds(runs, names[key], seeds, scored)}"
                )
    return {key: rows[key] for key in names}


def _why_fewer_seeds(runs: Runs, name: str, seeds: Sequence[int], wanted: Mapping[int, Run]) -> str:
    """Say why a run lacks the other seeds of `wanted`."""
    made = runs.of(name)
    others = [s for s in wanted if s not in seeds]
    return "; ".join(f"seed {s} {made[s].status}: {made[s].reason}" if s in made else f"no seed {s}" for s in others)


def _row_without_ratio(runs: Runs, name: str, full: str, seed: int | None) -> Row:
    """Return the row of a run that shares no scored seed with full RL: NaN, with the status and the reason."""
    made, full_runs = runs.of(name, seed), runs.of(full, seed)
    comparable = [run for s, run in full_runs.items() if s in made] or list(full_runs.values())
    ended = next((run for run in [*comparable, *made.values()] if not run.has_scores), None)
    broken = next((error for file, error in runs.unreadable.items() if file.startswith(f"{name}.seed-")), None)
    if broken is not None:
        status, why = broken.status, str(broken)
    elif not made and any(run.has_scores for run in full_runs.values()):
        status, why = "missing", f"no run {name}"
    elif ended is not None:
        status, why = ended.status, f"{ended.name} seed {ended.seed}: {ended.reason}"
    else:
        status, why = "missing", f"no seed in common: {name} has {[*made]}, {full} has {[*full_runs]}"
    row: Row = dict.fromkeys(RATIO_COLUMNS, float("nan"))
    return row | {"status": status, "reason": why, "seeds": 0}


def _row_of_ratio(result: GainRatio, runs: Sequence[Run]) -> Row:
    """Return the row of a ratio. `runs` are the runs that it was computed from, without the base."""
    status, why = result.status, result.reason
    collapsed = next((run for run in runs if run.status == "collapsed"), None)
    ratio = result.ratio
    if status == "defined" and result.denominator.value < 0:
        nan = float("nan")
        ratio = type(ratio)(nan, nan, nan)
        status = "undefined"
        why = f"full RL lowered the score by {-result.denominator.value:.3g}: there is no gain to share"
    elif status == "defined" and collapsed is not None:
        status, why = "collapsed", f"{collapsed.name} seed {collapsed.seed}: {collapsed.reason}"
    seeds = len({run.seed for run in runs})
    values = (*ratio, *result.numerator, *result.denominator, status, why, seeds)
    return dict(zip(RATIO_COLUMNS, values, strict=True))


def known_sets(runs: Runs) -> dict[str, LayerSet]:
    """Return the sets that the recipe asks for, and the sets of other runs in the folder, as those runs were made."""
    made = {name: run.layer_set for (name, _), run in runs.items()}
    return runs.recipe.sets | {name: layer_set for name, layer_set in made.items() if layer_set is not None}


def halves(runs: Runs, by: ScoredBy = STUDY_SCORE) -> tuple[Int[np.ndarray, " half"], Int[np.ndarray, " half"]]:
    """Return the places of the two halves of the items: one to choose on, one to measure on.

    Every benchmark is split alone, so the halves of a benchmark are the same whichever others stand beside it.
    """
    return split_items(by.items(runs.find(BASE))["benchmark"].to_numpy(str))


def _mean_over_seeds(runs: Runs, name: str, seeds: Sequence[int], items: Int[np.ndarray, " chosen"]) -> float | None:
    """Return the mean score on some of the items, over the seeds. None where one of the seeds has no score."""
    base, scored = runs.find(BASE), runs.of(name, scored=True)
    if not {*seeds} <= {*scored}:
        return None
    scores = np.mean([STUDY_SCORE.scores(scored[seed], base, items) for seed in seeds], axis=0)
    return mean_score(scores, base.scores_by_item()["benchmark"].to_numpy(str)[items].tolist())

"""What layers, and sets of them, contribute to the gain of full RL, from the scores of a study's runs.

    C = (S - S_base) / (S_full - S_base)                                     ("Is One Layer Enough?", arXiv 2607.01232)

with Fieller's interval over items and seeds (`lensrl.measures.contribution`). A choice that was made by score, of the
layers of a set or of a learning rate, is scored on the half of the items that it did not see (`split_items`): measured
where it was chosen, the best of many noisy runs looks better than it is. Only the luck of items is taken out so: what
was chosen for the luck of a training seed keeps it, so choose with several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from lensrl.errors import LensrlError, StoreError
from lensrl.measures.contribution import GainRatio, gain_ratios
from lensrl.measures.halves import split_items
from lensrl.measures.score import mean_score
from lensrl.recipe import LayerSet
from lensrl.recipe.runs import BASE, FULL, layer_run, rate_run, run_layer, set_run
from lensrl.store.run import Run
from lensrl.store.runs import Runs

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
    "rates", "left_out",
)  # fmt: skip


def layer_contributions(
    runs: Runs, seed: int | None = None, *, items: Int[np.ndarray, " chosen"] | None = None
) -> pd.DataFrame:
    """The layer contribution C_l of every layer that was asked for, with its 95 % interval.

    Over all seeds or for one, and over all items or for those at the places `items`.

    Columns: layer, contribution, low, high, numerator (S_l - S_base) and denominator (S_full - S_base) each with
    `_low` and `_high`, status, reason, seeds (how many). `status` is `defined`, with a reason where it rests on fewer
    seeds than others; `collapsed` where the value rests on a run that collapsed; else, with NaN and the reason,
    `undefined`, `diverged`, `missing`, or what `verify` says of the file.
    """
    runs.find(FULL, seed)  # raises with what there is
    if not runs.layers:
        raise LensrlError(f"{runs.folder} has no single-layer runs: its recipe asks for none (layers = [])")
    rows = shares(runs, {layer: layer_run(layer) for layer in runs.layers}, seed, items=items)
    return pd.DataFrame([{"layer": layer} | row for layer, row in rows.items()], columns=["layer", *RATIO_COLUMNS])


def set_contributions(runs: Runs, seed: int | None = None) -> pd.DataFrame:
    """The contribution of every set of layers, in the recipe's order, with its 95 % interval; no row without sets.

    Columns: set; trained (in words); layers (None for `full`) and boost (tuples), component and factor, as in
    `RunSpec`; items, `all` or the `other half` where the layers were chosen on the first; and those of
    `layer_contributions`.
    """
    sets = _sets(runs)
    if not sets:
        return pd.DataFrame(columns=list(SET_COLUMNS))
    runs.find(FULL, seed)
    # beside the single layers, by which it is judged how much full RL varies between seeds
    alone = {layer_run(layer): layer_run(layer) for layer in runs.layers}
    of: dict[str, dict[str, Row]] = {}
    rows = []
    for name, layer_set in sets.items():
        spec = set_run(name, layer_set, runs.n_layers)
        items = "all" if layer_set.chosen is None else layer_set.chosen.items
        if items not in of:
            of[items] = shares(
                runs, alone | {name: name for name in sets}, seed,
                items=None if items == "all" else _halves(runs)[1],
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
            | of[items][name]
        )
    return pd.DataFrame(rows, columns=list(SET_COLUMNS))


def rate_control(runs: Runs, seed: int | None = None) -> pd.DataFrame:
    """C_l with full RL, and every layer, at the learning rate of the recipe's that suits it best.

    The best rate has the highest mean score on the first half of the items, over the seeds; the contribution is
    measured on the other half, with full RL at its own best rate in the denominator. One row for full RL, then one
    per layer; no row where the recipe has one rate.

    Columns: run, layer (NaN for full RL), rate (chosen; NaN where there is none); those of `layer_contributions`; the
    same with `recipe_` before rate, contribution, low, high, numerator, status, reason: everything at the recipe's
    rate, on the same half; rates, all there were to choose from (a tuple); left_out, those that could not be chosen
    for want of a score. Full RL's own contribution is 1, and its gain `numerator`.
    """
    own = runs.recipe.rl.learning_rate
    rates = sorted({own, *runs.recipe.learning_rates})
    if len(rates) == 1:
        return pd.DataFrame(columns=list(RATE_COLUMNS))
    seeds = runs.seeds if seed is None else [seed]
    first, other = _halves(runs)
    names: dict[str, str] = {}
    chosen: dict[str, Row] = {}
    for run in (FULL, *map(layer_run, runs.layers)):
        at = {rate: run if rate == own else rate_run(run, rate) for rate in rates}
        scores = {rate: _score(runs, name, seeds, first) for rate, name in at.items()}
        scored = {rate: score for rate, score in scores.items() if score is not None}
        best = max(scored, key=lambda rate: scored[rate]) if scored else None
        names[run] = run if best is None else at[best]
        chosen[run] = {"run": run, "layer": run_layer(run), "rate": best, "recipe_rate": own, "rates": tuple(rates)}
        chosen[run]["left_out"] = ", ".join(f"{rate:g}" for rate in rates if rate not in scored)
    controlled = _beside_full(runs, names, seed, other)
    plain = _beside_full(runs, {run: run for run in names}, seed, other)
    rows = [
        chosen[run] | controlled[run] | {f"recipe_{name}": plain[run][name] for name in RECIPE_COLUMNS} for run in names
    ]
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS)).astype({"layer": float, "rate": float})


def _beside_full(
    runs: Runs, names: Mapping[str, str], seed: int | None, items: Int[np.ndarray, " chosen"]
) -> dict[str, Row]:
    """The shares of runs, full RL among them, of what full RL gains, of which it has 1 itself."""
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
) -> dict[Key, Row]:
    """For every key its run's contribution, over the seeds that it shares with `full`: `RATIO_COLUMNS`.

    Raises StoreError for runs that were not scored on the items of the base.
    """
    base = runs.find(BASE)
    benchmark = base.items["benchmark"].to_numpy(str)
    where = np.arange(len(benchmark)) if items is None else items
    scored = runs.of(full, seed, scored=True)
    shared: dict[Key, dict[int, Run]] = {}
    rows: dict[Key, Row] = {}
    for key, name in names.items():
        shared[key] = {s: run for s, run in runs.of(name, seed, scored=True).items() if s in scored}
        if not shared[key]:
            rows[key] = _no_share(runs, name, full, seed)
    most = max(map(len, shared.values()), default=0)
    for seeds in {tuple(by_seed) for by_seed in shared.values() if by_seed}:
        # beside all that have these seeds: by them it is judged how much full RL varies between seeds
        parts = {key: [of[s] for s in seeds] for key, of in shared.items() if {*seeds} <= {*of}}
        ratios = gain_ratios(
            _matrix([base] * len(seeds), base)[:, where],
            _matrix([scored[seed] for seed in seeds], base)[:, where],
            {key: _matrix(part, base)[:, where] for key, part in parts.items()},
            benchmark[where].tolist(),
            gain="S_full - S_base",
        )
        together = [scored[seed] for seed in seeds]
        for key in (key for key, of in shared.items() if tuple(of) == seeds):
            rows[key] = _row(ratios[key], [*together, *parts[key]])
            if len(seeds) < most and rows[key]["status"] == "defined":
                rows[key]["reason"] = f"{len(seeds)} of {most} seeds: {_lacking(runs, names[key], seeds, scored)}"
    return {key: rows[key] for key in names}


def _lacking(runs: Runs, name: str, seeds: Sequence[int], wanted: Mapping[int, Run]) -> str:
    """What became of a run's other seeds."""
    made = runs.of(name)
    others = [s for s in wanted if s not in seeds]
    return "; ".join(f"seed {s} {made[s].status}: {made[s].reason}" if s in made else f"no seed {s}" for s in others)


def _no_share(runs: Runs, name: str, full: str, seed: int | None) -> Row:
    """The row of a run that shares no scored seed with full RL: its status and the reason."""
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


def _row(result: GainRatio, runs: Sequence[Run]) -> Row:
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


def _sets(runs: Runs) -> dict[str, LayerSet]:
    """The sets that the recipe asks for, and any others that have a run, as it was made."""
    made = {name: run.layer_set for (name, _), run in runs.items()}
    return runs.recipe.sets | {name: layer_set for name, layer_set in made.items() if layer_set is not None}


def _halves(runs: Runs) -> tuple[Int[np.ndarray, " half"], Int[np.ndarray, " half"]]:
    return split_items(runs.find(BASE).items["benchmark"].to_numpy(str))


def _score(runs: Runs, name: str, seeds: Sequence[int], items: Int[np.ndarray, " chosen"]) -> float | None:
    """The mean score on some of the items, over seeds; None where a seed has none."""
    base, scored = runs.find(BASE), runs.of(name, scored=True)
    if not {*seeds} <= {*scored}:
        return None
    scores = _matrix([scored[seed] for seed in seeds], base)[:, items].mean(axis=0)
    return mean_score(scores, base.items["benchmark"].to_numpy(str)[items].tolist())


def _matrix(runs: Sequence[Run], base: Run) -> Float64[np.ndarray, "seed item"]:
    """Per-item scores. Raises StoreError when a run was not scored on the items of the base."""
    for run in runs:
        if not run.items["item"].equals(base.items["item"]):
            raise StoreError(f"{run.path} was scored on other items than {base.path}; their scores cannot be paired")
    return np.stack([run.items["score"].to_numpy() for run in runs])

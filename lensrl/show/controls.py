"""The controls of a study that its files hold: what else than the choice of layers differs between its runs."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lensrl.recipe.runs import BASE, FULL
from lensrl.show.words import number
from lensrl.store.names import order
from lensrl.store.study import Study

ENDS = 10  # steps at the beginning and at the end of a curve


def controls(study: Study) -> dict[str, Any]:
    """Return a row for each run by name, sentences, and the sets beside their layers. Empty without training.

    A row has means over seeds: clipped_share and mean_factor (`lensrl.store.clipping`); length and truncated, of the
    completions of scoring; entropy_first and entropy_last, means over the first and last ten steps; mismatch, the
    largest `sampler_mismatch` of any step; kl, of the last ten steps, where the recipe has a KL term. NaN where a file
    does not say.
    """
    trained = [run for run in study.runs.values() if run.has_training and run.has_scores]
    if not trained:
        return {}
    clipped = study.clipped_steps().set_index(["run", "seed"])
    scores = study.scores().set_index(["run", "seed"])
    found = []
    for run in sorted(trained, key=lambda run: order(run.name, run.seed)):
        curve, key = run.training(), (run.name, run.seed)
        found.append({
            "run": run.name, "seed": run.seed,
            "clipped_share": clipped["clipped_share"].get(key, math.nan),
            "mean_factor": clipped["mean_factor"].get(key, math.nan),
            "length": scores["length"].get(key, math.nan), "truncated": scores["truncated"].get(key, math.nan),
            "entropy_first": _mean(curve, "entropy", slice(ENDS)),
            "entropy_last": _mean(curve, "entropy", slice(-ENDS, None)),
            "mismatch": curve["sampler_mismatch"].max() if "sampler_mismatch" in curve else math.nan,
            "kl": _mean(curve, "kl", slice(-ENDS, None)),
        })  # fmt: skip
    by_run = pd.DataFrame(found).drop(columns="seed").groupby("run", sort=False).mean()
    base = scores.loc[BASE].iloc[0]
    together = study.set_interactions()
    return {
        "rows": by_run.reset_index().to_dict("records"),
        "base": {"length": base["length"], "truncated": base["truncated"]},
        "said": [*_clipping(by_run, study), *_updates(study), *_lengths(by_run, base), *_drift(by_run)],
        "together": together.to_dict("records"),
        "kl": bool(by_run["kl"].notna().any()),
    }


def _mean(curve: pd.DataFrame, column: str, steps: slice) -> float:
    return float(curve[column].iloc[steps].mean()) if column in curve else math.nan


def _clipping(rows: pd.DataFrame, study: Study) -> list[str]:
    """Say how much the limit on gradients acts on full RL, and on the layers that it is divided by."""
    limit = study.recipe.rl.max_grad_norm
    if limit == "none":
        return ["No gradient was clipped."]
    alone = rows[rows.index.str.fullmatch(r"layer-\d+")]["clipped_share"].dropna()
    if FULL not in rows.index or math.isnan(float(rows["clipped_share"][FULL])) or not len(alone):
        return []
    full = rows.loc[FULL]
    where = "the root of its share of the parameters" if limit == "per-parameter-count" else f"{limit:g}"
    said = (
        f"A gradient above {where} is scaled down. This acts on full RL in {100 * full['clipped_share']:.0f} % of its "
        f"steps (factor {number(full['mean_factor'], 2)} on average), and on single layers in "
        f"{100 * alone.min():.0f} to {100 * alone.max():.0f} % (median {100 * alone.median():.0f} %)."
    )
    uneven = full["clipped_share"] - alone.median() > 0.25
    return [said + (" The layers and full RL are not trained alike: rl.max_grad_norm = 'none' trains them without it."
                    if uneven else "")]  # fmt: skip


def _updates(study: Study) -> list[str]:
    """Say that the clip of the objective never acts with one update per rollout."""
    if study.recipe.rl.updates_per_rollout > 1 or study.recipe.rl.algorithm == "sft":
        return []
    return ["With one update per rollout the policy is the one that was sampled, so rl.clip never acts."]


def _lengths(rows: pd.DataFrame, base: pd.Series) -> list[str]:
    """Say how the length of completions changed."""
    alone = rows[rows.index.str.fullmatch(r"layer-\d+")]["length"].dropna()
    if FULL not in rows.index or not len(alone) or math.isnan(float(rows["length"][FULL])):
        return []
    return [f"Completions have {base['length']:.1f} tokens in the base, {rows.loc[FULL, 'length']:.1f} after full RL, "
            f"and {alone.min():.1f} to {alone.max():.1f} after single layers."]  # fmt: skip


def _drift(rows: pd.DataFrame) -> list[str]:
    """Say how far the policy that was trained is from the one that was sampled."""
    most = rows["mismatch"].max()
    if math.isnan(most):
        return []
    return [f"Sampler and trainer differ by at most {most:.1g} nats a token in the mean of any step: training is "
            f"{'on-policy to this noise' if most < 0.01 else 'on-policy only roughly'}."]  # fmt: skip

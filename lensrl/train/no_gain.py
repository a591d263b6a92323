"""Why full RL gained nothing: looked at as soon as full RL is there, before the single layers take their hours.

C_l divides by the gain of full RL, S_full - S_base. Where the 95 % interval of this gain reaches 0 or below, no layer
has a contribution. What the training curves of full RL show then says what to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lensrl.errors import NoGain
from lensrl.measures.gains import Gains, Interval
from lensrl.recipe.runs import BASE, FULL, RunSpec
from lensrl.store.names import run_path
from lensrl.store.run import Run
from lensrl.train.watch import Watcher

MOST = 0.9  # a share from which nearly all of something is meant
LEARNS = {  # an algorithm or a kind of reward -> what a control learns from
    "random": "Its rewards are a fair coin (rl.reward = 'random'), so this control need not gain",
    "sft": "It learned from the references (rl.algorithm = 'sft'), not from rewards: more rl.steps, or another "
           "rl.learning_rate",
}  # fmt: skip
RISE_ERRORS = 2  # standard errors by which the reward of the last fifth exceeds that of the first


def why_no_gain(folder: Path, seeds: Sequence[int]) -> str | None:
    """Say in one line that full RL gained nothing, and why; None where its gain is above 0, or a run is missing."""
    paths = [run_path(folder, FULL, seed) for seed in seeds]
    base_path = run_path(folder, BASE, 0)
    if not seeds or not all(path.exists() for path in (base_path, *paths)):
        return None
    with Run(base_path) as base:
        if not base.has_scores:
            return None
        before, references = base.scores_by_item(), base.provenance.get("references", {})
    runs = [Run(path) for path in paths]
    try:
        lost = next((run for run in runs if run.status != "completed"), None)
        scored = [run for run in runs if run.has_scores]
        if lost is not None and (not scored or lost.status == "diverged"):
            return f"full RL {lost.status}: {lost.reason}; a smaller rl.learning_rate may help"
        gain = _gain(before, [run.scores_by_item() for run in scored])
        if gain.low > 0:
            return None
        curves = [run.training() for run in runs if run.has_training]
        said = f"full RL gained nothing certain: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        if lost is not None:
            return f"{said}. It {lost.status}: {lost.reason}; a smaller rl.learning_rate may help"
        rl = runs[0].recipe.get("rl", {})
        learns = LEARNS.get(rl.get("algorithm"), LEARNS.get(rl.get("reward"), ""))
        cause = cause_of(curves, gain, references, learns) if curves else "its runs are from checkpoints"
        return f"{said}. {cause}"
    finally:
        for run in runs:
            run.close()


class StopsWithoutGain:
    """Hands everything on to `watcher`. Raises NoGain once full RL is there and has gained nothing.

    `rest` names the files of the runs that are not needed then.
    """

    def __init__(self, watcher: Watcher, folder: Path, seeds: Sequence[int], rest: Sequence[Path]) -> None:
        self._watcher = watcher
        self._folder = folder
        self._seeds = seeds
        self._rest = rest
        self._has_gained = False
        self.planned, self.waiting, self.noted = watcher.planned, watcher.waiting, watcher.noted
        self.started, self.stepped, self.scoring = watcher.started, watcher.stepped, watcher.scoring

    def finished(self, spec: RunSpec, run: Run) -> None:
        self._watcher.finished(spec, run)
        self.check()

    def made_elsewhere(self, spec: RunSpec, run: Run) -> None:
        self._watcher.made_elsewhere(spec, run)
        self.check()

    def check(self) -> None:
        """Raise NoGain where the base and full RL are there, with every seed, and full RL gained nothing."""
        if self._has_gained or not all(run_path(self._folder, FULL, seed).exists() for seed in self._seeds):
            return
        if why := why_no_gain(self._folder, self._seeds):
            count = sum(not path.exists() for path in self._rest)
            left = "The other run is" if count == 1 else f"The other {count} runs are"
            raise NoGain(
                f"{why}. {left} not made: the same command with --go-on goes on (in the recipe: on_no_gain = 'go on')"
            )
        self._has_gained = run_path(self._folder, BASE, 0).exists()


def _gain(before: pd.DataFrame, after: Sequence[pd.DataFrame]) -> Interval:
    """The gain of full RL over the items of the study, with its 95 % interval."""
    gains = np.stack([rows["score"].to_numpy() - before["score"].to_numpy() for rows in after])
    return Gains.from_items(gains[None], before["benchmark"].tolist()).contrast(np.ones(1)).interval()


def cause_of(curves: Sequence[pd.DataFrame], gain: Interval, references: dict[str, object], learns: str = "") -> str:
    """Return what the curves of full RL show, and what to change, in one sentence: the first cause that holds.

    `learns` says what a control learns from in the place of the task's rewards: its curves of rewards explain nothing.
    """
    curve = pd.concat(curves)
    equal, cut = curve["zero_spread_share"].mean(), curve["truncated_share"].mean()
    judged, failed = int(str(references.get("judged", 0))), references.get("failed", [])
    count = len(failed) if isinstance(failed, list) else 0
    if judged and count / judged > 0.05:
        return f"{count} of {judged} references fail their own judge: correct the task, or its data"
    if learns:
        return learns
    level = curve["reward_mean"].mean()
    if cut >= MOST:
        return (
            f"{cut:.0%} of the completions in training were cut at their limit of tokens (mean reward {level:.2f}): "
            f"raise rl.max_completion_tokens"
        )
    if equal >= MOST:
        which = "too hard" if level < 0.5 else "too easy"
        return (
            f"In {equal:.0%} of the groups all rewards were equal (mean {level:.2f}), and such a group teaches "
            f"nothing: the items are {which} for this model; choose others, or raise rl.completions_per_prompt"
        )
    if curve["grad_norm"].max() == 0:
        return "The gradient was 0 in every step: no reward differed within a group, or nothing that trains is used"
    first, last, error = _ends(curves)
    steps = max(len(one) for one in curves)
    if last - first > RISE_ERRORS * error:
        more = "more evaluation.items or samples may show it" if gain.value > 0 else "it does not carry over to them"
        return (
            f"The reward in training rose from {first:.3f} to {last:.3f}, the score on held-out items did not: {more}"
        )
    return (
        f"The reward in training did not rise ({first:.3f} to {last:.3f} in {steps} steps): more rl.steps, or another "
        f"rl.learning_rate"
    )


def _ends(curves: Sequence[pd.DataFrame]) -> tuple[float, float, float]:
    """The mean reward in the first and in the last fifth of the steps, and the standard error of their difference."""
    fifth = max(1, min(len(curve) for curve in curves) // 5)
    first = np.concatenate([curve["reward_mean"].to_numpy()[:fifth] for curve in curves])
    last = np.concatenate([curve["reward_mean"].to_numpy()[-fifth:] for curve in curves])
    error = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / len(first)) if len(first) > 1 else np.inf
    return float(first.mean()), float(last.mean()), float(error)

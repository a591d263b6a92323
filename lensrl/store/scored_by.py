"""Which score enters a contribution: the benchmarks that count, and how the samples of an item become its score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from lensrl.errors import LensrlError, StoreError, did_you_mean
from lensrl.measures.item_scores import Samples, item_means, item_scores
from lensrl.measures.score import mean_score
from lensrl.store.run import Run

ALL_BENCHMARKS = "all"


@dataclass(frozen=True)
class ScoredBy:
    """The score S in C_l: on which benchmarks, and how the samples of an item become its score.

    `benchmark` None takes the benchmarks of the study's task, as the score of a run does. A name takes one benchmark.
    `all` takes all of them, those of further tasks (`also` of the recipe) included. `score` is one of
    `lensrl.measures.item_scores.KINDS`.
    """

    benchmark: str | None = None
    score: str = "mean"

    def items(self, base: Run) -> pd.DataFrame:
        """Return the rows of the chosen items: item, benchmark. Raises LensrlError for an unknown benchmark."""
        return base.scores_by_item(also=True).loc[self._chosen(base), ["item", "benchmark"]].reset_index(drop=True)

    def scores(self, run: Run, base: Run, items: Int[np.ndarray, " chosen"]) -> Float64[np.ndarray, " chosen"]:
        """Return the scores of some of the chosen items. `items` are places in `items(base)`.

        Raises StoreError when the run was not scored on the items of the base.
        """
        if self.score != "mean":
            return item_scores(self.samples(run, base, items), self.score)
        return run.scored_items.score[self._paired(run, base)[items]]

    def samples(self, run: Run, base: Run, items: Int[np.ndarray, " chosen"]) -> Samples:
        """Return the samples of some of the chosen items, as `scores` does."""
        return run.samples().chosen(self._paired(run, base)[items])

    def score_of(self, run: Run) -> float:
        """Return the score of a run: the mean over the chosen benchmarks of the mean over their items."""
        items = self.items(run)
        return mean_score(self.scores(run, run, np.arange(len(items))), items["benchmark"].tolist())

    def length_and_truncated(self, run: Run) -> tuple[float, float]:
        """Return the mean length of a completion, in tokens, and the share of truncated ones: means as in a score.

        Both are NaN where scores were made elsewhere.
        """
        samples = run.samples().chosen(self._chosen(run))
        if samples.length is None or samples.truncated is None:
            return float("nan"), float("nan")
        benchmark = samples.benchmark.tolist()
        length, truncated = (
            mean_score(item_means(values.astype(np.float64), samples.there), benchmark)
            for values in (samples.length, samples.truncated)
        )
        return length, truncated

    def _paired(self, run: Run, base: Run) -> np.ndarray:
        """Return the places of the chosen items in a run's file. Raises StoreError for other items than the base's."""
        if run.scored_items.item != base.scored_items.item:
            raise StoreError(f"{run.path} was scored on other items than {base.path}; their scores cannot be paired")
        return np.flatnonzero(self._chosen(base))

    def _chosen(self, base: Run) -> np.ndarray:
        rows = base.scored_items
        if self.benchmark is None:
            return ~rows.also
        if self.benchmark == ALL_BENCHMARKS:
            return np.ones(len(rows.item), bool)
        names = list(dict.fromkeys(rows.benchmark))
        if self.benchmark not in names:
            raise LensrlError(
                f"there is no benchmark {self.benchmark!r}{did_you_mean(self.benchmark, [*names, ALL_BENCHMARKS])}"
            )
        return np.array(rows.benchmark) == self.benchmark


STUDY_SCORE = ScoredBy()  # the score of a run

"""The scores of a run, and the completions that were judged."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np
from jaxtyping import Bool, Float64

from lensrl.errors import LensrlError
from lensrl.measures.item_scores import Samples, item_means
from lensrl.measures.score import mean_score
from lensrl.store.completions import (
    COMPLETIONS,
    TRAINING_COMPLETIONS,
    read_completions,
    read_training_completions,
)
from lensrl.store.file.checked import (
    has,
    located,
)
from lensrl.store.file.completeness import COMPLETIONS_SINCE
from lensrl.store.old_names import table_method

if TYPE_CHECKING:  # all are imported where they are used: opening a run does without them
    import pandas as pd
from lensrl.store.run_file import RunFile


class ScoredItems(NamedTuple):
    """The items that a run was scored on, in the order of its file: those of further tasks (`also`) as well."""

    benchmark: list[str]
    item: list[str]
    score: Float64[np.ndarray, " item"]  # mean over samples; NaN for a text
    reference_logprob: Float64[np.ndarray, " item"]  # nats a token; NaN where scores were made elsewhere
    also: Bool[np.ndarray, " item"]  # of a further task


class RunScores(RunFile):
    """The part of a run that holds scores of items and samples, and completions."""

    @cached_property
    def has_scores(self) -> bool:
        """False for a run that diverged, and in a study that compares models on texts: it scores nothing."""
        with located(self.file, "scores"):
            return has(self.file, "scores/score")

    def scores_by_item(self, *, also: bool = False) -> pd.DataFrame:
        """Return a row per held-out item: benchmark, item, score (mean over samples), reference_logprob (nats a token).

        The score of a text is NaN: nothing judges it. Where scores were made elsewhere, the log-probability is NaN.
        With `also`, the items of further tasks (`also` of the recipe) follow, and a column `also` (bool) says which.
        """
        import pandas as pd

        rows = pd.DataFrame(self.scored_items._asdict())
        return rows if also else rows.loc[~rows["also"], ["benchmark", "item", "score", "reference_logprob"]]

    @property
    def items(self) -> pd.DataFrame:
        """The old name of `scores_by_item()`."""
        warnings.warn("Run.items is the old name of Run.scores_by_item()", DeprecationWarning, stacklevel=2)
        return self.scores_by_item()

    @cached_property
    def scored_items(self) -> ScoredItems:
        """What `scores_by_item(also=True)` returns, as arrays: a table of every run takes longer than all else."""
        with located(self.file, "scores"):
            group = self._group("scores", "no scores")
            benchmark = self._strings(group, "benchmark")
            unknown = np.full(len(benchmark), np.nan)
            known = has(group, "reference_logprob")
            found = ScoredItems(
                benchmark,
                self._strings(self.file, "item"),
                self._item_scores() if has(group, "score") else unknown,
                self._read(group, "reference_logprob").astype(np.float64) if known else unknown,
                self._also(group, len(benchmark)),
            )
            shapes = [*map(np.shape, found)]
            if {*shapes} != {(len(benchmark),)}:
                raise ValueError(f"its columns have the shapes {', '.join(map(str, shapes))}")
            return found

    @property
    def score(self) -> float:
        """The mean over benchmarks of the mean per-item score; NaN when the run has no scores."""
        if self._score is not None:
            return self._score
        return self.item_score() if self.has_scores else float("nan")

    def item_score(self) -> float:
        """Compute the score from the per-item scores, instead of reading it from the header."""
        with located(self.file, "scores"):
            group = self._group("scores", "no scores")
            benchmark, scores = np.array(self._strings(group, "benchmark")), self._item_scores()
            own = ~self._also(group, len(benchmark))
            if not len(benchmark) == len(own) == len(scores):
                raise ValueError(f"{len(benchmark)} items and {len(scores)} scores")
            return mean_score(scores[own], benchmark[own].tolist())

    def samples(self) -> Samples:
        """Return the scores of every sample of every item, those of further tasks included, in the order of the file.

        They are read once. Raises LensrlError for a run without scores.
        """
        return self._samples

    @cached_property
    def _samples(self) -> Samples:
        with located(self.file, "scores"):
            group = self._group("scores", "no scores")
            read = {name: self._read(group, name) for name in ("length", "truncated", "answer") if has(group, name)}
            return Samples(
                benchmark=np.array(self.scored_items.benchmark),
                score=self._score_of_samples.astype(np.float64),
                truncated=read["truncated"].astype(bool) if "truncated" in read else None,
                length=read["length"].astype(np.int64) if "length" in read else None,
                answer=read.get("answer"),
                reference_logprob=self.scored_items.reference_logprob,
            )

    @table_method
    def scores(self) -> pd.DataFrame:
        """Return one row per item and sample: benchmark, item, sample, score, length (tokens), truncated.

        The last two are missing where scores were made elsewhere. Further tasks (`also`) are left out: see `samples`.
        """
        import pandas as pd

        with located(self.file, "scores"):
            group = self._group("scores", "no scores")
            if not has(group, "score"):
                raise LensrlError(f"{self.path} has no scores: its study compares models on texts")
            score = self._score_of_samples
            n_items, n_samples = score.shape
            found = {
                "benchmark": np.repeat(self._strings(group, "benchmark"), n_samples),
                "item": np.repeat(self._strings(self.file, "item"), n_samples),
                "sample": np.tile(np.arange(n_samples), n_items),
                "score": score.reshape(-1),
            }
            if has(group, "length"):
                found["length"] = self._read(group, "length").reshape(-1)
                found["truncated"] = self._read(group, "truncated").reshape(-1).astype(bool)
            own = np.isfinite(score) & ~self._also(group, n_items)[:, None]
            return pd.DataFrame(found)[own.reshape(-1)].reset_index(drop=True)

    @cached_property
    def has_completions(self) -> bool:
        """False for a run that diverged, without scores of its own, or in a file of version 1 or 2."""
        with located(self.file, COMPLETIONS):
            return has(self.file, COMPLETIONS)

    @table_method
    def completions(self) -> pd.DataFrame:
        """Return every completion that was judged: one row per item and sample, further tasks (`also`) included.

        Columns: benchmark, item, sample, prompt, reference, completion, score, tokens, finished. In a task in turns, a
        completion is the transcript, with `> ` before each text of the model. Raises LensrlError for a run without
        completions.
        """
        if not self.has_completions:
            raise LensrlError(f"{self.path} has no completions: {self._no_completions()}")
        with located(self.file, COMPLETIONS):
            return read_completions(self.file)

    @table_method
    def training_completions(self) -> pd.DataFrame:
        """Return a few completions of a few training steps: step, item, prompt, completion, reward, tokens, finished.

        There are none where `store.training_completions` is 0, and in files of version 1 or 2.
        """
        with located(self.file, TRAINING_COMPLETIONS):
            return read_training_completions(self.file)

    def _no_completions(self) -> str:
        if not self.has_weights:
            return self.reason
        if self.format_version < COMPLETIONS_SINCE and self.has_scores:
            return f"its format version {self.format_version} kept none; move the file away and run its recipe again"
        return "its study samples none"

    @cached_property
    def _score_of_samples(self) -> np.ndarray:
        """The score of every item and sample; NaN where an item has fewer samples. Items and samples both need it."""
        return self._read(self._group("scores", "no scores"), "score")

    def _item_scores(self) -> np.ndarray:
        """The mean score of every item over its samples."""
        return item_means(self._score_of_samples, np.isfinite(self._score_of_samples))

    def _also(self, scores: h5py.Group, items: int) -> np.ndarray:
        """True for each item of a further task."""
        return self._read(scores, "also").astype(bool) if has(scores, "also") else np.zeros(items, bool)

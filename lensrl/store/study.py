"""A study: a folder of run files made from one recipe, read lazily."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from lensrl.errors import LensrlError, RecipeError, StoreError
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, FULL, run_layer
from lensrl.store.look import size, study_html
from lensrl.store.names import PATCH_FOLDER, RECIPE_FILE, order
from lensrl.store.patch import PatchResult, read_patch
from lensrl.store.run import Run
from lensrl.store.runs import Runs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# `lensrl.store.contributions` needs SciPy and pandas, half a second that opening a study does not need: the three
# methods that compute contributions import it.


class Study:
    """The runs of one recipe. Opening a study reads the headers of its run files and no array.

    >>> study = lensrl.open_study("runs/tiny")
    >>> study["full-rl"].scores()        # seed 0; study["full-rl", 2] for seed 2
    >>> study.runs                       # every run: status, score, gain, size; also damaged and missing runs
    >>> study.contributions()            # DataFrame: one row per layer
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            recipe = Path(f"{self.path}.toml")
            recipe = recipe if recipe.is_file() else "runs/tiny.toml"
            raise LensrlError(f"no study folder at {self.path}; make one with: lensrl run {recipe}")
        if not (self.path / RECIPE_FILE).is_file():
            raise LensrlError(f"{self.path} is not a study: it has no {RECIPE_FILE}; studies are made by lensrl run")
        self.name = self.path.resolve().name
        self.runs = Runs(self.path)
        self._patches: dict[Path, tuple[tuple[int, ...], set[str], list[dict[str, object]]]] = {}

    @property
    def broken(self) -> dict[str, str]:
        """File name -> the reason why the file cannot be read."""
        return {file: str(error) for file, error in self.runs.unreadable.items()}

    @property
    def recipe(self) -> Recipe:
        """The recipe. Its paths are absolute."""
        return self.runs.recipe

    @property
    def model(self) -> str:
        """The name of the base model in the recipe; in the runs, when the recipe cannot be read."""
        try:
            return self.recipe.model
        except RecipeError:
            return next((run.base for run in self.runs.values()), "unknown")

    @property
    def n_layers(self) -> int:
        """The number of layers of the model."""
        return self.runs.n_layers

    @property
    def layers(self) -> list[int]:
        """The layers that are trained alone: the layers in the recipe, and any other layer that has a run."""
        return self.runs.layers

    @property
    def seeds(self) -> list[int]:
        """The training seeds for which there is any run."""
        return self.runs.seeds

    def __getitem__(self, key: str | tuple[str, int]) -> Run:
        """Return a run by name (its lowest seed) or by (name, seed). The base is the same run for every seed.

        Raises LensrlError when there is no such run, with the reason: see `Runs.why_missing`.
        """
        name, seed = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        return self.runs.find(name, seed)

    def __contains__(self, key: object) -> bool:
        return key in self.runs or any(name == key for name, _ in self.runs)

    def scores(self, *, benchmark: str | None = None, score: str = "mean") -> pd.DataFrame:
        """Return one row per run and seed.

        Columns: run, seed, status, reason, score, gain (over the base), length (mean tokens per completion), truncated
        (the share of completions that were cut). The last two are NaN for a run without scores, or with scores that
        were made elsewhere. They are means over the samples of an item, then over items and benchmarks, as scores are.

        `benchmark` is the name of one, or `all`; by default, those of the study's task. `score` says how samples become
        scores: see `lensrl.store.scored_by.ScoredBy`.
        """
        import pandas as pd

        from lensrl.store.scored_by import ScoredBy

        by, kept = ScoredBy(benchmark, score), benchmark is None and score == "mean"  # kept: the header has this score
        base = by.score_of(self[BASE]) if not kept and self[BASE].has_scores else self[BASE].score
        rows = []
        for run in sorted(self.runs.values(), key=lambda run: order(run.name, run.seed)):
            length, truncated = by.length_and_truncated(run) if run.has_scores else (np.nan, np.nan)
            found = by.score_of(run) if not kept and run.has_scores else run.score
            rows.append({
                "run": run.name, "seed": run.seed, "status": run.status, "reason": run.reason, "score": found,
                "gain": found - base, "length": length, "truncated": truncated,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def contributions(
        self, seed: int | None = None, *, benchmark: str | None = None, score: str = "mean"
    ) -> pd.DataFrame:
        """Return C_l of every layer, over all seeds or for one: see `contributions.layer_contributions`.

        `benchmark` and `score` choose another score than the study's own: see `lensrl.store.scored_by.ScoredBy`.
        """
        from lensrl.store.contributions import layer_contributions
        from lensrl.store.scored_by import ScoredBy

        return layer_contributions(self.runs, seed, by=ScoredBy(benchmark, score))

    def contributions_by_benchmark(self, seed: int | None = None, *, score: str = "mean") -> pd.DataFrame:
        """Return C_l of every layer on the study's score (`task`), on each benchmark, and on all of them (`all`).

        The rows of `contributions`, with a column `benchmark` in front.
        """
        import pandas as pd

        names: dict[str, str | None] = {"task": None} | {name: name for name in self.benchmarks()["benchmark"]}
        tables = {
            name: self.contributions(seed, benchmark=benchmark, score=score)
            for name, benchmark in (names | {"all": "all"}).items()
        }
        return pd.concat([table.assign(benchmark=name) for name, table in tables.items()], ignore_index=True)[
            ["benchmark", *tables["task"].columns]
        ]

    def contributions_by_score(
        self, seed: int | None = None, *, benchmark: str | None = None, scores: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return C_l of every layer by several scores; by default by all of `possible_scores`.

        The rows of `contributions`, with a column `score` in front. If RL only made answers end below the token limit,
        C_l of `right-given-finished` is undefined or far from that of `mean`. Lengths are in `scores`.
        """
        import pandas as pd

        kinds = self.possible_scores(benchmark=benchmark) if scores is None else scores
        tables = {kind: self.contributions(seed, benchmark=benchmark, score=kind) for kind in kinds}
        return pd.concat([table.assign(score=kind) for kind, table in tables.items()], ignore_index=True)[
            ["score", *next(iter(tables.values())).columns]
        ]

    def possible_scores(self, *, benchmark: str | None = None) -> tuple[str, ...]:
        """Return the kinds of score that the samples of every run allow: see `lensrl.measures.item_scores.possible`."""
        from lensrl.measures.item_scores import possible
        from lensrl.store.scored_by import ScoredBy

        self.runs.check_scored()
        by, base = ScoredBy(benchmark), self[BASE]
        where = np.arange(len(by.items(base)))
        return possible([by.samples(run, base, where) for run in self.runs.values() if run.has_scores])

    def set_contributions(
        self, seed: int | None = None, *, benchmark: str | None = None, score: str = "mean"
    ) -> pd.DataFrame:
        """Return the contribution of every named set of layers: see `contributions.set_contributions`."""
        from lensrl.store.contributions import set_contributions
        from lensrl.store.scored_by import ScoredBy

        return set_contributions(self.runs, seed, by=ScoredBy(benchmark, score))

    def set_interactions(self, seed: int | None = None) -> pd.DataFrame:
        """Return what sets of layers do beyond their layers alone: see `interactions.set_interactions`."""
        from lensrl.store.interactions import set_interactions

        return set_interactions(self.runs, seed)

    def benchmarks(self) -> pd.DataFrame:
        """Return one row per benchmark, in the order of the items.

        Columns: benchmark, items, samples (per item), also (True for a further task, which is not in the score S).
        """
        base = self[BASE]
        rows = base.scores_by_item(also=True)[["benchmark", "also"]].assign(items=1)
        rows["samples"] = base.samples().there.sum(axis=1)
        return rows.groupby("benchmark", sort=False, as_index=False).agg(
            {"items": "sum", "samples": "first", "also": "first"}
        )

    def completions(self, run: str = FULL, seed: int = 0) -> pd.DataFrame:
        """Return the completions of a run beside those of the base: `Run.completions`, with further columns.

        `base_completion` and `base_score` are of the same item and sample; `item_score` and `base_item_score` are means
        over samples. Raises LensrlError where one of the two runs has no completions.
        """
        from lensrl.store.completions import beside

        return beside(self[run, seed].completions(), self[BASE].completions())

    def rate_control(self, seed: int | None = None) -> pd.DataFrame:
        """Return C_l with every layer, and full RL, at its best learning rate: see `contributions.rate_control`."""
        from lensrl.store.contributions import rate_control

        return rate_control(self.runs, seed)

    def clipped_steps(self, seed: int | None = None) -> pd.DataFrame:
        """Return how often and how much the gradients of each run were clipped: see `clipping.clipped_steps`."""
        from lensrl.store.clipping import clipped_steps

        return clipped_steps(self.runs, seed)

    def patches(self) -> pd.DataFrame:
        """Return every stored patching result, one row per metric: see `PatchResult.rows`.

        Results of runs that were made again later are left out. Damaged files are left out, too, and listed in
        `broken`.
        """
        import pandas as pd

        rows: list[dict[str, object]] = []
        current = {run.run_id for run in self.runs.values()}
        for file in sorted((self.path / PATCH_FOLDER).glob("*.h5")):
            try:
                sources, found = self._patch_rows(file)
            except StoreError as error:
                self.runs.note_unreadable(f"{PATCH_FOLDER}/{file.name}", error)
            else:
                rows += found if current.issuperset(sources) else []
        table = pd.DataFrame(rows, columns=PatchResult.COLUMNS)
        return table.sort_values(["what", "component", "into", "layer"], ignore_index=True)

    def _patch_rows(self, file: Path) -> tuple[set[str], list[dict[str, object]]]:
        """Return the ids of the runs of a stored result, and its rows. A file is read again when it was replaced."""
        now = file.stat()
        stamp = now.st_ino, now.st_size, now.st_mtime_ns
        if file not in self._patches or self._patches[file][0] != stamp:
            result = read_patch(file)
            self._patches[file] = stamp, set(result.sources.values()), list(result.rows())
        return self._patches[file][1:]

    def plot(self, **options: Any) -> Axes:
        """Draw the layer contributions: `lensrl.plot.contributions`, which explains `options`, among them `ax`."""
        return import_module("lensrl").plot.contributions(self, **options)  # the store itself knows no figure

    def close(self) -> None:
        """Close the files of all runs."""
        self.runs.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Study], tuple[Path]]:
        return Study, (self.path.absolute(),)

    def __repr__(self) -> str:
        return f"<Study {self.name}: {len(self.runs)} runs, seeds {self.seeds}, model {self.model}>\n{self.runs!r}"

    def _repr_html_(self) -> str:
        rows = self.runs.rows()
        seeds = ", ".join(map(str, self.seeds)) or "none"
        about = f"model {self.model}, seeds {seeds}, {size(sum(row['bytes'] for row in rows))}"
        # The mean gain of each run over the seeds that have one.
        measured: dict[str, list[float]] = {}
        for row in rows:
            if not np.isnan(row["gain"]):
                measured.setdefault(row["run"], []).append(row["gain"])
        gains = {row["run"]: float(np.mean(measured.get(row["run"], np.nan))) for row in rows}
        of_layers = {layer: gain for run, gain in gains.items() if (layer := run_layer(run)) is not None}
        full = gains.get(FULL, float("nan"))
        return study_html(self.name, about, {} if np.isnan(full) else of_layers, full, rows)

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        return self.runs._ipython_key_completions_()


def open_study(path: str | Path) -> Study:
    """Open a study folder for reading. Raises LensrlError when the folder is not a study."""
    return Study(path)

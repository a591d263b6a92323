"""Reading a study: a folder of run files made from one recipe."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError, RecipeError, StoreError
from lensrl.recipe import Recipe
from lensrl.recipe.runs import BASE, FULL, run_layer
from lensrl.store.contributions import layer_contributions, rate_control, set_contributions
from lensrl.store.look import size, study_html
from lensrl.store.names import PATCH_FOLDER, RECIPE_FILE, order
from lensrl.store.patch import PatchResult, read_patch
from lensrl.store.run import Run
from lensrl.store.runs import Runs


class Study:
    """The runs of one recipe. Opening it reads the headers of its run files and no array.

    >>> study = lensrl.open_study("runs/tiny")
    >>> study["full-rl"].scores          # seed 0; study["full-rl", 2] for seed 2
    >>> study.runs                       # every run: status, score, gain, size; also what is damaged or missing
    >>> study.contributions()            # DataFrame: one row per layer
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise LensrlError(f"no study folder at {self.path}; make one with: lensrl run runs/tiny.toml")
        if not (self.path / RECIPE_FILE).is_file():
            raise LensrlError(f"{self.path} is not a study: it has no {RECIPE_FILE}; studies are made by lensrl run")
        self.name = self.path.resolve().name
        self.runs = Runs(self.path)

    @property
    def broken(self) -> dict[str, str]:
        """File name -> why it cannot be read."""
        return {file: str(error) for file, error in self.runs.unreadable.items()}

    @property
    def recipe(self) -> Recipe:
        """The recipe, with its paths resolved."""
        return self.runs.recipe

    @property
    def model(self) -> str:
        """The base model, as the recipe names it; as the runs do where the recipe cannot be read."""
        try:
            return self.recipe.model
        except RecipeError:
            return next((run.base for run in self.runs.values()), "unknown")

    @property
    def n_layers(self) -> int:
        """How many layers the model has."""
        return self.runs.n_layers

    @property
    def layers(self) -> list[int]:
        """The layers trained alone: those that the recipe asks for, and any others that have a run."""
        return self.runs.layers

    @property
    def seeds(self) -> list[int]:
        """The training seeds that have any run."""
        return self.runs.seeds

    def __getitem__(self, key: str | tuple[str, int]) -> Run:
        """A run by name (the lowest seed that it has) or by (name, seed). The base is the same for every seed.

        Raises LensrlError with the reason why there is none: see `Runs.why_missing`.
        """
        name, seed = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        return self.runs.find(name, seed)

    def __contains__(self, key: object) -> bool:
        return key in self.runs or any(name == key for name, _ in self.runs)

    def scores(self) -> pd.DataFrame:
        """One row per run and seed: run, seed, status, reason, score, gain over the base, length, truncated."""
        base = self[BASE].score
        rows = []
        for run in sorted(self.runs.values(), key=lambda run: order(run.name, run.seed)):
            samples = run.scores if run.has_scores else None
            rows.append({
                "run": run.name,
                "seed": run.seed,
                "status": run.status,
                "reason": run.reason,
                "score": run.score,
                "gain": run.score - base,
                "length": np.nan if samples is None else samples["length"].mean(),
                "truncated": np.nan if samples is None else samples["truncated"].mean(),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def contributions(self, seed: int | None = None) -> pd.DataFrame:
        """C_l of every layer that was asked for, over all seeds or for one: see `layer_contributions`."""
        return layer_contributions(self.runs, seed)

    def set_contributions(self, seed: int | None = None) -> pd.DataFrame:
        """The contribution of every named set of layers: see `lensrl.store.contributions.set_contributions`."""
        return set_contributions(self.runs, seed)

    def rate_control(self, seed: int | None = None) -> pd.DataFrame:
        """C_l with every layer, and full RL, at the learning rate that suits it best: see `rate_control` there."""
        return rate_control(self.runs, seed)

    def patches(self) -> pd.DataFrame:
        """Every stored patching result, one row per metric; see `PatchResult.rows`.

        Left out: results of runs that have been replaced since, and damaged files, which are listed in `broken`.
        """
        rows: list[dict[str, object]] = []
        current = {run.run_id for run in self.runs.values()}
        for file in sorted((self.path / PATCH_FOLDER).glob("*.h5")):
            try:
                result = read_patch(file)
            except StoreError as error:
                self.runs.note_unreadable(f"{PATCH_FOLDER}/{file.name}", error)
            else:
                rows += result.rows() if current.issuperset(result.sources.values()) else []
        columns = PatchResult.COLUMNS
        return pd.DataFrame(rows, columns=columns).sort_values(
            ["what", "component", "into", "layer"], ignore_index=True
        )

    def close(self) -> None:
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
        table = self.runs.table()
        seeds = ", ".join(map(str, self.seeds)) or "none"
        about = f"model {self.model}, seeds {seeds}, {size(int(table['bytes'].sum()))}"
        gains = {run: float(part.mean()) for run, part in table.groupby("run")["gain"]}
        of_layers = {layer: gain for run, gain in gains.items() if (layer := run_layer(str(run))) is not None}
        full = gains.get(FULL, float("nan"))
        return study_html(self.name, about, of_layers if not np.isnan(full) else {}, full, table)

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        return self.runs._ipython_key_completions_()


def open_study(path: str | Path) -> Study:
    """Open a study folder for reading. Raises LensrlError when it is none."""
    return Study(path)

"""Reading a study: a folder of run files made from one recipe."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd

from lensrl.errors import LensrlError, RecipeError, StoreError, did_you_mean
from lensrl.layers import BASE, parse_layers, run_layer
from lensrl.recipe import Recipe, read_kept_recipe
from lensrl.store.contributions import layer_contributions, rate_control, set_contributions
from lensrl.store.listing import NOT_READ, Runs, key_completions, list_study, order
from lensrl.store.patch import PatchResult, is_patch, read_patch
from lensrl.store.run import Run

RECIPE_FILE = "recipe.json"
PATCH_FOLDER = "patches"


def run_path(folder: Path, run: str, seed: int) -> Path:
    """`base.h5` (the base has no training seed), `layer-3.seed-0.h5`."""
    return folder / (f"{BASE}.h5" if run == BASE else f"{run}.seed-{seed}.h5")


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
        self.runs = Runs(self)
        self.unreadable: dict[str, StoreError] = {}  # by file name; see `broken`
        for file in sorted(self.path.glob("*.h5"), key=lambda f: (f.name != f"{BASE}.h5", f.name)):
            try:
                run = Run(file)
            except StoreError as error:
                if not is_patch(file):
                    self._leave(file.name, error)
            else:
                self._take(run)

    @property
    def broken(self) -> dict[str, str]:
        """File name -> why it cannot be read."""
        return {file: str(error) for file, error in self.unreadable.items()}

    def _leave(self, file: str, error: StoreError) -> None:
        """Keep why a file cannot be read, without the traceback, whose frames would keep the file open."""
        self.unreadable[file] = type(error)(str(error))

    def _take(self, run: Run) -> None:
        """Keep a run that is what its file's name says and comes from this study's base, which is read first."""
        base = next((known for (name, _), known in self.runs.items() if name == BASE), run)
        if run.path != run_path(self.path, run.name, run.seed):
            why = f"{run.path} holds the run {run.name} with seed {run.seed}: rename it back"
        elif run.fingerprint != base.fingerprint:
            why = (
                f"{run.path} was made from another base model (fingerprint {run.fingerprint[:12]}) than "
                f"{base.path.name} ({base.fingerprint[:12]}); move it out of this study and run again"
            )
        else:
            self.runs[run.name, run.seed] = run
            return
        self._leave(run.path.name, StoreError(why))
        run.close()

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with its paths resolved."""
        return read_kept_recipe(self.path / RECIPE_FILE)

    @property
    def model(self) -> str:
        """The base model, as the recipe names it; as the runs do where the recipe cannot be read."""
        try:
            return self.recipe.model
        except RecipeError:
            return next((run.base for run in self.runs.values()), "unknown")

    @property
    def n_layers(self) -> int:
        return self[BASE].n_layers

    @property
    def seeds(self) -> list[int]:
        """The training seeds that have any run."""
        return sorted({seed for name, seed in self.runs if name != BASE})

    def __getitem__(self, key: str | tuple[str, int]) -> Run:
        """A run by name (the lowest seed that it has) or by (name, seed). The base is the same for every seed.

        Raises LensrlError that says why there is none: see `absence`.
        """
        name, seed = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        found = {s: run for (n, s), run in self.runs.items() if n == name}
        if name == BASE and found:
            return next(iter(found.values()))
        if found and seed is None:
            return found[min(found)]
        if seed in found:
            return found[seed]
        raise self.absence(name, seed)

    def absence(self, name: str, seed: int | None = None) -> LensrlError:
        """Why there is no such run to read: its file is damaged or too new, it is still to be made, or unknown."""
        for file, error in self.unreadable.items():
            if file.startswith(f"{name}." if seed is None else (f"{name}.h5", f"{name}.seed-{seed}.")):
                return type(error)(str(error))
        for row in list_study(self).to_dict("records"):
            if row["run"] == name and seed in (None, row["seed"]) and row["status"] in NOT_READ:
                return LensrlError(
                    f"study {self.path} has no run {name!r} with seed {row['seed']}: {row['status']}, {row['reason']}"
                )
        seeds = sorted(s for n, s in self.runs if n == name)
        if seeds:
            return LensrlError(f"study {self.path} has no {name} with seed {seed}; it has seeds {seeds}")
        return LensrlError(
            f"study {self.path} has no run {name!r}{did_you_mean(str(name), dict.fromkeys(n for n, _ in self.runs))}"
        )

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
        return layer_contributions(self, seed)

    def set_contributions(self, seed: int | None = None) -> pd.DataFrame:
        """The contribution of every named set of layers: see `lensrl.store.contributions.set_contributions`."""
        return set_contributions(self, seed)

    def rate_control(self, seed: int | None = None) -> pd.DataFrame:
        """C_l with every layer, and full RL, at the learning rate that suits it best: see `rate_control` there."""
        return rate_control(self, seed)

    @property
    def layers(self) -> list[int]:
        """The layers trained alone: those that the recipe asks for, and any others that have a run."""
        made = [layer for name, _ in self.runs if (layer := run_layer(name)) is not None]
        return sorted({*parse_layers(self.recipe.layers, self.n_layers), *made})

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
                self._leave(f"{PATCH_FOLDER}/{file.name}", error)
            else:
                rows += result.rows() if current.issuperset(result.sources.values()) else []
        columns = PatchResult.COLUMNS
        return pd.DataFrame(rows, columns=columns).sort_values(
            ["what", "component", "into", "layer"], ignore_index=True
        )

    def close(self) -> None:
        for run in self.runs.values():
            run.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Study], tuple[Path]]:
        return Study, (self.path.absolute(),)

    def __repr__(self) -> str:
        return f"<Study {self.name}: {len(self.runs)} runs, seeds {self.seeds}, model {self.model}>\n{self.runs!r}"

    def _repr_html_(self) -> str:
        from lensrl.store.html import study_html

        return study_html(self)

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        return key_completions(self.runs)


def open_study(path: str | Path) -> Study:
    """Open a study folder for reading. Raises LensrlError when it is none."""
    return Study(path)
